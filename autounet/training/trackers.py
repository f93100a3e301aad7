"""Programs that draw what a training says of itself: they hear a copy, events.jsonl stays the truth. None is used unless asked for.

All of them write beside the fold's log and send nothing anywhere.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from planners.errors import UserError

Kind = Literal["tensorboard", "wandb", "mlflow"]
EVERY_STEPS = 10  # a file store takes a millisecond for each number


class Tracker(Protocol):
    """A program that was opened for one fold."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def close(self) -> None:
        """No more will come."""


Hear = Callable[[str, Mapping[str, object]], None]  # kind and fields of an event


def module(kind: Kind) -> Any:
    """The program's module, or what to install."""
    try:
        if kind == "tensorboard":
            from torch.utils import tensorboard

            return tensorboard
        if kind == "wandb":
            import wandb

            return wandb
        import mlflow

        return mlflow
    except ImportError as error:
        fix = f"type: pip install 'autounet[track-{kind}]', or leave out --track"
        raise UserError(f"{kind} is not installed ({error})", fix) from error


@contextmanager
def tracking(kind: Kind | None, folder: Path, name: str, warn: Callable[[str], None]) -> Iterator[Hear]:
    """Something that hears events, numbers of which the program gets; its own failure is said once and ends no training."""
    if kind is None:
        yield lambda *_: None
        return
    tracker: Tracker | None = OPEN[kind](module(kind), folder, name)

    def guarded(act: Callable[[Tracker], None]) -> None:
        nonlocal tracker
        if tracker is None:
            return
        try:
            act(tracker)
        except Exception as error:  # whatever another program raises, the weights are worth more
            tracker = None
            warn(f"{kind} failed ({type(error).__name__}: {error}) and hears no more; events.jsonl has everything")

    def hear(event: str, fields: Mapping[str, object]) -> None:
        step = fields.get("step")
        if not isinstance(step, int) or (event == "train" and step % EVERY_STEPS and step > 1):
            return
        numbers = {f"{event}/{key}": float(v) for key, v in fields.items() if isinstance(v, int | float) and key != "step"}
        guarded(lambda open_tracker: open_tracker.log(step, numbers))

    try:
        yield hear
    finally:
        guarded(lambda open_tracker: open_tracker.close())


class _TensorBoard:
    def __init__(self, package: Any, folder: Path, name: str) -> None:
        self.writer = package.SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, package: Any, folder: Path, name: str) -> None:
        # Offline: `wandb sync` sends it, if somebody wants that.
        self.run = package.init(project="autounet", name=name, dir=str(folder), mode="offline")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, package: Any, folder: Path, name: str) -> None:
        self.client = package.MlflowClient(tracking_uri=(folder / "mlflow").resolve().as_uri())
        known = self.client.get_experiment_by_name("autounet")
        experiment = known.experiment_id if known is not None else self.client.create_experiment("autounet")
        self.run = self.client.create_run(experiment, run_name=name).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.client.log_metric(self.run, key, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


OPEN: dict[Kind, Callable[[Any, Path, str], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
