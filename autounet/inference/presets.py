"""Faster or better: steps, mirrors and folds tried on a few held-out cases, and what each costs and gains.

The Dice is that of networks which had not seen the case: one fold a configuration. What more folds cost is timed; what they
gain cannot be measured on cases that they were trained on, so a preset's Dice is that of one fold. What is tried and chosen
follows from counts of voxels and never from the clock, so that the same training makes the same model; the seconds are only told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from time import perf_counter

from autounet import machine, stop
from autounet.data.dataset import Dataset
from autounet.data.voxels import read_case, read_stored_label
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.held_out import fold_members, grid_of
from autounet.inference.load import device_named
from autounet.inference.settings import label_values
from autounet.job import Job
from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import nan_mean
from autounet.store.selection import Chosen, Preset
from autounet.store.strict import read_value, write_value
from planners.errors import UserError
from planners.plan import Configuration, Plan

CASES = 3
LONG_STEP = 0.75
LOSS_BALANCED, LOSS_FAST = 0.003, 0.02  # Dice that may be lost against the plan's own way
SHARE = 0.02  # of the voxels that the training computed
LEAST_VOXELS = {"cpu": 2**24, "cuda": 2**30}  # some ten seconds of a usual network


@dataclass(frozen=True, slots=True)
class Way:
    """How networks are slid over an image."""

    step_fraction: float
    mirror: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A way, with what it gave on some cases."""

    way: Way
    dice: float
    seconds: float  # a case, with one fold
    voxels: float  # that a network computes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured for these networks: whoever types the command again gets the same model."""

    made_of: str
    presets: tuple[Preset, ...]


def ways_of(plan: Plan, names: Sequence[str]) -> tuple[Way, ...]:
    """What is worth trying, the cheapest first; the last is the plan's own."""
    wanted = [plan.configuration(name).inference for name in names]
    own = min(i.step_fraction for i in wanted)
    steps = (LONG_STEP, own) if own < LONG_STEP else (own,)
    mirrors = (False, True) if any(i.mirror_axes for i in wanted) else (False,)
    return tuple(Way(step, mirror) for mirror in mirrors for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Whose ways are measured, and on what."""

    dataset: Dataset
    plan: Plan
    members: Sequence[Chosen]
    fold_of: Mapping[str, int]
    trained_voxels: float
    made_of: str  # a digest of the networks

    @property
    def names(self) -> list[str]:
        """Configurations that vote."""
        return [m.configuration for m in self.members]

    def voxels(self, case_id: str, way: Way, folds: int = 1) -> float:
        """That the networks compute for a case: tiles overlap, mirrors repeat them."""
        geometry = grid_of(self.dataset, self.dataset.case(case_id))
        mm3 = prod(geometry.shape_zyx) * prod(geometry.spacing_zyx_mm)
        return folds * sum(_voxels(self.plan.configuration(name), mm3, way) for name in self.names)


def measure_presets(bench: Bench, job: Job) -> tuple[Preset, ...]:
    """Within a small share of what the training computed; none when not even one case fits in it."""
    path = job.work / "scores" / "presets.json"
    try:
        known = read_value(path, Measured) if path.exists() else None
    except UserError:
        known = None  # of another version
    if known is not None and known.made_of == bench.made_of:
        return known.presets
    presets = _measured(bench, job)
    write_value(path, Measured(made_of=bench.made_of, presets=presets))
    return presets


def _measured(bench: Bench, job: Job) -> tuple[Preset, ...]:
    left = max(LEAST_VOXELS.get(device_named(job.device).type, LEAST_VOXELS["cpu"]), SHARE * bench.trained_voxels)
    ways, rows, first = ways_of(bench.plan, bench.names), list[list[Tried]](), ""
    cases = spread(bench.fold_of)
    with job.progress.task("measure presets", total=len(cases), unit="case") as task:
        for case in cases:
            stop.check()
            task.step(doing=case, n=0)
            left -= sum(bench.voxels(case, way) for way in ways)
            if left < 0:
                break
            try:
                rows.append(_tried(bench, case, ways, job))
                first = first or case
            except UserError:
                continue  # scoring has named it
            finally:
                task.step(n=1)
    if not rows:
        return ()
    means = [
        Tried(way=way, dice=nan_mean([r[i].dice for r in rows]), seconds=nan_mean([r[i].seconds for r in rows]), voxels=rows[0][i].voxels)
        for i, way in enumerate(ways)
    ]
    folds = len(bench.members[0].folds)
    affordable = left >= bench.voxels(first, ways[0], folds + 1)
    return presets_of(means, folds, _cost_of_folds(bench, first, ways[0], job) if affordable else float(folds), len(rows))


def presets_of(tried: Sequence[Tried], folds: int, dearer: float, cases: int) -> tuple[Preset, ...]:
    """The plan's own way is best; the others are the cheapest that lose little. `dearer`: all folds against one."""
    own = tried[-1]

    def preset(name: str, loss: float, voting: int) -> Preset:
        good = [t for t in tried if not t.dice < own.dice - loss]  # nothing is known of a Dice that is no number
        chosen = min(good, key=lambda t: t.voxels) if loss else own
        return Preset(
            name=name,  # type: ignore[arg-type]
            step_fraction=chosen.way.step_fraction,
            mirror=chosen.way.mirror,
            folds=voting,
            dice=None if chosen.dice != chosen.dice else chosen.dice,
            seconds_per_case=chosen.seconds * (1 if voting == 1 else dearer),
            cases=cases,
        )

    return preset("fast", LOSS_FAST, 1), preset("balanced", LOSS_BALANCED, 0), preset("best", 0.0, 1 if folds == 1 else 0)


def _tried(bench: Bench, case_id: str, ways: Sequence[Way], job: Job) -> list[Tried]:
    """One case in every way, by the networks that had not seen it."""
    ensemble = _ensemble(bench, (bench.fold_of[case_id],), job)
    found = []
    for way in ways:
        dice, seconds = _try(bench, ensemble, case_id, way, job)
        found.append(Tried(way=way, dice=dice, seconds=seconds, voxels=bench.voxels(case_id, way)))
    return found


def _cost_of_folds(bench: Bench, case_id: str, way: Way, job: Job) -> float:
    """The time of all folds over that of one."""
    folds = tuple(bench.members[0].folds)
    if len(folds) == 1:
        return 1.0
    one = _try(bench, _ensemble(bench, folds[:1], job), case_id, way, job)[1]
    return max(1.0, _try(bench, _ensemble(bench, folds, job), case_id, way, job)[1] / max(one, 1e-6))


def _ensemble(bench: Bench, folds: tuple[int, ...], job: Job) -> Ensemble:
    return Ensemble(bench.plan, fold_members(bench.plan, bench.names, folds, job), [replace(m, folds=folds) for m in bench.members])


def _try(bench: Bench, ensemble: Ensemble, case_id: str, way: Way, job: Job) -> tuple[float, float]:
    """Dice and seconds."""
    options = Options(
        step_fraction=way.step_fraction, mirror=way.mirror, threads=job.threads or machine.cores(), max_ram_bytes=job.max_ram_bytes
    )
    return scored(bench, ensemble, case_id, options)


def scored(bench: Bench, ensemble: Ensemble, case_id: str, options: Options) -> tuple[float, float]:
    """Mean Dice of a held-out case, and the seconds its prediction took."""
    case, labels = bench.dataset.case(case_id), bench.plan.labels
    voxels = read_case(bench.dataset, case, with_label=False)
    began = perf_counter()
    label_zyx = predict_case(ensemble, voxels.image_czyx, voxels.geometry, options).label_zyx
    seconds = perf_counter() - began
    joint = joint_counts(read_stored_label(bench.dataset, case), label_values(label_zyx, labels), labels.ignore)
    return nan_mean([joint.of(values).dice for _, values in labels.targets]), seconds


def _voxels(configuration: Configuration, mm3: float, way: Way) -> float:
    tile = prod(configuration.patch_zyx)
    tiles = ceil(mm3 / prod(configuration.spacing_zyx_mm) / tile) / way.step_fraction**configuration.dimensions
    flips = 2 ** len(configuration.inference.mirror_axes) if way.mirror else 1
    return tile * tiles * flips


def spread(fold_of: Mapping[str, int]) -> list[str]:
    """A few cases, of different folds where there are several."""
    by_fold: dict[int, list[str]] = {}
    for case in sorted(fold_of):
        by_fold.setdefault(fold_of[case], []).append(case)
    ranked = [cases[depth] for depth in range(CASES) for cases in by_fold.values() if depth < len(cases)]
    return ranked[:CASES]
