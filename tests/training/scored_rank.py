"""One rank of some: trains the tiny fold with scores on the way until a plateau. Arguments: folder, rank, count."""

import sys
from functools import partial
from pathlib import Path

from autounet.job import Job
from autounet.progress import Progress
from autounet.store.files import publish_json
from autounet.training import loop
from autounet.training.distributed import Rank, joined
from autounet.training.fold import Fold, train_fold
from autounet.training.validation import quick_score
from planners.plan import Schedule
from planners.strict_json import to_plain
from tests.training.tiny import case, recipe


def main() -> None:
    folder, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    loop.VALIDATION_SHARE = 1e9  # always affordable: on what is affordable the clock decides
    # So slow that a plateau is seen as early as it can be.
    shape = {"shape": "warmup_stable_decay", "decay_fraction": 0.2, "stop_at_plateau": True}
    plan = Schedule(iterations=16, iterations_per_epoch=4, momentum=0.0, learning_rate=1e-5, **shape)  # type: ignore[arg-type]
    made, rank = recipe(schedule=plan, batch=2), Rank(number, count)
    held_out = {name: case(seed, (16, 20, 24)) for seed, name in enumerate("cde", start=3)}
    validate = partial(quick_score, made.plan, made.configuration, held_out, lambda name: None, rank=rank)  # type: ignore[arg-type]
    fold = Fold(recipe=made, cases={"a": case(1), "b": case(2)}, folder=folder / "fold_0", validate=validate)
    job = Job(work=folder, progress=Progress.silent(), threads=count, device="cpu")
    if count == 1:
        trained = train_fold(fold, job)
    else:
        with joined(f"file://{folder / 'meeting'}", rank):
            trained = train_fold(fold, job, rank)
    publish_json(folder / f"state_{number}.json", to_plain(trained.state))


if __name__ == "__main__":
    main()
