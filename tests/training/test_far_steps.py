"""Training steps on a device that is none (`pytest --far`; tests/test_far.py asks for it): the processor's numbers, few waits."""

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch

from autounet.networks import blocks
from autounet.training.execution import Execution
from autounet.training.fold import Fold, fresh_learner
from autounet.training.loader import Loader
from autounet.training.sample import Source
from planners.labels import LabelClass, Labels, Region
from planners.plan import Loss, LossTerm, TermKind
from tests.training.tiny import case, recipe

pytestmark = pytest.mark.skipif("tests.far_device" not in sys.modules, reason="only with --far")
CPU = torch.device("cpu")
CLASSES = tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "ball", "box")))
REGIONS = (Region(name="both", values=(1, 2), paint=1), Region(name="box", values=(2,), paint=2))
LABELS = {
    "classes": Labels(classes=CLASSES),
    "regions": Labels(classes=CLASSES, regions=REGIONS),
    "ignore": Labels(classes=CLASSES[:2], ignore=2),
}


def stepped(made, where, folder, steps=3, parts=1):
    """The weights after some steps on the batches that the loader makes, and what the device was asked for in the last of them."""
    from tests.far_device import counted

    cases = {"a": case(1), "b": case(2)}
    for one in cases.values():
        one.ignore = made.plan.labels.ignore
    how = where if isinstance(where, Execution) else Execution(device=where)
    learner = fresh_learner(Fold(recipe=made, cases=cases, folder=folder), how)
    with Loader(Source(recipe=made, cases=cases), 0, tuple(range(made.configuration.batch_size))) as loader:
        batches = loader.batches(0)
        for _ in range(steps):
            batch = next(batches)
            counted.clear()
            report = learner.step(batch, 0.01, parts)
            assert report.finite
            asked = dict(counted)
        batches.close()
    return learner.final_weights(), asked


def assert_the_same(far, near):
    for name, weight in near.items():
        torch.testing.assert_close(far[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("term", get_args(TermKind))
def test_a_step_with_every_term_of_the_loss_finds_all_it_needs_on_the_device(tmp_path, term, labels, dimensions):
    from tests.far_device import FAR

    loss = Loss(terms=(LossTerm(kind="dice"), LossTerm(kind=term)), batch_dice=True, level_weights=(2 / 3, 1 / 3))
    patch = (16, 16, 16) if dimensions == 3 else (1, 16, 16)
    made = recipe(dimensions=dimensions, patch=patch, loss=loss, labels=LABELS[labels])
    assert_the_same(stepped(made, FAR, tmp_path)[0], stepped(made, CPU, tmp_path)[0])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_channels_last_is_kept_through_norms_there_and_changes_no_number(tmp_path, monkeypatch, dimensions):
    from tests.far_device import FAR

    monkeypatch.setattr(blocks, "KEEPS_LAYOUT", ("cpu", "far"))
    patch = (16, 16, 16) if dimensions == 3 else (1, 16, 16)
    made, kept = recipe(dimensions=dimensions, patch=patch), []
    real = blocks._ChannelsLastNorm.forward

    def seen(ctx, maps, *rest):
        result = real(ctx, maps, *rest)
        kept.append(blocks.channels_last(result))
        return result

    monkeypatch.setattr(blocks._ChannelsLastNorm, "forward", staticmethod(seen))
    far = stepped(made, Execution(device=FAR, channels_last=True), tmp_path)[0]
    assert len(kept) >= 3 * 4
    assert all(kept)
    assert_the_same(far, stepped(made, CPU, tmp_path)[0])


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_device_is_asked_once_a_step_and_told_once_for_each_part_of_a_batch(tmp_path, optimiser, parts):
    from tests.far_device import FAR

    made = recipe()
    made = replace(made, annotated=(("a", (1,)),))
    schedule = replace(made.configuration.schedule, optimiser=optimiser, ema_decay=0.9, clip_norm=1e-3)
    made = replace(made, configuration=replace(made.configuration, schedule=schedule))
    found, asked = stepped(made, FAR, tmp_path, parts=parts)
    assert_the_same(found, stepped(made, CPU, tmp_path, parts=parts)[0])
    assert asked == {"copy": 3 * parts, "wait": 1}  # images, classes and which of them are annotated
