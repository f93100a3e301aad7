"""A training of forty steps that is killed in forked children and gone on with in others. Prints what came of it as JSON.

Arguments: folder; then, comma by comma: steps after which it dies, seeds of moments at which it dies, numbers of workers it has unbroken.
A child is forked from a process that imported everything and ran nothing: a kill costs milliseconds, not the seconds of an import.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autounet.job import Job
from autounet.progress import Progress
from autounet.store.checkpoints import Checkpoints
from autounet.store.digest import digest_file
from autounet.store.weights import save_tensors
from autounet.training import fold as folds
from autounet.training.fold import CHECKPOINTS, Fold, train_fold
from autounet.training.loop import Surroundings
from planners.plan import Schedule
from tests.training.tiny import case, recipe

STEPS = 40
PLAN = Schedule(
    shape="warmup_stable_decay",
    warmup_fraction=0.1,
    decay_fraction=0.3,
    iterations=STEPS,
    iterations_per_epoch=8,
    momentum=0.9,
    ema_decay=0.9,
)
SAVED_EVERY = 6  # steps; so most boundaries lie behind a checkpoint, as in life
Ending = dict[str, Any]


def train(folder: Path, workers: int = 1, event: Callable[..., None] | None = None) -> None:
    """Train, or go on, to the end; leave the weights beside the fold."""
    steps = 0

    def counted(real: Callable[..., None], kind: str, **fields: object) -> None:
        nonlocal steps
        real(kind, **fields)
        steps += kind == "train"
        if event is not None:
            event(kind, **fields)

    def surroundings(**given: Any) -> Surroundings:
        given["log"].event = partial(counted, given["log"].event)
        return Surroundings(**{**given, "checkpoint_seconds": SAVED_EVERY - 0.5, "clock": lambda: float(steps)})

    folds.Surroundings = surroundings  # type: ignore[assignment, misc]
    folds.loader_workers = lambda how, threads: workers
    fold = Fold(recipe=recipe(schedule=PLAN), cases={"a": case(1), "b": case(2)}, folder=folder / "fold_0")
    trained = train_fold(fold, Job(work=folder, progress=Progress.silent(), threads=1, device="cpu"))
    save_tensors(folder / "weights.safetensors", trained.weights)


def die_after(step: int) -> Callable[..., None]:
    """Ends the process as the kernel does, when that step is made and nothing of it is saved."""

    def event(kind: str, **fields: object) -> None:
        if kind == "train" and fields["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return event


def child(work: Callable[[], None], killed_after: float | None = None) -> int:
    """The end of a forked process: 0, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ending(folder: Path, death: int, saved: int | None) -> Ending:
    """What is there at last: the weights that predict, and what the next step would need, by hash."""
    latest = Checkpoints(folder / "fold_0" / CHECKPOINTS).latest("numpy")
    assert latest is not None
    tensors = {name: value.tobytes().hex() for name, value in sorted(latest.tensors.items())}
    weights = digest_file(folder / "weights.safetensors").sha256
    return {"death": death, "saved": saved, "step": latest.step, "weights": weights, "state": hash_of(tensors)}


def hash_of(plain: object) -> str:
    """Of all numbers."""
    from hashlib import sha256

    return sha256(json.dumps(plain).encode()).hexdigest()


def saved_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, None when none was complete."""
    latest = Checkpoints(folder / "fold_0" / CHECKPOINTS).latest("numpy")
    return None if latest is None else latest.step


def killed_and_resumed(folder: Path, event: Callable[..., None] | None, moment: float | None) -> Ending:
    """Die once, then go on to the end."""
    death = child(partial(train, folder, event=event), moment)
    saved = saved_step(folder)
    code = child(partial(train, folder))
    if code != 0:
        raise RuntimeError(f"the resumed training ended with {code}")
    return ending(folder, death, saved)


def main() -> None:
    """Everything that was asked for."""
    folder = Path(sys.argv[1])
    steps, seeds, workers = ([int(number) for number in word.split(",") if number] for word in sys.argv[2:])
    began = time.monotonic()
    assert child(partial(train, folder / "unbroken")) == 0
    duration = time.monotonic() - began
    found = {"unbroken": ending(folder / "unbroken", 0, None)}
    for step in steps:
        found[f"step {step}"] = killed_and_resumed(folder / f"step_{step}", die_after(step), None)
    for seed in seeds:
        moment, end = float(np.random.default_rng(seed).random()) * duration, found["unbroken"]
        while end["death"] != -signal.SIGKILL:  # on a machine with other work it may be over before
            end = killed_and_resumed(folder / f"moment_{seed}_{moment}", None, moment)
            moment /= 2
        found[f"moment {seed}"] = end
    for number in workers:
        assert child(partial(train, folder / f"workers_{number}", workers=number)) == 0
        found[f"workers {number}"] = ending(folder / f"workers_{number}", 0, None)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
