"""What training really holds: of one real step before it, to see whether it fits, and of a fold when it is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from autounet import machine
from autounet.losses.level import Targets
from autounet.losses.segmentation import SegmentationLoss
from autounet.networks import build
from autounet.training.allocation import give_back_freed_memory
from autounet.training.execution import Execution, execution
from autounet.training.learner import Learner, make_learner
from autounet.training.sample import Batch
from planners.plan import Configuration, Plan

STEPS = 3  # the first finds its kernels, the second has the optimiser's memory, the third is like all others

CONTEXT_BYTES = 600 * 2**20  # of this process, at most: CUDA tells it from other processes' memory to nobody


@dataclass(frozen=True, slots=True)
class Meter:
    """How a device tells what is held; replaced in tests."""

    begin: Callable[[], None]
    peak_bytes: Callable[[], int]  # since `begin`, with everything that the device holds for this process


def measured_bytes(plan: Plan, configuration: Configuration, device: str, meter: Meter | None = None) -> int | None:
    """The peak of a few real steps; None when the device ran out of memory."""
    meter = meter or cuda_meter(torch.device(device))
    meter.begin()
    try:
        _steps(plan, configuration, device)
    except torch.OutOfMemoryError:
        return None
    return meter.peak_bytes()


def _steps(plan: Plan, configuration: Configuration, device: str) -> None:
    learner, batch = made_up(plan, configuration, execution(device, configuration.schedule.precision))
    for _ in range(STEPS):
        learner.step(batch, configuration.schedule.learning_rate, configuration.accumulate)


def made_up(plan: Plan, configuration: Configuration, way: Execution) -> tuple[Learner, Batch]:
    """A network at its first step, and a batch of the size and kind that it will be shown."""
    labels, schedule = plan.labels, configuration.schedule
    extra = len(labels.foreground) if configuration.previous is not None else 0
    channels = len(plan.channels) + extra
    network = build(configuration.architecture, channels, labels.heads)
    learner = make_learner(network, SegmentationLoss(loss=configuration.loss, labels=labels), way, schedule)
    edges = configuration.patch_zyx[3 - configuration.dimensions :]
    classes = torch.zeros((configuration.batch_size, *edges), dtype=torch.int16)
    classes[..., ::2] = len(labels.classes) - 1  # some foreground, or its terms would be idle
    image = torch.linspace(-1, 1, classes.numel() * channels).reshape(configuration.batch_size, channels, *edges)
    terms = {term.kind for term in configuration.loss.terms}
    targets = Targets(
        classes=classes,
        skeleton=classes if "skeleton_recall" in terms else None,
        border_weight=torch.ones(classes.shape) if "border_cross_entropy" in terms else None,
    )
    return learner, Batch(image=image, targets=targets, cases=("probe",) * configuration.batch_size)


def meter_of(device: torch.device) -> Meter | None:
    """None where the device does not tell."""
    if device.type == "cuda":
        return cuda_meter(device)
    return _host_meter() if device.type == "cpu" else None


def _host_meter() -> Meter:
    """Of this process: what a step frees stays with it (`keep_freed_memory`), so what it holds at the end is the most it held."""
    return Meter(give_back_freed_memory, machine.process_tree_bytes)


def cuda_meter(device: torch.device) -> Meter:
    """Of torch's pool, and of what the device holds beside it for this process."""
    others = 0

    def beside() -> int:
        """What is taken on the device, except what torch keeps for tensors; asking makes the context first."""
        free, total = torch.cuda.mem_get_info(device)
        return total - free - torch.cuda.memory_reserved(device)

    def begin() -> None:
        nonlocal others
        torch.cuda.empty_cache()
        # Other programs come and go, and what they hold now must not be remembered as this device's own.
        others = max(0, beside() - CONTEXT_BYTES)
        torch.cuda.reset_peak_memory_stats(device)

    def peak() -> int:
        return torch.cuda.max_memory_reserved(device) + max(0, beside() - others)

    return Meter(begin, peak)
