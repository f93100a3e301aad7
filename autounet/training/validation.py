"""Whole held-out volumes: scored on the network's grid while training, written on the image's grid at the end."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isnan, prod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autounet import stop
from autounet.arrays.frame import Frame
from autounet.data.dataset import Case, Dataset
from autounet.data.prepared import PreparedCase
from autounet.images.formats import suffix_of
from autounet.images.orientation import Orientation
from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings, Member, label_values
from autounet.inference.votes_to_labels import Decision
from autounet.inference.witness import Onlooker, Picks
from autounet.metrics.opinions import Opinion, opinion_path
from autounet.metrics.overlap import joint_counts
from autounet.store.strict import write_value
from autounet.training.distributed import Rank, adding
from planners.fingerprint import Triple, TripleMm
from planners.plan import Configuration, Plan

ALONE = Rank()
WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif", ".tiff")
Score = tuple[float, tuple[tuple[str, float | None], ...]]
PreviousOf = Callable[[str], np.ndarray | None]


class Shown(Protocol):
    """Somebody to tell how far it is."""

    def step(self, doing: str = "", n: float = 1) -> None:
        """One more."""


def quick_score(
    plan: Plan,
    configuration: Configuration,
    cases: Mapping[str, PreparedCase],
    previous: PreviousOf,
    network: nn.Module,
    rank: Rank = ALONE,
) -> Score:
    """Mean Dice over targets of a few whole cases, without mirrors; a class that is in none of them counts nowhere.

    Ranks share out the cases and add up their voxels, so all come to the score that one process comes to. All stop if one is asked to.
    """
    with adding(rank) as add:
        own = dict(list(cases.items())[rank.number :: rank.count])
        try:
            counted, stopping = _counts(plan, configuration, own, previous, network), 0
        except stop.Stopped:
            counted, stopping = np.zeros((len(plan.labels.targets), 2), np.int64), 1
        together = add(np.append(counted, stopping))
    if together[-1]:
        raise stop.Stopped("another process")
    names = [name for name, _ in plan.labels.targets]
    scores = tuple(
        (name, inside / both if both else None) for name, (inside, both) in zip(names, together[:-1].reshape(-1, 2).tolist(), strict=True)
    )
    seen = [score for _, score in scores if score is not None]
    return (float(np.mean(seen)) if seen else 0.0), scores


def _counts(
    plan: Plan, configuration: Configuration, cases: Mapping[str, PreparedCase], previous: PreviousOf, network: nn.Module
) -> NDArray[np.int64]:
    """(target, 2): twice the voxels that both call it, and the voxels that either does."""
    settings = replace(InferenceSettings.of(configuration), mirror_axes=())
    totals = np.zeros((len(plan.labels.targets), 2), np.int64)
    values = np.array([c.value for c in plan.labels.classes] + ([] if plan.labels.ignore is None else [plan.labels.ignore]))
    for name, case in cases.items():
        image, label = case.read_all()
        assert label is not None
        frame = grid_frame(case.shape_zyx, configuration.spacing_zyx_mm)
        found = predict_prepared([Member(network, configuration)], image, frame, plan, settings, previous_zyx=previous(name))
        truth = values[np.maximum(label, 0)]
        joint = joint_counts(truth, label_values(found.label_zyx, plan.labels), plan.labels.ignore)
        for row, (_, target_values) in zip(totals, plan.labels.targets, strict=True):
            counts = joint.of(target_values)
            row += (2 * counts.tp, counts.predicted + counts.true)
    return totals


def cost_in_steps(configuration: Configuration, cases: Mapping[str, PreparedCase]) -> float:
    """Of scoring whole cases, in training steps: half-overlapping tiles see each voxel 2 times an axis, forward is a third of a step."""
    voxels = sum(prod(max(size, edge) for size, edge in zip(c.shape_zyx, configuration.patch_zyx, strict=True)) for c in cases.values())
    overlap = float(2**configuration.dimensions)
    return voxels * overlap / (prod(configuration.patch_zyx) * configuration.batch_size) / 3


def grid_frame(shape_zyx: Triple, spacing_zyx_mm: TripleMm) -> Frame:
    """The frame of a volume that stays where it is."""
    z, y, x = shape_zyx
    return Frame(
        orientation=Orientation(axes_zyx=(0, 1, 2), flips_zyx=(False, False, False), code="RAS"),
        axis_order=(0, 1, 2),
        stored_shape_zyx=shape_zyx,
        box=((0, z), (0, y), (0, x)),
        cropped_shape_zyx=shape_zyx,
        cropped_spacing_zyx_mm=spacing_zyx_mm,
        shape_zyx=shape_zyx,
        spacing_zyx_mm=spacing_zyx_mm,
        thick_axis=None,
    )


def mask_path(folder: Path, dataset: Dataset, case: Case) -> Path:
    """Where the mask of a case goes: in the format of its image where masks can be written in it."""
    suffix = suffix_of(case.images[0].path)
    if suffix not in WRITABLE:
        suffix = ".png" if dataset.dimensions == 2 else ".nii.gz"
    return folder / f"{case.id.replace('/', '_')}{suffix}"


def onlooker(plan: Plan, truth_zyx: np.ndarray, seed: int) -> Onlooker:
    """Looks on while a case is predicted, so that selection need not predict it again."""
    return Onlooker(Decision.of(plan.labels), picks=Picks(truth_zyx, plan.labels, seed))


def write_opinion(mask: Path, witness: Onlooker, weights: str) -> None:
    """What the network said of a case, beside its mask."""
    assert witness.picks is not None
    write_value(opinion_path(mask), Opinion(weights=weights, expected=witness.expected, sample=witness.picks.sample()))


def mean_score(scores: list[float]) -> float | None:
    """Of those that are numbers."""
    there = [s for s in scores if not isnan(s)]
    return float(np.mean(there)) if there else None
