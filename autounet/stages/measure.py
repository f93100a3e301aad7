"""measure: the dataset in numbers (fingerprint.json), and its folds (splits.json)."""

from autounet.data.dataset import Dataset
from autounet.data.examined import examine_all
from autounet.data.fingerprint import contents, fingerprint_of
from autounet.data.splits import Content, Splits, held_out_twice, make_splits, read_splits, untouched, untrained_classes, write_splits
from autounet.job import Job
from autounet.store.strict import read_value, write_value
from planners.errors import UserError
from planners.fingerprint import Fingerprint


def measure(dataset: Dataset, job: Job, *, folds: int = 5) -> Fingerprint:
    """Numbers from the records that check left; a case that was never looked at is looked at now."""
    examined = examine_all(dataset, job, dataset.training, name="measure")
    failed = next((e.problem for e in examined if e.problem is not None), None)
    if failed is not None:
        raise failed.as_error()
    seen = [(e.case.id, e.record) for e in examined if e.record is not None]
    if not seen:
        raise UserError("no case has a label, so there is nothing to measure", "add masks, and run `autounet check` again")
    fingerprint = fingerprint_of(dataset, seen)
    write_value(job.work / "fingerprint.json", fingerprint)
    _splits(dataset, job, contents(dataset, seen), folds)
    return fingerprint


def _splits(dataset: Dataset, job: Job, content: dict[str, Content], folds: int) -> None:
    """Edited folds stay and are checked; folds that we made are made anew when the cases have changed."""
    path = job.work / "splits.json"
    if path.exists() and not untouched(path):
        _remark(read_splits(path, dataset), content, job)
        return
    before = read_value(path, Splits) if path.exists() else None
    splits = make_splits(dataset, folds, content=content, keep=before, rule=dataset.fold_rule)
    write_splits(path, splits)
    _remark(splits, content, job)


def _remark(splits: Splits, content: dict[str, Content], job: Job) -> None:
    """What may be meant, and is better known before the training."""
    twice = held_out_twice(splits)
    if twice:
        job.progress.note(f"{', '.join(twice[:10])}: held out by more than one fold; each counts once in the scores")
    for fold, names in untrained_classes(splits, content).items():
        job.progress.warn(
            f"fold {fold} trains without {', '.join(names)}: no case of its training part has it; "
            "move one there in splits.json, or add cases of other patients"
        )
