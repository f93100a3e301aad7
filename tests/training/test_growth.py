"""Patches that grow: their sizes by hand, the samples' independence of who asks when, and resuming to the bit."""

import json
from dataclasses import replace

import pytest
import torch

from autounet import stop
from autounet.training import loop
from autounet.training.fold import Fold, train_fold
from autounet.training.growth import configuration_at, stage_at
from planners.plan import Architecture, Schedule
from tests.training.test_loop import SHORT, equal, job
from tests.training.tiny import case, recipe

GROWING = replace(SHORT, patch_growth_stages=3)


def test_a_patch_grows_by_what_the_strides_divide_and_the_batch_keeps_the_voxels():
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    plan = Schedule(patch_growth_stages=3)
    made = recipe(patch=(40, 56, 40), batch=4, schedule=plan).configuration
    network: Architecture = replace(
        made.architecture,
        features=(8,) * 4,
        strides_zyx=strides,
        kernels_zyx=((3, 3, 3),) * 4,
        encoder_blocks=(1,) * 4,
        decoder_convolutions=(1,) * 3,
    )
    made = replace(made, architecture=network, accumulate=2)
    sizes = [(c.patch_zyx, c.batch_size) for c in (configuration_at(made, stage) for stage in range(3))]
    # 5, 7 and 5 voxels at the bottom: half of them rounded up, three quarters rounded up, all
    assert sizes == [((24, 32, 24), 16), ((32, 48, 32), 4), ((40, 56, 40), 4)]


def test_a_slice_stays_a_slice_and_the_bottom_keeps_two_voxels():
    flat = recipe(dimensions=2, patch=(1, 16, 8), schedule=Schedule(patch_growth_stages=2)).configuration
    assert configuration_at(flat, 0).patch_zyx == (1, 8, 8)


def test_the_plans_own_patch_has_the_second_half_of_the_way_and_all_of_it_where_nothing_is_said():
    growing = Schedule(patch_growth_stages=3)
    assert [stage_at(growing, way) for way in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert {stage_at(Schedule(), way) for way in (0.0, 0.3, 1.0)} == {0}
    made = recipe().configuration
    assert configuration_at(made, 0) is made


def growing_fold(folder):
    return Fold(recipe=recipe(schedule=GROWING, patch=(24, 24, 24)), cases={"a": case(1), "b": case(2)}, folder=folder / "fold_0")


def test_stopped_after_every_step_a_growing_training_ends_in_the_bits_of_an_unbroken_one(tmp_path, monkeypatch):
    shapes, real = [], loop.Learner.step

    def seen(self, batch, rate, parts=1):
        shapes.append(tuple(batch.image.shape))
        return real(self, batch, rate, parts)

    monkeypatch.setattr(loop.Learner, "step", seen)
    unbroken = train_fold(growing_fold(tmp_path / "unbroken"), job(tmp_path)).weights
    # 6 voxels at the bottom: 3 (eight times the batch), 5 (once), 6; a quarter of twelve steps each, then the other half
    expected = [(16, 1, 12, 12, 12)] * 3 + [(2, 1, 20, 20, 20)] * 3 + [(2, 1, 24, 24, 24)] * 6
    assert shapes == expected
    shapes.clear()

    def stopping(self, batch, rate, parts=1):
        stop.request("test")
        return seen(self, batch, rate, parts)

    monkeypatch.setattr(loop.Learner, "step", stopping)
    weights = None
    while weights is None:
        try:
            weights = train_fold(growing_fold(tmp_path / "broken"), job(tmp_path)).weights
        except stop.Stopped:
            pass
        finally:
            stop.clear()
    assert shapes == expected
    assert equal(weights, unbroken)
    events = [json.loads(line) for line in (tmp_path / "broken" / "fold_0" / "events.jsonl").read_text().splitlines()]
    assert [(e["step"], e["patch"]) for e in events if e["kind"] == "grown"] == [(3, [20] * 3), (6, [24] * 3)]


def test_killed_between_checkpoints_the_stages_begin_at_the_same_steps_again(tmp_path, monkeypatch):
    unbroken = train_fold(growing_fold(tmp_path / "unbroken"), job(tmp_path)).weights
    real, made = loop.Learner.step, []

    def dying(self, batch, rate, parts=1):
        made.append(1)
        if len(made) == 6:
            raise KeyboardInterrupt
        return real(self, batch, rate, parts)

    monkeypatch.setattr(loop.Learner, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train_fold(growing_fold(tmp_path / "died"), job(tmp_path))
    monkeypatch.setattr(loop.Learner, "step", real)
    assert equal(train_fold(growing_fold(tmp_path / "died"), job(tmp_path)).weights, unbroken)
    assert all(torch.isfinite(w).all() for w in unbroken.values())
