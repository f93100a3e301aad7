"""The flags that verbs share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, Token

from autounet.cli.quantities import parse_bytes, parse_devices, parse_names, parse_numbers, parse_seconds, parse_steps_or_seconds

COMMON = Group("Flags of every verb", sort_key=10)


def _by(parse: Callable[[str], object]) -> Callable[[object, Sequence[Token]], object]:
    return lambda _, tokens: parse(tokens[0].value)


Bytes = Annotated[int | None, Parameter(converter=_by(parse_bytes), metavar="SIZE")]
Seconds = Annotated[float | None, Parameter(converter=_by(parse_seconds), metavar="TIME")]
Numbers = Annotated[tuple[int, ...] | None, Parameter(converter=_by(parse_numbers), n_tokens=1, metavar="LIST")]
Names = Annotated[tuple[str, ...] | None, Parameter(converter=_by(parse_names), n_tokens=1, metavar="LIST")]
Folder = Annotated[Path | None, Parameter(metavar="FOLDER")]
Switch = Annotated[bool, Parameter(show_default=False)]


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Where to work, how loud, and with how much of the machine."""

    work: Folder = None
    "Work folder; default: DATASET.autounet beside the dataset."
    json: Switch = False
    "One JSON object on standard output; words go to standard error."
    quiet: Annotated[bool, Parameter(alias="-q", show_default=False)] = False
    "Only warnings, errors and the result."
    verbose: Annotated[bool, Parameter(alias="-v", show_default=False)] = False
    "Also the details."
    seed: int = 0
    "All random numbers follow from it."
    device: Annotated[str, Parameter(metavar="NAME")] = "auto"
    "auto, cpu, cuda, cuda:1 or mps."
    threads: Annotated[int | None, Parameter(metavar="N")] = None
    "At most this many cores; default: all this process may use."
    max_ram: Bytes = None
    "At most this much memory, say 8GB; default: what is there."
    stalled_after: Seconds = 300.0
    "Without progress for this long, say what every thread waits for."
    dry_run: Switch = False
    "Say what would be done; write nothing."


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a person may decide about a training; everything else is the planner's."""

    time: Seconds = None
    "Time for all training together, say 4h; default: what the planner thinks it takes."
    gpu_memory: Bytes = None
    "Memory of the accelerator to plan for, say 8GB; default: what it has."
    planner: Annotated[str, Parameter(metavar="NAME")] = "default"
    "Which planner decides: default, nnunet, or package.module:function."
    configurations: Names = None
    "Only these, say 2d,3d_fullres."
    folds: Numbers = None
    "Only these, say 0 or 0-2."
    iterations: Annotated[int | None, Parameter(metavar="N")] = None
    "Training steps a fold, however long they take; default: the plan's."
    extend: Annotated[
        tuple[int | None, float | None] | None,
        Parameter(converter=_by(parse_steps_or_seconds), n_tokens=1, accepts_keys=False, metavar="AMOUNT"),
    ] = None
    "Train what is finished on from its last checkpoint: 5000 more steps a fold, or 2h for all together."
    target: Literal["cpu", "cuda", "mps"] | None = None
    "Where the model will predict; default: here."
    layout: Annotated[str | None, Parameter(metavar="NAME")] = None
    "How the dataset folder is laid out; default: found out."
    replan: Switch = False
    "Plan anew although the work folder holds a plan."
    probe: Switch = False
    "Correct the prediction of memory by real training steps on the CUDA device; plans anew."
    from_: Annotated[Path | None, Parameter(name="--from", metavar="MODEL")] = None
    "Start the training from the weights of this model; channels and classes are fitted by name."
    workers: Annotated[int | None, Parameter(metavar="N")] = None
    "So many threads make the samples of a training; default: as suits the device. It changes no result."
    worker_processes: Switch = False
    "Make the samples in processes instead: more memory, and no thread waits for another."
    devices: Annotated[tuple[str, ...] | None, Parameter(converter=_by(parse_devices), n_tokens=1, metavar="LIST")] = None
    "Train the folds side by side on these, say cuda:0,cuda:1, or one fold by several; all: on every CUDA device."
    track: Literal["tensorboard", "wandb", "mlflow"] | None = None
    "Show the training to this program, too; it writes beside the fold's log and sends nothing anywhere."
    cache: Folder = None
    "Where prepared cases are kept; default: in the work folder."


DEFAULTS = Common()
NO_CHOICES = Choices()
