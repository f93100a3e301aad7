"""How fast this machine convolves, in both memory layouts and in every precision it knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autounet import stop

if TYPE_CHECKING:
    import torch

    from autounet.job import Job

CHANNELS, EDGE = 32, 48  # the second stage of a usual network; 14 MB in float32, so caches do not hide the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One way to run a 3x3x3 convolution."""

    precision: str
    layout: str
    gflops: float


def measure_convolutions(device: str, *, seconds: float, threads: int | None, job: Job) -> tuple[Speed, ...]:
    """Every precision in both layouts, sharing the time given."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    ways = [(p, layout) for p in _precisions(device) for layout in ("contiguous", "channels-last")]
    speeds = []
    try:
        with job.progress.task("measure convolutions", total=len(ways), unit="way") as task, torch.inference_mode():
            for precision, layout in ways:
                task.step(doing=f"{precision} {layout}", n=0)
                speeds.append(Speed(precision=precision, layout=layout, gflops=_gflops(device, precision, layout, seconds / len(ways))))
                task.step()
    finally:
        torch.set_num_threads(before)
    return tuple(speeds)


def _gflops(device: str, precision: str, layout: str, seconds: float) -> float:
    import torch

    kind: torch.dtype = getattr(torch, precision)
    order = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
    # Powers of two: float16 neither overflows nor meets a subnormal, which some processors treat slowly.
    image_bczyx = torch.full((1, CHANNELS, EDGE, EDGE, EDGE), 0.5, dtype=kind, device=device).to(memory_format=order)
    weight = torch.full((CHANNELS, CHANNELS, 3, 3, 3), 0.25, dtype=kind, device=device).to(memory_format=order)

    def once() -> None:
        torch.nn.functional.conv3d(image_bczyx, weight, padding=1)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    once()  # the first call chooses an algorithm and packs the weights
    best = _best_seconds(once, seconds)
    return 2 * 27 * CHANNELS**2 * EDGE**3 / best / 1e9


def _best_seconds(once: Callable[[], None], seconds: float) -> float:
    """The shortest of the runs that fit: other people's work only ever adds."""
    end, best = time.perf_counter() + seconds, float("inf")
    while True:
        start = time.perf_counter()
        once()
        stop.check()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _precisions(device: str) -> tuple[str, ...]:
    return ("float32", "bfloat16", "float16") if device.startswith("cuda") else ("float32", "bfloat16")
