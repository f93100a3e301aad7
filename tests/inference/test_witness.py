"""Who looks on sees what the networks say: compared with all probabilities, kept for once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from autounet.images.geometry import geometry_from_affine
from autounet.inference import witness as module
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.held_out import numbers_of
from autounet.inference.settings import Member
from autounet.inference.votes_to_labels import Decision
from autounet.inference.witness import Jury, Onlooker, Picks
from autounet.metrics.opinions import JointOpinion, Sample
from autounet.store.selection import Chosen
from planners.labels import LabelClass, Labels
from tests.tiny_models import configuration, plan_of, regions, smooth

SHAPE = (14, 18, 22)
LPS = geometry_from_affine(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))  # turned, and not on the network's spacing


class Channels(torch.nn.Module):
    """Answers some of its channels."""

    def __init__(self, first: int, heads: int) -> None:
        super().__init__()
        self.own = slice(first, first + heads)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, self.own]


def ensemble(labels=None, weights=(1.0,)):
    """A configuration a weight, in two and three dimensions; each answers its own channels."""
    kinds = [configuration((8, 8, 8)), configuration((1, 16, 16), "2d")][: len(weights)]
    heads = (labels or plan_of(kinds[0]).labels).heads
    plan = plan_of(*kinds, channels=heads * len(weights), labels=labels)
    members = {c.name: [Member(Channels(heads * i, heads).eval(), c)] for i, c in enumerate(kinds)}
    chosen = [Chosen(configuration=c.name, folds=(0,), weight=w) for c, w in zip(kinds, weights, strict=True)]
    return Ensemble(plan, members, chosen)


def case(asked, witness):
    image = smooth((len(asked.plan.channels), *SHAPE), 0, sigma=1.5)
    image[:, :2] = 0  # cropped away
    return predict_case(asked, image, LPS, Options(probabilities=True, threads=1), witness)


def sums(probabilities, label, softmax):
    """Expected overlap, mask and truth of each target, the slow way."""
    rows = []
    for head in range(1 if softmax else 0, len(probabilities)):
        inside = label == head if softmax else probabilities[head] > 0.5
        rows.append((probabilities[head][inside].sum(), inside.sum(), probabilities[head].sum()))
    return np.array(rows)


@pytest.mark.parametrize("labels", [None, regions()])
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.0)])
def test_the_expected_overlap_is_that_of_all_probabilities(labels, weights):
    asked = ensemble(labels, weights)
    decision = Decision.of(asked.plan.labels)
    seen = Onlooker(decision, weights)
    found = case(asked, seen)
    kept = found.probabilities_kzyx[:, 2:]
    expected = sums(kept, found.label_zyx[2:], decision.softmax)
    assert_allclose([(e.both, e.predicted, e.true) for e in seen.expected], expected, rtol=1e-4)


def test_a_large_image_is_looked_at_in_some_of_its_rows(monkeypatch):
    asked = ensemble()
    whole, some = Onlooker(Decision.of(asked.plan.labels)), Onlooker(Decision.of(asked.plan.labels))
    full = case(asked, whole)
    monkeypatch.setattr(module, "LOOKED_AT", 3 * int(np.prod(SHAPE)) // 3)
    found = case(asked, some)
    assert some.stride == 3
    assert_array_equal(found.label_zyx, full.label_zyx)
    ratios = [a.true / b.true for a, b in zip(some.expected, whole.expected, strict=True)]
    assert all(0.2 < ratio < 0.5 for ratio in ratios)
    rows = range(0, 12, 3)  # of the crop, from the feet up
    picked = np.concatenate([found.probabilities_kzyx[1, 2 + row].ravel() for row in rows])
    assert_allclose(some.expected[0].true, picked.sum(), rtol=1e-4)


def test_picked_voxels_remember_what_was_said_of_them():
    labels = Labels(classes=tuple(LabelClass(name=n, value=v) for n, v in (("background", 0), ("a", 1), ("b", 2))), ignore=9)
    asked = ensemble(labels)
    truth = np.zeros(SHAPE, np.uint8)
    truth[6:10, 6:10, 6:10] = 2
    truth[6:8, 6:8, 6:8] = labels.ignore_index
    picks = Picks(truth, labels, seed=1)
    seen = Onlooker(Decision.of(labels), picks=picks)
    found = case(asked, seen)
    sample = picks.sample()
    assert len(sample.truth) == len(sample.shares) == min(256, 6**3 - 8)
    assert labels.ignore_index not in sample.truth
    places = {
        int(n) - 1: tuple(int(i) for i in where)
        for *where, n in zip(*np.nonzero(picks.number_zyx), picks.number_zyx[picks.number_zyx > 0], strict=True)
    }
    for number, said in sorted(picks.said.items()):
        z, y, x = places[number]
        assert min(z, y, x) >= 5
        assert max(z, y, x) <= 10  # a voxel around the structures
        assert_allclose(said[0], found.probabilities_kzyx[:, z, y, x], rtol=1e-3, atol=1e-6)
        assert picks.truth[number] == truth[z, y, x]
    again = Picks(truth, labels, seed=1)
    assert_array_equal(again.number_zyx, picks.number_zyx)


def test_a_jury_decides_as_each_of_its_weightings_would():
    asked = ensemble(weights=(1.0, 1.0))
    weightings = [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0)]
    jury = Jury(Decision.of(asked.plan.labels), weightings, SHAPE, None)
    case(asked, jury)
    for index, (first, second) in enumerate(weightings):
        chosen = [replace(c, weight=w) for c, w in zip(asked.chosen, (first, second), strict=True) if w]
        alone = case(Ensemble(asked.plan, asked.members, chosen), None)
        assert_array_equal(jury.labels_zyx[index], alone.label_zyx)
        expected = sums(alone.probabilities_kzyx[:, 2:], alone.label_zyx[2:], True)
        assert_allclose([(e.both, e.predicted, e.true) for e in jury.expected(index)], expected, rtol=1e-4)


def test_a_team_says_the_weighted_mean_of_its_members():
    one, two = Sample(truth=(1,), shares=((0.2, 0.8),)), Sample(truth=(1,), shares=((0.6, 0.4),))
    opinion = JointOpinion(made_of="", voxel_mm3=1.0, configurations=("a", "b"), samples=(one, two), teams=())
    assert_allclose(opinion.sample(("b", "a"), (0.25, 0.75)).shares, [[0.3, 0.7]])
    assert opinion.sample(("a",), (1.0,)).shares == one.shares


def test_values_of_a_mask_become_class_numbers():
    labels = Labels(classes=tuple(LabelClass(name=n, value=v) for n, v in (("background", 0), ("b", 7), ("a", 3))))
    assert numbers_of(np.array([0, 3, 7, 5, 200]), labels).tolist() == [0, 2, 1, 0, 0]
    plain = Labels(classes=tuple(LabelClass(name=str(v), value=v) for v in range(3)))
    assert numbers_of(np.array([0, 2, 1]), plain).tolist() == [0, 2, 1]
    assert numbers_of(np.array([0, 2, 9]), plain).tolist() == [0, 2, 0]
