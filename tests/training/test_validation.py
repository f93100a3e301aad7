"""Scores on the way, by one process and by several."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from autounet import stop
from autounet.training import validation
from autounet.training.distributed import Rank, adding
from autounet.training.validation import quick_score
from tests.training.tiny import case, recipe

MADE = recipe()
CASES = {name: case(seed, (16, 16, 16)) for seed, name in enumerate("abc")}


class ByIntensity(nn.Module):
    """Calls what is bright a ball, and nothing a box."""

    def forward(self, image):
        return torch.cat((torch.full_like(image, 0.75), image, torch.full_like(image, -9.0)), 1)


def score(rank=Rank()):  # noqa: B008 - a frozen value
    return quick_score(MADE.plan, MADE.configuration, CASES, lambda name: None, ByIntensity().eval(), rank)


def by_hand():
    both = inside = 0
    for held in CASES.values():
        found, true = held.image_czyx[0] > 0.75, held.label_zyx == 1
        inside += 2 * np.sum(found & true)
        both += np.sum(found) + np.sum(true)
    return inside / both


def test_a_score_is_of_the_voxels_of_all_cases_together():
    mean, targets = score()
    assert dict(targets) == {"ball": pytest.approx(by_hand()), "box": 0.0}
    assert mean == pytest.approx(by_hand() / 2)
    assert 0.5 < by_hand() < 1


def in_turn(monkeypatch, count, others):
    """The ranks one after another: each adds what the earlier ones counted."""

    @contextmanager
    def turn(rank):
        def add(numbers):
            others.append(numbers.copy())
            return sum(others[1:], others[0])

        yield add

    monkeypatch.setattr(validation, "adding", turn)
    return [Rank(number, count) for number in range(count)]


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_share_out_the_cases_and_the_last_one_knows_the_score_of_one_process(monkeypatch, count):
    alone, counts, scores = score(), [], []
    for rank in in_turn(monkeypatch, count, counts):
        scores.append(score(rank))
    assert scores[-1] == alone
    assert scores[0] != alone
    assert len(counts) == count  # a rank without a case adds nothing, and adds it


def test_if_one_is_asked_to_stop_all_stop_and_nobody_waits(monkeypatch):
    others = []
    first, second = in_turn(monkeypatch, 2, others)
    stop.request("test")
    try:
        with pytest.raises(stop.Stopped):
            score(first)
    finally:
        stop.clear()
    with pytest.raises(stop.Stopped):
        score(second)  # which was not asked itself
    assert [int(numbers[-1]) for numbers in others] == [1, 0]


def test_one_process_adds_nothing_up():
    numbers = np.arange(3)
    with adding(Rank()) as add:
        assert add(numbers) is numbers
