"""How long to train and with which steps: by the time there is, not by a number that fits one machine."""

from planners.hardware import Budget, Hardware, Precision
from planners.plan import Schedule

CPU_TOTAL_SECONDS = 3 * 3600.0  # of a processor, over all folds, when nobody says how long
SHORT_SECONDS = {"cpu": 2 * 3600.0, "cuda": 1200.0, "mps": 2400.0}  # a fold; too few steps for momentum 0.99 to average over
EASY, HARD = 60_000, 250_000  # iterations: public logs are flat long before on images of a few patches, not on larger ones
FEW_PATCHES = 8.0


def precision(hardware: Hardware) -> Precision:
    """The fastest that trains safely: bfloat16 has the range of float32, float16 needs a scale."""
    if "bfloat16" in hardware.precisions:
        return "bfloat16"
    return "float16" if "float16" in hardware.precisions and hardware.accelerator == "cuda" else "float32"


def seconds_per_run(hardware: Hardware, budget: Budget, configurations: int) -> float | None:
    """The share of one fold of one configuration; None: as long as it takes."""
    total = budget.training_seconds
    if total is None and hardware.accelerator == "cpu":
        total = CPU_TOTAL_SECONDS
    return None if total is None else total / (max(1, budget.folds) * max(1, configurations))


def few_steps(hardware: Hardware, seconds: float | None) -> bool:
    """Whether a fold has time for some thousand steps only."""
    return seconds is not None and seconds < SHORT_SECONDS[hardware.accelerator]


def schedule(hardware: Hardware, seconds: float | None, patches: float) -> Schedule:
    """Warm-up, stable, decay with averaged weights; the decay is called by clock or plateau and never cut off."""
    short = few_steps(hardware, seconds)
    return Schedule(
        optimiser="adamw" if short else "sgd",
        learning_rate=3e-3 if short else 0.01,
        momentum=0.9 if short else 0.99,
        weight_decay=1e-2 if short else 3e-5,
        shape="warmup_stable_decay",
        warmup_fraction=0.03,
        decay_fraction=0.3 if short else 0.2,
        iterations=EASY if patches < FEW_PATCHES else HARD,
        seconds=seconds,
        stop_at_plateau=seconds is None,
        ema_decay=0.99 if short else 0.999,
        precision=precision(hardware),
    )


def why(chosen: Schedule, patches: float, folds: int) -> str:
    """One sentence with the numbers."""
    if chosen.seconds is None:
        return (
            f"images of {patches:.1f} patches: at most {chosen.iterations} iterations a fold;"
            " the decay begins when whole volumes stop getting better, and is never cut off"
        )
    if chosen.optimiser == "adamw":
        return (
            f"{chosen.seconds / 60:.0f} min for each of {folds} folds are some thousand steps: AdamW learns more in them than momentum 0.99"
        )
    return f"{chosen.seconds / 3600:.1f} h for each of {folds} folds, and the last {chosen.decay_fraction:.0%} of it at falling speed"
