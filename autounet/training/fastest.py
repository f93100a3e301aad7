"""Which of several ways to run a network is the fastest on this device: some steps of real size each, before a training begins."""

from collections.abc import Callable, Sequence
from math import inf, isinf
from statistics import median
from time import perf_counter

import torch

from autounet.training.execution import Execution
from autounet.training.probe import made_up
from planners.plan import Configuration, Plan

UNTIMED, TIMED = 3, 5  # steps; kernels are chosen in the first, and a compiler takes its minutes there


def fastest(ways: Sequence[Execution], seconds_of: Callable[[Execution], float]) -> tuple[Execution, str]:
    """The way whose step takes least, and what each took; the first where none could be gone: the training says why."""
    found = [(seconds_of(way), way) for way in ways]
    least, way = min(found, key=lambda one: one[0])
    said = "; ".join(f"{name}: {'not possible' if isinf(seconds) else f'{1000 * seconds:.0f} ms a step'}" for seconds, name in found)
    return (ways[0] if isinf(least) else way), said


def seconds_a_step(plan: Plan, configuration: Configuration, way: Execution) -> float:
    """Of a step on made-up images, samples not counted; infinite where it cannot be made."""
    try:
        learner, batch = made_up(plan, configuration, way)
        seconds = []
        for _ in range(UNTIMED + TIMED):
            began = perf_counter()
            learner.step(batch, 0.0, configuration.accumulate)  # its report is read from the device, so the step is over
            seconds.append(perf_counter() - began)
    except RuntimeError:  # no memory, or no kernel for maps of this size: another way may have both
        return inf
    finally:
        if way.device.type == "cuda":
            torch.cuda.empty_cache()
    return median(seconds[UNTIMED:])


def prepare_cuda(device: torch.device) -> None:
    """Kernels are chosen by trying them: the sizes of a training never change, or seldom."""
    if device.index is not None:
        torch.cuda.set_device(device)  # what is made without a word about the device is made here, too
    torch.backends.cudnn.benchmark = True
