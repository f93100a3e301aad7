"""One rank of two: trains the tiny fold and leaves its weights. Arguments: folder, rank, count."""

import sys
from pathlib import Path

from autounet.job import Job
from autounet.progress import Progress
from autounet.store.weights import save_tensors
from autounet.training.distributed import Rank, joined
from autounet.training.fold import Fold, train_fold
from planners.plan import Loss, Schedule
from tests.training.tiny import case, recipe


def main() -> None:
    folder, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    plan = Schedule(iterations=6, iterations_per_epoch=3, momentum=0.9, learning_rate=0.02, ema_decay=0.9)
    loss = Loss(level_weights=(2 / 3, 1 / 3), batch_dice=True)
    made = recipe(schedule=plan, loss=loss, batch=4)
    fold = Fold(recipe=made, cases={"a": case(1), "b": case(2)}, folder=folder / "fold_0")
    job = Job(work=folder, progress=Progress.silent(), threads=count, device="cpu")
    rank = Rank(number, count)
    if count == 1:
        trained = train_fold(fold, job)
    else:
        with joined(f"file://{folder / 'meeting'}", rank):
            trained = train_fold(fold, job, rank)
    save_tensors(folder / f"rank_{number}.safetensors", trained.weights)


if __name__ == "__main__":
    main()
