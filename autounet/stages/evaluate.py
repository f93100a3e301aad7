"""Masks against the truth: any two folders, two files, or a dataset as truth; a long table, JSON and the reference's summary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autounet import stop
from autounet.data.dataset import Dataset
from autounet.data.open import open_dataset
from autounet.data.voxels import read_stored_label
from autounet.images.geometry import Geometry
from autounet.images.read import read_header, read_image
from autounet.job import Job
from autounet.metrics.case_scores import Named, Wanted, score_case
from autounet.metrics.score_files import write_scores
from autounet.metrics.scores import CaseScores, Scores
from planners.errors import UserError, in_words
from planners.labels import LabelClass, Labels

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl", ".gipl.gz", ".png", ".tif", ".tiff", ".bmp")
CORNER_MM = 0.1  # grids whose corners lie further apart are different grids

OBJECTS = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="objects", value=1)))

Mask = tuple[NDArray[np.integer], Geometry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A case: its prediction, and how its truth is read; one of them may be missing."""

    case: str
    group: str
    predicted: Path | None
    truth: Callable[[], Mask] | None
    truth_name: str = ""


def evaluate(
    predictions: Path,
    truth: Path,
    out: Path | None,
    job: Job,
    *,
    labels: Labels | None = None,
    wanted: Wanted | None = None,
) -> Scores:
    """Score every case; a case that cannot be scored is a row that says why."""
    wanted = wanted or Wanted()
    pairs, found = pair(predictions, truth)
    if wanted.objects == "numbered":
        if found is not None:
            raise UserError(f"{truth.name} is a dataset, and its masks number classes", "name the folder of masks that number objects")
        found = OBJECTS
    labels = labels or found or labels_found(pairs)
    wanted.tolerances(labels.targets)  # a misspelt class is one error, not one in every case
    cases = []
    with job.progress.task("evaluate", total=len(pairs), unit="case") as task:
        for one in pairs:
            stop.check()
            task.step(doing=one.case, n=0)
            cases.append(score_pair(one, labels, wanted))
            task.step()
    scores = Scores(cases=tuple(cases), targets=labels.targets)
    if not scores.scored:
        job.progress.warn("no case could be scored")
    if out is not None:
        write_scores(scores, out)
    for case in scores.problems:
        job.progress.warn(in_words(case.problem, case.fix, case.case))
    return scores


def pair(predictions: Path, truth: Path) -> tuple[tuple[Pair, ...], Labels | None]:
    """Match predictions and truth by case id; what has no partner stays, with a gap. A dataset brings its label table."""
    if predictions.is_file() and truth.is_file():
        return (Pair(case=case_of(truth), group=case_of(truth), predicted=predictions, truth=_reader(truth), truth_name=truth.name),), None
    for folder, what in ((predictions, "predictions"), (truth, "truth")):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder.name} of {what}", "name a folder of masks")
    mine = masks_in(predictions)
    if not mine:
        raise UserError(f"{predictions.name} holds no mask", f"name a folder with files ending in {', '.join(SUFFIXES[:4])}, …")
    theirs = masks_in(truth)
    if theirs and (set(mine) & set(theirs) or not any(entry.is_dir() for entry in truth.iterdir())):
        return tuple(
            Pair(
                case=case,
                group=case,
                predicted=mine.get(case),
                truth=_reader(theirs[case]) if case in theirs else None,
                truth_name=theirs[case].name if case in theirs else "",
            )
            for case in sorted({*mine, *theirs})
        ), None
    dataset = open_dataset(truth)
    return _from_dataset(mine, dataset), dataset.labels


def _from_dataset(mine: dict[str, Path], dataset: Dataset) -> tuple[Pair, ...]:
    """Cases of a dataset; its cases that nobody predicted are left out, for a test fold has only some of them."""
    known = {case.id: case for case in dataset.cases if case.label is not None}
    pairs = []
    for case_id, path in sorted(mine.items()):
        case = known.get(case_id)
        truth = None if case is None else _dataset_reader(dataset, case_id)
        pairs.append(Pair(case=case_id, group=case.group if case else case_id, predicted=path, truth=truth, truth_name=case_id))
    return tuple(pairs)


def masks_in(folder: Path) -> dict[str, Path]:
    """Mask files by case id."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not path.name.lower().endswith(SUFFIXES):
            continue
        case = case_of(path)
        if case in found:
            raise UserError(f"{folder.name} holds {found[case].name} and {path.name} for one case", "keep one of them", case)
        found[case] = path
    return found


def case_of(path: Path) -> str:
    """The file name without its suffix."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: -len(suffix)] if suffix else path.name


def labels_found(pairs: Sequence[Pair]) -> Labels:
    """Without a label table every value that occurs in the truth is a class."""
    values: set[int] = {0}
    for one in pairs:
        if one.truth is not None:
            try:
                values |= {int(v) for v in np.unique(one.truth()[0])}
            except UserError:
                continue  # the case itself says why when it is scored
    return Labels(classes=tuple(LabelClass(name="background" if v == 0 else str(v), value=v) for v in sorted(values)))


def score_pair(one: Pair, labels: Labels, wanted: Wanted) -> CaseScores:
    """One case, or why it could not be scored."""
    if one.truth is None or one.predicted is None:
        problem = "predicted, but there is no truth" if one.truth is None else "there is truth, but no prediction"
        fix = "put the missing mask there, or give both the same name"
        return CaseScores(case=one.case, problem=problem, fix=fix, group=one.group)
    try:
        truth_zyx, geometry = one.truth()
        predicted_zyx, other = mask_of(one.predicted)
        if geometry.shape_zyx != other.shape_zyx:
            raise UserError(f"the prediction has {other.shape_zyx} voxels, the truth {geometry.shape_zyx}", "predict on the truth's grid")
        if not (geometry.flat or other.flat) and geometry.corner_distance_mm(other) > CORNER_MM:
            raise UserError(f"the two grids lie {geometry.corner_distance_mm(other):.3g} mm apart", "predict on the truth's grid")
        named = Named(case=one.case, group=one.group, truth_file=one.truth_name, predicted_file=one.predicted.name)
        return score_case(named, truth_zyx, predicted_zyx, labels, geometry.spacing_zyx_mm, wanted)
    except UserError as error:
        return CaseScores(case=one.case, problem=error.problem, fix=error.fix, group=one.group)


def mask_of(path: Path) -> Mask:
    """A mask's values and geometry; numbers that are no integers are refused."""
    image = read_image(path)
    if len(image.voxels_czyx) != 1:
        raise UserError(f"{path.name} has {len(image.voxels_czyx)} channels", "a mask has one")
    mask = image.voxels_czyx[0]
    if not np.issubdtype(mask.dtype, np.integer):
        whole = np.rint(mask)
        if not np.array_equal(whole, mask):
            raise UserError(f"{path.name} holds values that are no whole numbers", "this is an image, not a mask")
        mask = whole.astype(np.int32)
    return mask, image.geometry


def _reader(path: Path) -> Callable[[], Mask]:
    return lambda: mask_of(path)


def _dataset_reader(dataset: Dataset, case_id: str) -> Callable[[], Mask]:
    def read() -> Mask:
        case = dataset.case(case_id)
        values = read_stored_label(dataset, case)
        return values, read_header(dataset.folder / case.images[0].path).geometry

    return read
