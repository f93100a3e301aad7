"""Losses against nnU-Net 2.8.1's own values (reference_losses.json), and against formulas spelled out here."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autounet.losses import sums
from autounet.losses.level import Targets
from autounet.losses.maps import border_weights, skeletons
from autounet.losses.segmentation import SegmentationLoss, level_weights
from autounet.losses.sums import softmax_sums, truth_sums
from planners.labels import LabelClass, Labels, Region
from planners.plan import Loss, LossTerm

REFERENCE = json.loads((Path(__file__).parent / "reference_losses.json").read_text())
CLASSES = tuple(LabelClass(name=f"c{i}", value=i) for i in range(4))
REGIONS = (
    Region(name="whole", values=(1, 2, 3), paint=1),
    Region(name="core", values=(2, 3), paint=2),
    Region(name="active", values=(3,), paint=3),
)


def random_case():
    """The numbers that the reference was given."""
    rng = np.random.RandomState(3)
    logits = torch.from_numpy(rng.standard_normal((2, 4, 6, 8, 8)) * 2).float()
    truth = torch.from_numpy(rng.randint(0, 4, (2, 6, 8, 8)))
    sparse = truth.clone()
    sparse[torch.from_numpy(rng.rand(2, 6, 8, 8)) < 0.6] = 4
    levels = [logits, *(torch.from_numpy(rng.standard_normal(shape)).float() for shape in ((2, 4, 3, 4, 4), (2, 4, 2, 2, 2)))]
    return logits, truth, sparse, levels


def loss_of(kinds=("dice", "cross_entropy"), *, regions=False, ignore=False, batch=False, weights=(1.0,)):
    labels = Labels(classes=CLASSES, regions=REGIONS if regions else (), ignore=9 if ignore else None)
    terms = tuple(LossTerm(kind=k) for k in kinds)
    return SegmentationLoss(loss=Loss(terms=terms, batch_dice=batch, level_weights=weights), labels=labels)


@pytest.mark.parametrize(("kind", "labelled", "dice"), list(product(("softmax", "regions"), ("all", "ignore"), ("sample", "batch"))))
def test_value_and_gradient_are_the_references(kind, labelled, dice):
    value, norm, some = REFERENCE[f"{kind}_{labelled}_{dice}"]
    logits, truth, sparse, _ = random_case()
    logits = (logits[:, :3] if kind == "regions" else logits).clone().requires_grad_()
    loss = loss_of(regions=kind == "regions", ignore=labelled == "ignore", batch=dice == "batch")
    result = loss(logits, Targets(classes=sparse if labelled == "ignore" else truth))
    result.total.backward()
    assert float(result.total.detach()) == pytest.approx(value, abs=2e-6)
    assert float(logits.grad.norm()) == pytest.approx(norm, rel=1e-4)
    np.testing.assert_allclose(logits.grad.flatten()[::400].numpy(), some, atol=1e-7)


def test_deep_supervision_weighs_levels_whose_truth_is_the_nearest_voxel():
    _, truth, _, levels = random_case()
    loss = loss_of(weights=(4 / 7, 2 / 7, 1 / 7))
    assert float(loss(levels, Targets(classes=truth)).total) == pytest.approx(REFERENCE["deep"][0], abs=2e-6)


def test_the_hardest_tenth_is_the_references():
    logits, truth, _, _ = random_case()
    assert float(loss_of(("topk",))(logits, Targets(classes=truth)).total) == pytest.approx(REFERENCE["topk"][0], abs=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_sums_block_by_block_equal_those_of_a_one_hot_target(layout, monkeypatch):
    monkeypatch.setattr(sums, "BLOCK_VALUES", 64)  # many blocks, the last of them short
    logits, _, sparse, _ = random_case()
    logits = logits.double().float().contiguous(memory_format=layout).requires_grad_()
    weights = [torch.randn(2, 4), torch.randn(2, 4), torch.randn(2)]
    found = softmax_sums(logits, sparse)
    sum((w * f).sum() for w, f in zip(weights, found, strict=True)).backward()
    gradient, logits.grad = logits.grad, None
    p = logits.softmax(1)
    hot = functional.one_hot(sparse, 5)[..., :4].movedim(-1, 1).float()
    valid = (sparse < 4)[:, None]
    plain = ((p * hot).sum((2, 3, 4)), (p * valid).sum((2, 3, 4)), (logits.log_softmax(1) * hot).sum((1, 2, 3, 4)))
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    sum((w * f).sum() for w, f in zip(weights, plain, strict=True)).backward()
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(truth_sums(sparse, 4), hot.sum((2, 3, 4)))


def test_the_gradient_of_the_sums_is_right_by_finite_differences():
    logits = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    truth = torch.tensor([0, 1, 2, 2, 1, 0, 5, 1]).view(1, 2, 2, 2)

    def value(at):
        inside, predicted, loglike = softmax_sums(at, truth)
        return float((inside * torch.tensor([[0.3, -1.0, 2.0]])).sum() + 0.7 * predicted[0, 1] + 0.2 * loglike.sum())

    inside, predicted, loglike = softmax_sums(logits, truth)
    ((inside * torch.tensor([[0.3, -1.0, 2.0]])).sum() + 0.7 * predicted[0, 1] + 0.2 * loglike.sum()).backward()
    for index in ((0, 0, 0, 0, 0), (0, 2, 1, 0, 1), (0, 1, 1, 1, 0), (0, 1, 1, 1, 1)):
        step = torch.zeros_like(logits)
        step[index] = 1e-2
        slope = (value(logits.detach() + step) - value(logits.detach() - step)) / 2e-2
        assert float(logits.grad[index]) == pytest.approx(slope, abs=2e-4)


def test_a_perfect_prediction_costs_minus_one():
    _, truth, _, _ = random_case()
    logits = functional.one_hot(truth, 4).movedim(-1, 1).float() * 50
    assert float(loss_of()(logits, Targets(classes=truth)).total) == pytest.approx(-1.0, abs=1e-4)


def test_a_batch_without_any_annotated_voxel_teaches_nothing_and_is_finite():
    logits = random_case()[0].requires_grad_()
    result = loss_of(ignore=True)(logits, Targets(classes=torch.full((2, 6, 8, 8), 4)))
    result.total.backward()
    assert torch.isfinite(result.total)
    assert float(logits.grad.abs().max()) == 0


def test_a_class_nobody_drew_is_neither_rewarded_nor_punished_where_background_stands():
    logits, truth, _, _ = random_case()
    truth = torch.where(truth == 3, 0, truth)  # class 3 was never drawn: its voxels read background
    annotated = torch.tensor([[True, True, True, False]] * 2)
    pushed = logits.clone()
    background = logits[:, 0].exp() + logits[:, 3].exp()
    share = 0.9  # move what is background or class 3 from one to the other
    pushed[:, 0], pushed[:, 3] = (background * (1 - share)).log(), (background * share).log()
    loss = loss_of()
    targets = Targets(classes=truth, annotated_bk=annotated)
    assert float(loss(pushed, targets).total) == pytest.approx(float(loss(logits, targets).total), abs=1e-5)


def test_cases_with_all_classes_drawn_score_the_same_with_and_without_saying_so():
    logits, truth, _, _ = random_case()
    everything = torch.ones(2, 4, dtype=torch.bool)
    for regions in (False, True):
        scores, loss = (logits[:, :3] if regions else logits), loss_of(regions=regions)
        said = loss(scores, Targets(classes=truth, annotated_bk=everything)).total
        assert float(said) == pytest.approx(float(loss(scores, Targets(classes=truth)).total), abs=1e-5)


def test_an_unannotated_class_of_one_sample_leaves_batch_dice_to_the_others():
    _, truth, _, _ = random_case()
    truth[0] = torch.where(truth[0] == 3, 0, truth[0])
    logits = functional.one_hot(truth, 4).movedim(-1, 1).float() * 50
    annotated = torch.tensor([[True, True, True, False], [True] * 4])
    result = loss_of(("dice",), batch=True)(logits, Targets(classes=truth, annotated_bk=annotated))
    assert float(result.total) == pytest.approx(-1.0, abs=1e-4)


def test_tversky_charges_a_miss_more_than_an_excess():
    truth = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    truth[..., 3:7] = 1
    few, many = truth.clone(), truth.clone()
    few[..., 3:5], many[..., 7:9] = 0, 1
    loss = loss_of(("tversky",))
    cost = [float(loss(functional.one_hot(p, 4).movedim(-1, 1).float() * 50, Targets(classes=truth)).total) for p in (few, many)]
    assert cost[0] > cost[1]


def test_focal_loss_is_cross_entropy_times_the_square_of_the_doubt():
    logits, truth, _, _ = random_case()
    entropy = functional.cross_entropy(logits, truth, reduction="none")
    expected = ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()
    assert float(loss_of(("focal",))(logits, Targets(classes=truth)).total) == pytest.approx(float(expected), rel=1e-5)


def test_border_weights_are_the_formula_of_2015_between_two_cells():
    label = np.zeros((1, 20, 40), np.int16)
    label[0, 5:15, 4:14] = label[0, 5:15, 18:28] = 1
    weights = border_weights(label, 2)
    # Column 15 of row 10: two voxels behind the first cell (its last column is 13), three before the second (18).
    assert weights[0, 10, 15] == pytest.approx(1 + 10 * np.exp(-((2 + 3) ** 2) / 50), rel=1e-6)
    assert weights[0, 10, 8] == 1
    assert weights[0, 10, 39] == pytest.approx(1 + 10 * np.exp(-((12 + 26) ** 2) / 50), abs=1e-3)


def test_the_skeleton_of_a_bar_runs_along_its_middle():
    label = np.zeros((1, 15, 40), np.int16)
    label[0, 4:11, 2:38] = 1
    bones = skeletons(label, 2)[0]
    assert bones[7, 8:32].all()
    assert not bones[4, 8:32].any()
    assert not bones[10, 8:32].any()
    assert bones.sum() < 0.6 * label.sum()


def test_skeleton_recall_counts_a_break_more_than_a_thin_rim():
    label = np.zeros((1, 15, 40), np.int16)
    label[0, 4:11, 2:38] = 1
    bones = torch.from_numpy(skeletons(label, 2))[None]
    truth = torch.from_numpy(label).long()[None]
    thin, broken = truth.clone(), truth.clone()
    thin[:, :, 4], broken[..., 16:22] = 0, 0  # 36 voxels of the rim, 42 across
    labels = Labels(classes=CLASSES[:2])
    loss = SegmentationLoss(loss=Loss(terms=(LossTerm(kind="skeleton_recall"),)), labels=labels)
    cost = [
        float(loss(functional.one_hot(p, 2).movedim(-1, 1).float() * 50, Targets(classes=truth, skeleton=bones)).total)
        for p in (thin, broken)
    ]
    assert cost[0] == pytest.approx(-1.0, abs=1e-3)
    assert cost[1] > -0.9


def test_level_weights_sum_to_one_and_a_single_level_has_all():
    assert level_weights((0.5, 0.25), 3) == (2 / 3, 1 / 3, 0.0)
    assert level_weights((0.0,), 1) == (1.0,)
