"""Four datasets on which another kind of network is best by construction, three networks really trained on each, and what is chosen."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autounet.data.splits import make_splits, write_splits
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages import check, measure, prepare, select
from autounet.stages.train import train
from autounet.store.selection import Candidate, Selection
from planners import planner
from planners.fingerprint import Triple
from planners.hardware import Budget, Hardware
from planners.plan import Architecture, Configuration, Plan
from tests.stages.contest_phantoms import SHAPE_ZYX, write_contest
from tests.stages.test_train import QUICK

pytestmark = pytest.mark.slow

ALONE = FLAT, FINE, COARSE = "2d", "3d_fullres", "3d_lowres"
BEST = {"far_away": (COARSE,), "slices_apart": (FLAT,), "across_slices": (FINE,), "both_ways": (FLAT, FINE)}
MARGIN = {"far_away": 0.15, "slices_apart": 0.15, "across_slices": 0.15, "both_ways": 0.03}  # Dice; a pair has half of both to gain at most
CASES, FOLDS, STEPS = 12, 3, 200
TEAMS = 3 + 3 * 3 + 4  # alone; pairs, equal or leaning to either; all three, equal or leaning to one


@dataclass(frozen=True)
class Contest:
    """What was chosen of what was trained."""

    plan: Plan
    selection: Selection

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(m.configuration for m in self.selection.members)

    def candidate(self, *names: str) -> Candidate:
        """With equal weights."""
        return next(c for c in self.selection.candidates if c.configurations == names and not c.weights)


def contestant(like: Configuration, name: str, patch_zyx: Triple, batch: int) -> Configuration:
    """A small network of the same widths and steps as the others; all of them see 4000 to 6000 voxels a step."""
    flat, coarse = name == FLAT, name == COARSE
    strides: tuple[Triple, ...] = ((1, 1, 1), *[(1, 2, 2)] * 3) if flat else ((1, 1, 1), *[(2, 2, 2)] * 2)
    stages = len(strides)
    z, y, x = SHAPE_ZYX
    return replace(
        like,
        name=name,
        spacing_zyx_mm=(2.0, 2.0, 2.0) if coarse else (1.0, 1.0, 1.0),
        median_shape_zyx=(z // 2, y // 2, x // 2) if coarse else SHAPE_ZYX,
        patch_zyx=patch_zyx,
        batch_size=batch,
        accumulate=1,
        architecture=Architecture(
            kind="plain",
            dimensions=2 if flat else 3,
            features=(8, 16, 16, 16)[:stages],
            strides_zyx=strides,
            kernels_zyx=((1, 3, 3) if flat else (3, 3, 3),) * stages,
            encoder_blocks=(2,) * stages,
            decoder_convolutions=(1,) * (stages - 1),
            deep_supervision=False,
        ),
        schedule=replace(QUICK, iterations=STEPS, iterations_per_epoch=STEPS),
        loss=replace(like.loss, level_weights=(1.0,)),
        augmentation=replace(like.augmentation, steps=(), mirror_axes=()),
        inference=replace(like.inference, mirror_axes=(), precision="float32"),
    )


def held(kind: str, folder: Path) -> Contest:
    """From images to a choice, as the verbs do it."""
    write_contest(kind, folder / "data", CASES)
    job = Job(work=folder / "work", progress=Progress.silent(), threads=1, device="cpu")
    job.work.mkdir()
    dataset = check.check(folder / "data", job)
    machine = Hardware(accelerator="cpu", name="test", accelerator_bytes=0, host_bytes=8 * 2**30, cores=1)
    plan = planner("default")(measure.measure(dataset, job), machine, Budget(training_seconds=60, folds=FOLDS))
    like = plan.configuration(plan.train[0])
    contestants = (
        contestant(like, FLAT, (1, 32, 32), 4),
        contestant(like, FINE, (8, 16, 16), 2),
        contestant(like, COARSE, (12, 16, 16), 2),
    )
    plan = replace(plan, configurations=contestants, train=(FLAT, FINE, COARSE), validation=replace(plan.validation, cases=0))
    splits = make_splits(dataset, FOLDS, 0)
    write_splits(job.work / "splits.json", splits)
    prepare.prepare(dataset, plan, job)
    train(dataset, plan, splits, job)
    return Contest(plan, select.select(dataset, plan, job))


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Each dataset's, held when it is first asked for."""
    known: dict[str, Contest] = {}

    def of(kind: str) -> Contest:
        if kind not in known:
            known[kind] = held(kind, tmp_path_factory.mktemp(kind))
        return known[kind]

    return of


def test_the_contest_is_fair(contest):
    plan = contest("far_away").plan
    assert {c.schedule.iterations for c in plan.configurations} == {STEPS}
    assert len({(c.schedule, c.loss, c.sampling, c.augmentation, c.architecture.features[:3]) for c in plan.configurations}) == 1


@pytest.mark.parametrize("kind", list(BEST))
def test_what_must_be_best_is_best_by_far_and_is_chosen(contest, kind):
    held = contest(kind)
    assert held.chosen == BEST[kind], table(held)
    assert len(held.selection.candidates) == TEAMS
    best = held.candidate(*BEST[kind])
    assert best.within_noise, table(held)
    assert best.dice > 0.8, table(held)
    losers = [held.candidate(name) for name in ALONE if (name,) != BEST[kind]]
    assert not any(loser.within_noise for loser in losers), table(held)
    assert max(loser.dice for loser in losers) < best.dice - MARGIN[kind], table(held)
    chosen, numbers = held.selection.why.split(f", {FOLDS} folds: Dice ")
    assert tuple(name for name in ALONE if name in chosen) == BEST[kind]
    assert "next" in numbers or "and costs more" in numbers


def test_who_wins_alone_on_one_dataset_is_far_behind_on_all_others(contest):
    assert {kind: contest(kind).chosen for kind in BEST} == BEST
    for kind, best in BEST.items():
        for other in set(BEST) - {kind}:
            there = contest(other).candidate(*best)
            assert len(best) > 1 or not there.within_noise, table(contest(other))


def table(held: Contest) -> str:
    """What a failure should say."""
    rows = [f"{c.name}: {c.dice:.4f}, p {c.p_against_best}, within noise {c.within_noise}" for c in held.selection.candidates]
    return "\n".join([held.selection.why, *rows])
