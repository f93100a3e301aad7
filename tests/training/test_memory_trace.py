"""The trace of a step on tensors without numbers: right for what can be counted by hand, and still what was recorded."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autounet.training.memory_trace import Counter, trace
from planners.augmentation import augmentation
from planners.labels import LabelClass, Labels
from planners.loss import loss
from planners.memory import Load, inference_bytes, training_bytes
from planners.networks_of import architecture_of
from planners.plan import Configuration, Inference, Schedule
from planners.reference_size import Blueprint
from planners.topology import topology


def test_storages_are_counted_once_and_forgotten_when_nobody_reads_them() -> None:
    with FakeTensorMode(), Counter() as counter:
        first = torch.zeros(1000)
        assert counter.now == 4000
        view = first[:10]
        assert counter.now == 4000
        second = first + 1
        assert (counter.now, counter.peak) == (8000, 8000)
        del first, second
        assert counter.now == 4000
        del view
        assert (counter.now, counter.peak) == (0, 8000)


@pytest.mark.parametrize(("kind", "patch", "classes"), [("plain", (32, 32, 32), 3), ("residual", (64, 64), 12)])
def test_a_step_as_it_is_today_still_agrees_with_the_closed_form(kind: str, patch: tuple[int, ...], classes: int) -> None:
    dimensions = len(patch)
    whole = (1, *patch) if dimensions == 2 else (patch[0], patch[1], patch[2])
    architecture = architecture_of(topology((1.0,) * dimensions, patch), Blueprint("plain" if kind == "plain" else "residual", classes))
    configuration = Configuration(
        name="traced",
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=(whole[0], whole[1], whole[2]),
        patch_zyx=(whole[0], whole[1], whole[2]),
        batch_size=16,
        architecture=architecture,
        loss=loss(len(architecture.features), batch_dice=False),
        augmentation=augmentation((whole[0], whole[1], whole[2]), dimensions, ()),
        schedule=Schedule(precision="bfloat16", ema_decay=0.999),
        inference=Inference(precision="bfloat16"),
    )
    labels = Labels(classes=tuple(LabelClass(name=str(v), value=v) for v in range(classes)))
    peaks = trace(configuration, 2, labels)
    load = Load(architecture=architecture, patch_zyx=whole, channels=2, heads=classes, micro_batch=16, precision="bfloat16", cpu=True)
    assert training_bytes(load) == pytest.approx(peaks.training_bytes, rel=0.1)
    assert inference_bytes(load) == pytest.approx(peaks.inference_bytes, rel=0.1)
