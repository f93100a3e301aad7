"""One rank of some: a processor that is taken for an accelerator, tried before the first step. Arguments: folder, rank, count."""

import sys
from pathlib import Path

from autounet.job import Job
from autounet.progress import Progress
from autounet.store.files import publish_json
from autounet.store.weights import save_tensors
from autounet.training import on_device, trial
from autounet.training.distributed import Rank, joined
from autounet.training.fold import Fold, train_fold
from planners.plan import Schedule
from planners.strict_json import to_plain
from tests.training.tiny import case, recipe


def main() -> None:
    folder, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    on_device.PROCESSORS = ()
    trial.LONG_STEPS, trial.STEPS, trial.CLEARLY = 1, 2, 1000.0  # whatever the clock says, the device it is
    made = recipe(schedule=Schedule(iterations=4, iterations_per_epoch=2, momentum=0.9, learning_rate=0.01, ema_decay=0.9), batch=4)
    fold = Fold(recipe=made, cases={"a": case(1), "b": case(2)}, folder=folder / "fold_0")
    job, rank = Job(work=folder, progress=Progress.silent(), threads=count, device="cpu"), Rank(number, count)
    if count == 1:
        trained = train_fold(fold, job)
    else:
        with joined(f"file://{folder / 'meeting'}", rank):
            trained = train_fold(fold, job, rank)
    publish_json(folder / f"state_{number}.json", to_plain(trained.state))
    save_tensors(folder / f"rank_{number}.safetensors", trained.weights)


if __name__ == "__main__":
    main()
