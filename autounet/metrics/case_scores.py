"""All metrics of one case, by which definitions and at which tolerances."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.lesions import lesion_scores
from autounet.metrics.objects import OBJECTS, Objects, object_scores, told_apart, touching_pieces
from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import CaseScores, TargetScores
from autounet.metrics.surface import SurfaceScores, target_boxes, target_surfaces
from planners.errors import UserError
from planners.fingerprint import TripleMm
from planners.labels import Labels

TOLERANCE_MM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured beside overlap."""

    surfaces: bool = True
    lesions: bool = False
    objects: Objects | None = None  # connected pieces on both sides, or numbered in the truth and told apart in the prediction
    border: int | None = None  # the value of the class that parts objects
    tolerance_mm: float = TOLERANCE_MM  # of the NSD
    tolerances_mm: tuple[tuple[str, float], ...] = ()  # of the NSD, by target, where it is another one

    def tolerances(self, targets: Sequence[tuple[str, tuple[int, ...]]]) -> list[float]:
        """One a target; a name that is no target is refused."""
        said = dict(self.tolerances_mm)
        names = [name for name, _ in targets]
        odd = [name for name in said if name not in names]
        if odd:
            raise UserError(f"a tolerance is given for {odd[0]}, which is no class", f"choose from {', '.join(names)}")
        return [said.get(name, self.tolerance_mm) for name in names]


def wanted_of(words: Sequence[str], *, lesions: bool = False, objects: str | None = None, border: int | None = None) -> Wanted:
    """What was asked for in words: `2` is the tolerance of every class in millimetres, `liver=3` that of one."""
    every, own = TOLERANCE_MM, list[tuple[str, float]]()
    for word in words:
        name, equals, number = word.rpartition("=")
        try:
            tolerance = float(number)
        except ValueError:
            tolerance = -1.0
        if not 0 <= tolerance < inf:
            raise UserError(f"{word} is no tolerance", "give millimetres, say 2, or liver=3,tumour=1")
        if equals:
            own.append((name, tolerance))
        else:
            every = tolerance
    if objects is not None and objects not in OBJECTS:
        raise UserError(f"objects cannot be {objects}", f"choose from {', '.join(OBJECTS)}")
    if border is not None and objects != "numbered":
        raise UserError("a border class parts objects that touch, and none are told apart", "add --objects numbered, or leave --border out")
    return Wanted(lesions=lesions, objects=objects, border=border, tolerance_mm=every, tolerances_mm=tuple(own))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Which case it is."""

    case: str
    group: str
    truth_file: str = ""
    predicted_file: str = ""


def score_case(
    named: Named,
    truth_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    labels: Labels,
    spacing_zyx_mm: TripleMm,
    wanted: Wanted,
) -> CaseScores:
    """Every target of one case; values are the user's. A prediction of an unknown value is refused."""
    if wanted.objects == "numbered":
        return _numbered(named, truth_zyx, predicted_zyx, labels, spacing_zyx_mm, wanted)
    joint = joint_counts(truth_zyx, predicted_zyx, labels.ignore)
    known = {c.value for c in labels.classes} | {r.paint for r in labels.regions}
    odd = [v for i, v in enumerate(joint.values) if joint.pairs[:, i].any() and v not in known]
    if odd:
        raise UserError(f"the prediction holds the value {odd[0]}, which is no class", "pass the label table the masks were made with")
    targets = labels.targets
    if labels.ignore is not None and (wanted.surfaces or wanted.lesions or wanted.objects):
        predicted_zyx = np.where(truth_zyx == labels.ignore, 0, predicted_zyx)  # nobody knows what lies there
    surfaces: dict[str, SurfaceScores] = {}
    if wanted.surfaces:
        surfaces = target_surfaces(truth_zyx, predicted_zyx, targets, spacing_zyx_mm, wanted.tolerances(targets))
    voxel_mm3 = float(np.prod(spacing_zyx_mm))
    boxes = target_boxes(truth_zyx, predicted_zyx, targets) if wanted.lesions else {}
    scored = []
    for name, values in targets:
        more = surfaces[name].rows() if wanted.surfaces else ()
        if wanted.lesions:
            box = boxes[name] or (slice(0, 1),) * 3  # nothing on either side
            more += lesion_scores(np.isin(truth_zyx[box], values), np.isin(predicted_zyx[box], values), spacing_zyx_mm).rows()
        if wanted.objects:
            more += object_scores(*(touching_pieces(np.isin(mask, values)) for mask in (truth_zyx, predicted_zyx))).rows()
        scored.append(TargetScores(name=name, values=values, counts=joint.of(values), voxel_mm3=voxel_mm3, more=more))
    return CaseScores(
        case=named.case,
        group=named.group,
        truth_file=named.truth_file,
        predicted_file=named.predicted_file,
        targets=tuple(scored),
    )


def _numbered(
    named: Named,
    truth_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    labels: Labels,
    spacing_zyx_mm: TripleMm,
    wanted: Wanted,
) -> CaseScores:
    """The truth numbers its objects, all of one class; so does a prediction of several values; one of a single value is told apart."""
    border = predicted_zyx == wanted.border if wanted.border is not None else None
    objects = predicted_zyx if border is None else np.where(border, 0, predicted_zyx)
    if len(np.unique(objects[objects != 0])) <= 1:
        objects = told_apart(objects != 0, spacing_zyx_mm, border)
    masks = [(values != 0).astype(np.uint8) for values in (truth_zyx, objects)]
    scored = score_case(named, masks[0], masks[1], labels, spacing_zyx_mm, replace(wanted, objects=None))
    (one,) = scored.targets
    return replace(scored, targets=(replace(one, more=one.more + object_scores(truth_zyx, objects).rows()),))
