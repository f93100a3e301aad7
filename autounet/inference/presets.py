"""Faster or better: steps, mirrors and folds tried on a few held-out cases, and what each costs and gains.

The Dice is that of networks which had not seen the case: one fold a configuration. What more folds cost is timed; what they
gain cannot be measured on cases that they were trained on, so a preset's Dice is that of one fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from autounet import machine, stop
from autounet.data.dataset import Dataset
from autounet.data.voxels import read_case, read_stored_label
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.held_out import fold_members
from autounet.inference.settings import label_values
from autounet.job import Job
from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import nan_mean
from autounet.store.selection import Chosen, Preset
from planners.errors import UserError
from planners.plan import Plan

CASES = 3
LONG_STEP = 0.75
LOSS_BALANCED, LOSS_FAST = 0.003, 0.02  # Dice that may be lost against the plan's own way
ALIKE = 1.1  # times within this are one time: a small image is one tile, whatever the step
LEAST_SECONDS = 20.0
SHARE = 0.02  # of the time that was trained


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


def ways_of(plan: Plan, names: Sequence[str]) -> tuple[Way, ...]:
    """What is worth trying, the cheapest first; the last is the plan's own."""
    wanted = [plan.configuration(name).inference for name in names]
    own = min(i.step_fraction for i in wanted)
    steps = (LONG_STEP, own) if own < LONG_STEP else (own,)
    mirrors = (False, True) if any(i.mirror_axes for i in wanted) else (False,)
    return tuple(Way(step, mirror) for mirror in mirrors for step in steps)


def measure_presets(
    dataset: Dataset, plan: Plan, members: Sequence[Chosen], fold_of: Mapping[str, int], job: Job, trained_seconds: float
) -> tuple[Preset, ...]:
    """Within a small share of the training's time; without anything measured when one case alone would take more."""
    names, folds = [m.configuration for m in members], members[0].folds
    bench = _Bench(dataset, plan, members, job, max(LEAST_SECONDS, SHARE * trained_seconds))
    cases = _spread(fold_of)
    if not cases:
        return ()
    with job.progress.task("measure presets", total=len(cases), unit="case") as task:
        for case in cases:
            stop.check()
            task.step(doing=case, n=0)
            if not bench.measure(case, fold_of[case]):
                break
            task.step(n=1)
    if not bench.rows:
        return ()
    dearer = bench.cost_of_folds(cases[0], fold_of[cases[0]], folds)
    tried = [
        Tried(way=way, dice=nan_mean([row[i][0] for row in bench.rows]), seconds=nan_mean([row[i][1] for row in bench.rows]))
        for i, way in enumerate(ways_of(plan, names))
    ]
    return presets_of(tried, len(folds), dearer, len(bench.rows))


def presets_of(tried: Sequence[Tried], folds: int, dearer: float, cases: int) -> tuple[Preset, ...]:
    """The plan's own way is best; the others are the cheapest that lose little. `dearer`: all folds against one."""
    own = tried[-1]

    def preset(name: str, loss: float, voting: int) -> Preset:
        good = [t for t in tried if not t.dice < own.dice - loss]  # nothing is known of a Dice that is no number
        quick = [t for t in good if t.seconds <= ALIKE * min(g.seconds for g in good)]
        chosen = max(quick, key=lambda t: t.dice) if loss else own
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


class _Bench:
    """Times and scores, until the budget is spent."""

    def __init__(self, dataset: Dataset, plan: Plan, members: Sequence[Chosen], job: Job, budget_seconds: float) -> None:
        self.dataset, self.plan, self.members, self.job = dataset, plan, members, job
        self.names = [m.configuration for m in members]
        self.left = budget_seconds
        self.rows: list[list[tuple[float, float]]] = []  # a case: (Dice, seconds) of each way

    def measure(self, case_id: str, fold: int) -> bool:
        """One case in every way; False when there is no time left for it."""
        ways = ways_of(self.plan, self.names)
        ensemble = self._ensemble((fold,))
        row: list[tuple[float, float]] = []
        try:
            for way in ways:
                row.append(self._try(ensemble, case_id, way))
                rest = sum(_cost(w) for w in ways[len(row) :]) / _cost(way) * row[-1][1]
                if rest > self.left:
                    return False
        except UserError:
            return True
        self.rows.append(row)
        return self.left > sum(seconds for _, seconds in row)

    def cost_of_folds(self, case_id: str, fold: int, folds: Sequence[int]) -> float:
        """The time of all folds over that of one, in the cheapest way; as many times as there are folds where it cannot be tried."""
        way = ways_of(self.plan, self.names)[0]
        if len(folds) == 1:
            return 1.0
        if self.left < len(folds) * self.rows[0][0][1]:
            return float(len(folds))
        try:
            one = self._try(self._ensemble((fold,)), case_id, way)[1]
            return max(1.0, self._try(self._ensemble(tuple(folds)), case_id, way)[1] / max(one, 1e-6))
        except UserError:
            return float(len(folds))

    def _ensemble(self, folds: tuple[int, ...]) -> Ensemble:
        return Ensemble(self.plan, fold_members(self.plan, self.names, folds, self.job), [replace(m, folds=folds) for m in self.members])

    def _try(self, ensemble: Ensemble, case_id: str, way: Way) -> tuple[float, float]:
        voxels = read_case(self.dataset, self.dataset.case(case_id), with_label=False)
        options = Options(
            step_fraction=way.step_fraction,
            mirror=way.mirror,
            threads=self.job.threads or machine.cores(),
            max_ram_bytes=self.job.max_ram_bytes,
        )
        began = perf_counter()
        label_zyx = predict_case(ensemble, voxels.image_czyx, voxels.geometry, options).label_zyx
        seconds = perf_counter() - began
        self.left -= seconds
        labels = self.plan.labels
        truth_zyx = read_stored_label(self.dataset, self.dataset.case(case_id))
        joint = joint_counts(truth_zyx, label_values(label_zyx, labels), labels.ignore)
        return nan_mean([joint.of(values).dice for _, values in labels.targets]), seconds


def _cost(way: Way) -> float:
    return (8.0 if way.mirror else 1.0) / way.step_fraction**3


def _spread(fold_of: Mapping[str, int]) -> list[str]:
    """A few cases, of different folds where there are several."""
    by_fold: dict[int, list[str]] = {}
    for case in sorted(fold_of):
        by_fold.setdefault(fold_of[case], []).append(case)
    ranked = [cases[depth] for depth in range(CASES) for cases in by_fold.values() if depth < len(cases)]
    return ranked[:CASES]
