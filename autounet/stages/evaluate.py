"""Masks against the truth: any two folders, or two files, go in; a long table, JSON and the reference's summary come out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autounet import stop
from autounet.images.geometry import Geometry
from autounet.images.read import read_image
from autounet.job import Job
from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import CaseScores, Scores, TargetScores, as_csv, as_plain, as_reference_summary
from autounet.store.files import publish_json, publish_text
from planners.errors import UserError
from planners.labels import LabelClass, Labels

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl", ".gipl.gz", ".png", ".tif", ".tiff", ".bmp")
CORNER_MM = 0.1  # grids whose corners lie further apart are different grids


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A case's two files; one of them may be missing."""

    case: str
    predicted: Path | None
    truth: Path | None


def evaluate(predictions: Path, truth: Path, out: Path | None, job: Job, *, labels: Labels | None = None) -> Scores:
    """Score every case; a case that cannot be scored is a row that says why."""
    pairs = pair_files(predictions, truth)
    labels = labels or labels_found(pairs)
    cases = []
    with job.progress.task("evaluate", total=len(pairs), unit="case") as task:
        for pair in pairs:
            stop.check()
            cases.append(score_files(pair, labels))
            task.step(doing=pair.case)
    scores = Scores(cases=tuple(cases), targets=labels.targets)
    if out is not None:
        write_scores(scores, out)
    for case in scores.problems:
        job.progress.warn(f"{case.case}: {case.problem}")
    return scores


def write_scores(scores: Scores, out: Path) -> None:
    """scores.csv, scores.json and nnU-Net's summary.json."""
    publish_text(out / "scores.csv", as_csv(scores))
    publish_json(out / "scores.json", as_plain(scores))
    publish_text(out / "summary.json", json.dumps(as_reference_summary(scores), indent=4))


def pair_files(predictions: Path, truth: Path) -> tuple[Pair, ...]:
    """Match files by name without suffix; what has no partner stays, with a gap."""
    if predictions.is_file() and truth.is_file():
        return (Pair(case=case_of(truth), predicted=predictions, truth=truth),)
    for folder, what in ((predictions, "predictions"), (truth, "truth")):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder.name} of {what}", "name a folder of masks")
    mine, theirs = masks_in(predictions), masks_in(truth)
    if not mine or not theirs:
        raise UserError(
            f"{(predictions if not mine else truth).name} holds no mask", f"name a folder with files ending in {', '.join(SUFFIXES[:4])}, …"
        )
    return tuple(Pair(case=case, predicted=mine.get(case), truth=theirs.get(case)) for case in sorted({*mine, *theirs}))


def masks_in(folder: Path) -> dict[str, Path]:
    """Mask files by case id."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(SUFFIXES):
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
    for pair in pairs:
        if pair.truth is not None:
            values |= {int(v) for v in np.unique(mask_of(pair.truth)[0])}
    return Labels(classes=tuple(LabelClass(name="background" if v == 0 else str(v), value=v) for v in sorted(values)))


def score_files(pair: Pair, labels: Labels) -> CaseScores:
    """One case from its files."""
    if pair.truth is None or pair.predicted is None:
        problem = "predicted, but there is no truth" if pair.truth is None else "there is truth, but no prediction"
        return CaseScores(case=pair.case, problem=problem, group=pair.case)
    try:
        truth_zyx, geometry = mask_of(pair.truth)
        predicted_zyx, other = mask_of(pair.predicted)
        if geometry.shape_zyx != other.shape_zyx:
            raise UserError(f"the prediction has {other.shape_zyx} voxels, the truth {geometry.shape_zyx}", "predict on the truth's grid")
        if not geometry.flat and geometry.corner_distance_mm(other) > CORNER_MM:
            raise UserError(f"the grids lie {geometry.corner_distance_mm(other):.3g} mm apart", "predict on the truth's grid")
        known = {c.value for c in labels.classes}
        odd = sorted({int(v) for v in np.unique(predicted_zyx)} - known)
        if odd:
            raise UserError(f"the prediction holds the value {odd[0]}, which is no class", "pass the label table the masks were made with")
    except UserError as error:
        return CaseScores(case=pair.case, problem=error.problem, group=pair.case)
    joint = joint_counts(truth_zyx, predicted_zyx, labels.ignore)
    voxel_mm3 = float(np.prod(geometry.spacing_zyx_mm))
    return CaseScores(
        case=pair.case,
        group=pair.case,
        truth_file=pair.truth.name,
        predicted_file=pair.predicted.name,
        targets=tuple(TargetScores(name=n, values=v, counts=joint.of(v), voxel_mm3=voxel_mm3) for n, v in labels.targets),
    )


def mask_of(path: Path) -> tuple[NDArray[np.integer], Geometry]:
    """A mask's values and geometry; numbers that are no integers are refused."""
    image = read_image(path)
    voxels = image.voxels_czyx
    if len(voxels) != 1:
        raise UserError(f"{path.name} has {len(voxels)} channels", "a mask has one")
    mask = voxels[0]
    if not np.issubdtype(mask.dtype, np.integer):
        whole = np.rint(mask)
        if not np.array_equal(whole, mask):
            raise UserError(f"{path.name} holds values that are no whole numbers", "this is an image, not a mask")
        mask = whole.astype(np.int32)
    return mask, image.geometry
