"""A probe runs the real step; a device out of memory is an answer, not an error."""

import pytest
import torch

from autounet.training import probe
from autounet.training.probe import Meter, measured_bytes
from planners.default import plan_default
from planners.hardware import Budget
from tests.planners.cases import CPU, alike

TINY = plan_default(alike(6, (1, 1, 1), (16, 16, 16)), CPU, Budget())


def test_real_steps_are_taken_between_begin_and_peak() -> None:
    events: list[str] = []
    meter = Meter(lambda: events.append("begin"), lambda: events.append("peak") or 123)  # type: ignore[func-returns-value]
    assert measured_bytes(TINY, TINY.configuration("3d_fullres"), "cpu", meter) == 123
    assert events == ["begin", "peak"]


def test_a_device_out_of_memory_is_told_apart_from_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(lambda: None, lambda: 0)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(probe, "build", full)
    assert measured_bytes(TINY, TINY.configuration("3d_fullres"), "cpu", meter) is None
