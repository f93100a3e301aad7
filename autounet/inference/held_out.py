"""Cases that the networks had not seen: their masks scored, taken apart into pieces, and predicted by several configurations together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet import machine, stop
from autounet.data.dataset import Case, Dataset
from autounet.data.voxels import read_case, read_options, read_stored_label
from autounet.images.geometry import Geometry
from autounet.images.read import read_header, read_image
from autounet.images.write import write_mask
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.load import device_named, member_of
from autounet.inference.pieces import class_tables, sides_of
from autounet.inference.settings import Member, label_values
from autounet.inference.votes_to_labels import Decision
from autounet.inference.witness import Jury, Picks
from autounet.job import Job
from autounet.metrics.case_scores import Named, Wanted, score_case
from autounet.metrics.choice import Team
from autounet.metrics.opinions import JointOpinion, TeamOpinion
from autounet.metrics.overlap import joint_counts
from autounet.metrics.repairs import CaseTables
from autounet.metrics.scores import CaseScores, Scores, TargetScores
from autounet.store.cache import key
from autounet.store.manifest import Manifest
from autounet.store.selection import Chosen
from autounet.store.strict import read_value, write_value
from autounet.store.weights import load_tensors
from autounet.training.validation import mask_path
from planners.errors import UserError
from planners.labels import Labels
from planners.plan import Plan

Mend = Callable[[str, NDArray[Any], Geometry], NDArray[Any]]  # case id, class numbers, grid

MASK_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl.gz", ".gipl", ".png", ".tiff", ".tif", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The folds of one configuration that are trained, and the masks of the cases each did not see, by case id."""

    configuration: str
    folds: tuple[int, ...]
    masks: Mapping[str, Path]
    fold_of: Mapping[str, int] = field(default_factory=dict)


def trained_folds(work: Path, configuration: str, dataset: Dataset) -> Trained:
    """What lies in the work folder."""
    known = {name_of(case.id): case.id for case in dataset.training}  # as their masks are named
    folds: list[int] = []
    masks: dict[str, Path] = {}
    fold_of: dict[str, int] = {}
    places = [p for p in (work / "runs" / configuration).glob("fold_*") if p.name[5:].isdigit()]
    for folder in sorted(places, key=lambda f: int(f.name[5:])):
        if not (folder / "run.json").exists() or not (folder / "weights.safetensors").exists():
            continue
        folds.append(int(folder.name[5:]))
        for path in sorted((folder / "validation").glob("*")):
            suffix = next((s for s in MASK_SUFFIXES if path.name.endswith(s)), "")
            case = known.get(path.name[: -len(suffix)]) if suffix else None
            if case is not None and not path.name.startswith("."):
                masks[case], fold_of[case] = path, folds[-1]
    return Trained(configuration=configuration, folds=tuple(folds), masks=masks, fold_of=fold_of)


def name_of(case: str) -> str:
    """A case as a file name."""
    return case.replace("/", "_")


def weights_path(work: Path, configuration: str, fold: int) -> Path:
    """Of one trained network."""
    return work / "runs" / configuration / f"fold_{fold}" / "weights.safetensors"


def weights_digest(work: Path, configuration: str, fold: int) -> str:
    """Which network that is; empty when it was never entered."""
    found = Manifest.open(work).digest(weights_path(work, configuration, fold).relative_to(work).as_posix())
    return "" if found is None else found.sha256


def fold_members(plan: Plan, names: Sequence[str], folds: Sequence[int], job: Job) -> dict[str, list[Member]]:
    """The networks of these folds, with those they build on."""
    device = device_named(job.device)
    members: dict[str, list[Member]] = {}
    for name in names:
        current: str | None = name
        while current is not None and current not in members:
            configuration = plan.configuration(current)
            members[current] = [
                member_of(plan, configuration, load_tensors(weights_path(job.work, current, fold)), device) for fold in folds
            ]
            current = configuration.previous
    return members


def score_masks(dataset: Dataset, labels: Labels, masks: Mapping[str, Path], job: Job, mend: Mend | None = None) -> Scores:
    """Each mask against the truth, after `mend` when it is given."""
    cases = []
    with job.progress.task("score", total=len(masks), unit="case") as task:
        for case_id in sorted(masks):
            stop.check()
            cases.append(_scored(dataset, dataset.case(case_id), labels, masks[case_id], mend))
            task.step(doing=case_id)
    return Scores(cases=tuple(cases), targets=labels.targets)


def _scored(dataset: Dataset, case: Case, labels: Labels, mask: Path, mend: Mend | None) -> CaseScores:
    try:
        truth_zyx = read_stored_label(dataset, case)
        geometry = grid_of(dataset, case)
        named = Named(case=case.id, group=case.group, truth_file=case.id, predicted_file=mask.name)
        values = read_image(mask).voxels_czyx[0]
        if mend is not None:
            values = label_values(mend(case.id, numbers_of(values, labels), geometry), labels)
        return score_case(named, truth_zyx, values, labels, geometry.spacing_zyx_mm, Wanted(surfaces=False))
    except UserError as error:
        return CaseScores(case=case.id, group=case.group, problem=error.problem)


def grid_of(dataset: Dataset, case: Case) -> Geometry:
    """The grid of a case as it is stored, from its header."""
    first = case.images[0]
    geometry = read_header(dataset.folder / first.path, read_options(dataset, series=first.series)).geometry
    return geometry if first.section is None else replace(geometry, shape_zyx=(1, *geometry.shape_zyx[1:]), flat=True)


def tables_of_masks(
    dataset: Dataset, plan: Plan, masks: Mapping[str, Path], fold_of: Mapping[str, int], job: Job
) -> tuple[CaseTables, ...]:
    """Every mask as a table of its pieces; cases that cannot be read are left out, scoring has named them."""
    found = []
    with job.progress.task("look for repairs", total=len(masks), unit="case") as task:
        for case_id in sorted(masks):
            stop.check()
            case = dataset.case(case_id)
            try:
                truth_zyx = read_stored_label(dataset, case)
                geometry = grid_of(dataset, case)
                label_zyx = numbers_of(read_image(masks[case_id]).voxels_czyx[0], plan.labels)
                found.append(_tables(case, fold_of[case_id], label_zyx, truth_zyx, plan, geometry))
            except UserError:
                continue
            finally:
                task.step(doing=case_id)
    return tuple(found)


def _tables(case: Case, fold: int, label_zyx: NDArray[Any], truth_zyx: NDArray[Any], plan: Plan, geometry: Geometry) -> CaseTables:
    labels, voxel_mm3 = plan.labels, float(np.prod(geometry.spacing_zyx_mm))
    mended, sides = sides_of(label_zyx, truth_zyx, labels, plan.side_pairs, geometry)
    paired = [name for table in sides for name in (table.lower, table.upper)]
    return CaseTables(
        case=case.id,
        patient=case.group,
        fold=fold,
        classes=class_tables(label_zyx, truth_zyx, labels, voxel_mm3),
        sided=class_tables(mended, truth_zyx, labels, voxel_mm3, paired) if paired else {},
        sides=sides,
    )


def numbers_of(values_zyx: NDArray[Any], labels: Labels) -> NDArray[Any]:
    """Class numbers of the values that a mask holds; what no class has becomes background."""
    values = np.array([c.value for c in labels.classes])
    if (values == np.arange(len(values))).all() and values_zyx.min(initial=0) >= 0 and values_zyx.max(initial=0) < len(values):
        return values_zyx
    order = np.argsort(values)
    place = np.clip(np.searchsorted(values[order], values_zyx), 0, len(values) - 1)
    numbers = order[place]
    numbers[values[numbers] != values_zyx] = 0
    return numbers.astype(np.uint8 if len(values) < 256 else np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What several configurations say together of every held-out case."""

    opinions: Mapping[str, JointOpinion]
    problems: Mapping[str, str]

    def scores(self, team: Team, dataset: Dataset, labels: Labels) -> Scores:
        """Of one team."""
        cases = [CaseScores(case=case, group=dataset.case(case).group, problem=problem) for case, problem in self.problems.items()]
        for case, opinion in self.opinions.items():
            own = next(t for t in opinion.teams if (t.names, t.weights) == (team.names, team.weights))
            targets = tuple(
                TargetScores(name=name, values=values, counts=counts, voxel_mm3=opinion.voxel_mm3)
                for (name, values), counts in zip(labels.targets, own.counts, strict=True)
            )
            cases.append(CaseScores(case=case, group=dataset.case(case).group, targets=targets, truth_file=case, predicted_file=case))
        return Scores(cases=tuple(sorted(cases, key=lambda c: c.case)), targets=labels.targets)


def masks_of_team(work: Path, team: Team) -> Path:
    """The folder of a team's masks."""
    leaning = "" if not team.weights else "_" + "_".join(f"{w:g}" for w in team.weights)
    return work / "scores" / "+".join(team.names) / f"masks{leaning}"


def ask_together(
    dataset: Dataset, plan: Plan, teams: Sequence[Team], held_out: Mapping[int, Sequence[str]], job: Job, *, anew: bool = False
) -> Together:
    """Predict every case once with all configurations of its fold; the masks of all teams follow.

    What was asked before is read, unless it is wanted `anew`: its masks may be gone.
    """
    opinions: dict[str, JointOpinion] = {}
    problems: dict[str, str] = {}
    names = tuple(dict.fromkeys(name for team in teams for name in team.names))
    with job.progress.task(f"ask {' + '.join(names)}", total=sum(map(len, held_out.values())), unit="case") as task:
        for fold, cases in held_out.items():
            asked = _Asked(dataset, plan, teams, names, fold, job)
            for case_id in cases:
                stop.check()
                try:
                    opinions[case_id] = (None if anew else asked.before(case_id)) or asked.now(case_id)
                except UserError as error:
                    problems[case_id] = error.problem
                task.step(doing=case_id)
    return Together(opinions=opinions, problems=problems)


class _Asked:
    """The configurations of one fold."""

    def __init__(self, dataset: Dataset, plan: Plan, teams: Sequence[Team], names: tuple[str, ...], fold: int, job: Job) -> None:
        self.dataset, self.plan, self.teams, self.names, self.fold, self.job = dataset, plan, teams, names, fold, job
        self.ensemble: Ensemble | None = None
        digests = [weights_digest(job.work, name, fold) for name in names]
        self.made_of = key(*names, *digests, *(f"{team.names} {team.weights}" for team in teams))

    def _path(self, case_id: str) -> Path:
        return self.job.work / "scores" / "together" / f"{name_of(case_id)}.json"

    def before(self, case_id: str) -> JointOpinion | None:
        """The answer of an earlier call, when it was about the same."""
        if not self._path(case_id).exists():
            return None
        try:
            found = read_value(self._path(case_id), JointOpinion)
        except UserError:
            return None
        return found if found.made_of == self.made_of else None

    def now(self, case_id: str) -> JointOpinion:
        """Ask, and write the answer behind the masks."""
        if self.ensemble is None:
            chosen = [Chosen(configuration=name, folds=(self.fold,)) for name in self.names]
            self.ensemble = Ensemble(self.plan, fold_members(self.plan, self.names, (self.fold,), self.job), chosen)
        case, labels = self.dataset.case(case_id), self.plan.labels
        voxels = read_case(self.dataset, case)
        assert voxels.label_zyx is not None
        weightings = [[dict(zip(team.names, team.shares, strict=True)).get(name, 0.0) for name in self.names] for team in self.teams]
        picks = Picks(voxels.label_zyx, labels, self.job.seed)
        jury = Jury(Decision.of(labels), weightings, voxels.geometry.shape_zyx, picks)
        options = Options(threads=self.job.threads or machine.cores(), max_ram_bytes=self.job.max_ram_bytes)
        predict_case(self.ensemble, voxels.image_czyx, voxels.geometry, options, jury)
        truth_zyx = read_stored_label(self.dataset, case)
        found = []
        for index, team in enumerate(self.teams):
            values = label_values(jury.labels_zyx[index], labels)
            joint = joint_counts(truth_zyx, values, labels.ignore)
            write_mask(mask_path(masks_of_team(self.job.work, team), self.dataset, case), values, voxels.header)
            counts = tuple(joint.of(target) for _, target in labels.targets)
            found.append(TeamOpinion(names=team.names, weights=team.weights, counts=counts, expected=jury.expected(index)))
        opinion = JointOpinion(
            made_of=self.made_of,
            voxel_mm3=float(np.prod(voxels.geometry.spacing_zyx_mm)),
            configurations=self.names,
            samples=tuple(picks.sample(i) for i in range(len(self.names))),
            teams=tuple(found),
        )
        write_value(self._path(case_id), opinion)
        return opinion
