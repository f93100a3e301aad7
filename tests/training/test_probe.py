"""A probe runs the real step; a device out of memory is an answer, not an error."""

import sys

import numpy as np
import pytest
import torch

from autounet.training import probe
from autounet.training.allocation import keep_freed_memory
from autounet.training.probe import CONTEXT_BYTES, Meter, measured_bytes, meter_of
from planners.default import plan_default
from planners.hardware import Budget, GiB
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


class FakeCuda:
    """A device that several processes share: 24 GiB, and what each of them holds."""

    def __init__(self, others: int, context: int) -> None:
        self.others, self.context, self.reserved = others, context, 0

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 24 * GiB - self.others - self.context - self.reserved, 24 * GiB

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "mem_get_info", self.mem_get_info)
        patch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        patch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.reserved)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)


@pytest.mark.parametrize(("others", "unknown"), [(0, 0), (10 * GiB, CONTEXT_BYTES - GiB // 2)])
def test_what_other_programs_hold_is_not_measured(others: int, unknown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(others, context=GiB // 2)
    fake.install(monkeypatch)

    def steps(*_: object) -> None:
        fake.reserved, fake.context = 5 * GiB, GiB // 2 + GiB // 4  # kernels are loaded when they are first used

    monkeypatch.setattr(probe, "_steps", steps)
    held = measured_bytes(TINY, TINY.configuration("3d_fullres"), "cuda")
    assert held == 5 * GiB + GiB // 2 + GiB // 4 + unknown  # at most a tenth of a GiB of others cannot be told from the context


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_of_a_fold_what_it_freed_counts_and_what_was_freed_before_does_not() -> None:
    def take() -> None:
        np.ones(2**25)  # 256 MiB, freed at once

    meter = meter_of(torch.device("cpu"))
    assert meter is not None
    keep_freed_memory()
    meter.begin()
    before = meter.peak_bytes()
    take()
    assert meter.peak_bytes() - before == pytest.approx(2**28, rel=0.05)
    meter.begin()
    assert meter.peak_bytes() - before < 2**25


def test_a_device_that_does_not_tell_is_not_asked() -> None:
    assert meter_of(torch.device("mps")) is None
