"""The verb `train`, from files to masks, on phantoms."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autounet import phantoms
from autounet.data.splits import make_splits
from autounet.data.voxels import read_case
from autounet.images.read import read_image
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages import check, measure, prepare
from autounet.stages.train import RunRecord, in_order, train, wanted_folds
from autounet.store.lock import lock
from autounet.store.manifest import Manifest
from autounet.store.strict import read_value
from autounet.store.weights import load_tensors
from autounet.training import validation
from autounet.training.learner import Learner
from autounet.training.order import Extension, rounds, teams
from planners.errors import UserError
from planners.fingerprint import SidePair
from planners.plan import Architecture, Augmentation, Configuration, Plan, Sampling, Schedule, Step

QUICK = Schedule(
    optimiser="adamw",
    learning_rate=5e-3,
    momentum=0.9,
    weight_decay=1e-2,
    shape="warmup_stable_decay",
    warmup_fraction=0.05,
    decay_fraction=0.4,
    iterations=3,
    iterations_per_epoch=3,
    ema_decay=0.98,
)
MIRROR = (Step(kind="mirror", probability=0.5),)


def world(tmp_path: Path, kind: str, cases: int, size: int):
    """A phantom dataset, checked and measured, and a plan with one small network."""
    from planners import planner
    from planners.hardware import Budget, Hardware

    folder = tmp_path / kind
    phantoms.make(kind, folder, cases=cases, size=size, seed=1)
    job = Job(work=tmp_path / "work", progress=Progress.silent(), threads=1, device="cpu")
    job.work.mkdir()
    dataset = check.check(folder, job)
    fingerprint = measure.measure(dataset, job)
    machine = Hardware(accelerator="cpu", name="test", accelerator_bytes=0, host_bytes=8 * 2**30, cores=1)
    plan = planner("default")(fingerprint, machine, Budget(training_seconds=60, folds=3))
    return dataset, plan, job


def small(plan: Plan, schedule: Schedule = QUICK, patch: int = 16, stages: int = 2, **changes) -> Plan:
    """The first configuration of the plan with a network of a few features."""
    chosen = plan.configuration(plan.train[0])
    flat = chosen.dimensions == 2
    tiny = Architecture(
        kind="plain",
        dimensions=chosen.architecture.dimensions,
        features=(8, 16, 32)[:stages],
        strides_zyx=((1, 1, 1), *[(1, 2, 2) if flat else (2, 2, 2)] * (stages - 1)),
        kernels_zyx=((1, 3, 3) if flat else (3, 3, 3),) * stages,
        encoder_blocks=(2,) * stages,
        decoder_convolutions=(2,) * (stages - 1),
        deep_supervision=False,
    )
    patch_zyx = (1, patch, patch) if flat else (patch,) * 3
    changed: dict = {
        "architecture": tiny,
        "patch_zyx": patch_zyx,
        "batch_size": 2,
        "schedule": schedule,
        "loss": replace(chosen.loss, level_weights=(1.0,)),
        "augmentation": replace(chosen.augmentation, steps=MIRROR),
        "inference": replace(chosen.inference, mirror_axes=(), precision="float32"),
        **changes,
    }
    made: Configuration = replace(chosen, **changed)
    others = tuple(c for c in plan.configurations if c.name != made.name and c.previous != made.name)
    return replace(plan, configurations=(made, *others), train=(made.name,))


@pytest.fixture
def organs(tmp_path):
    dataset, plan, job = world(tmp_path, "organs", 6, 20)
    plan = small(plan)
    prepare.prepare(dataset, plan, job)
    return dataset, plan, job, make_splits(dataset, 3, 0)


def test_a_fold_leaves_weights_a_record_and_masks_on_the_grid_of_its_images(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    folder = job.work / "runs" / plan.train[0] / "fold_0"
    record = read_value(folder / "run.json", RunRecord)
    assert record.iterations == 3
    assert record.validated == splits.folds[0].validation
    assert record.failed_cases == ()
    assert sys.platform != "linux" or 2**26 < record.held_bytes < 2**34
    for case in splits.folds[0].validation:
        mask = read_image(next((folder / "validation").glob(f"{case}.*")))
        truth = read_case(dataset, dataset.case(case))
        assert mask.voxels_czyx.shape[1:] == truth.geometry.shape_zyx
        np.testing.assert_allclose(mask.geometry.affine_ras, truth.geometry.affine_ras)
        assert set(np.unique(mask.voxels_czyx)) <= {c.value for c in plan.labels.classes}
    weights = load_tensors(folder / "weights.safetensors")
    assert all(np.isfinite(w.numpy()).all() for w in weights.values())
    assert Manifest.open(job.work).has(f"runs/{plan.train[0]}/fold_0/weights.safetensors", check="hash")


def test_typed_again_what_is_trained_stays_and_what_is_missing_is_trained(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    root = job.work / "runs" / plan.train[0]
    before = (root / "fold_0" / "weights.safetensors").stat().st_mtime_ns
    train(dataset, plan, splits, job, folds=(0, 1))
    assert (root / "fold_0" / "weights.safetensors").stat().st_mtime_ns == before
    assert (root / "fold_1" / "run.json").exists()


def test_more_iterations_go_on_from_the_last_checkpoint(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    train(dataset, plan, splits, job, folds=(0,), iterations=5)
    folder = job.work / "runs" / plan.train[0] / "fold_0"
    assert read_value(folder / "run.json", RunRecord).iterations == 5
    trained = [e for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["kind"] == "train"]
    assert [e["step"] for e in trained] == [1, 2, 3, 4, 5]


def trained_steps(folder: Path) -> list[int]:
    return [e["step"] for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["kind"] == "train"]


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_fold_is_extended_as_if_it_had_been_planned_so_long_from_where_it_stands(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    folder = job.work / "runs" / plan.train[0] / "fold_0"
    first = load_tensors(folder / "weights.safetensors")
    train(dataset, plan, splits, job, folds=(0,), extend=Extension(iterations=4))
    assert read_value(folder / "run.json", RunRecord).iterations == 7
    assert trained_steps(folder) == [1, 2, 3, 4, 5, 6, 7]
    second = load_tensors(folder / "weights.safetensors")
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    rates = [e["rate"] for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["kind"] == "train"]
    assert rates[3] == pytest.approx(5e-3)  # step 3 of 7: before the decay, which had ended at step 3 of 3
    assert rates[6] < rates[5] < rates[4]
    train(dataset, plan, splits, job, folds=(0,))  # what was asked for before is not asked for again
    assert trained_steps(folder) == [1, 2, 3, 4, 5, 6, 7]
    train(dataset, plan, splits, job, folds=(0,), extend=Extension(seconds=1.0))
    assert read_value(folder / "run.json", RunRecord).seconds >= 1.0


def test_a_fold_that_is_not_finished_is_trained_to_its_end_and_not_beyond(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,), extend=Extension(iterations=4))
    assert read_value(job.work / "runs" / plan.train[0] / "fold_0" / "run.json", RunRecord).iterations == 3


@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_extension_that_is_stopped_leaves_what_was_finished_and_goes_on_to_the_same_end(organs, monkeypatch, where):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    folder = job.work / "runs" / plan.train[0] / "fold_0"
    kept = ("weights.safetensors", "run.json", "validation/")
    before = {name: data for name, data in bytes_below(folder).items() if name.startswith(kept)}
    assert len(before) > 3
    with monkeypatch.context() as patch:
        if where == "training":
            patch.setattr(Learner, "step", dies)
        else:
            patch.setattr(validation, "write_opinion", dies)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, plan, splits, job, folds=(0,), extend=Extension(iterations=4))
    assert {name: data for name, data in bytes_below(folder).items() if name.startswith(kept)} == before
    assert Manifest.open(job.work).damaged() == ()
    train(dataset, plan, splits, job, folds=(0,))  # finished, as before
    assert read_value(folder / "run.json", RunRecord).iterations == 3
    train(dataset, plan, splits, job, folds=(0,), extend=Extension(iterations=4))
    assert read_value(folder / "run.json", RunRecord).iterations == 7
    assert not (folder / "next.safetensors").exists()


def dies(*_):
    raise KeyboardInterrupt


def test_a_fold_whose_checkpoints_are_gone_says_so_instead_of_beginning_anew(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    shutil.rmtree(job.work / "runs" / plan.train[0] / "fold_0" / "checkpoints")
    with pytest.raises(UserError, match="checkpoints are gone"):
        train(dataset, plan, splits, job, folds=(0,), extend=Extension(iterations=4))


def test_a_training_shorter_than_an_epoch_may_become_longer(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,), iterations=2)
    train(dataset, plan, splits, job, folds=(0,), iterations=4)
    assert read_value(job.work / "runs" / plan.train[0] / "fold_0" / "run.json", RunRecord).iterations == 4


def test_a_second_training_of_the_same_fold_is_refused_by_name(organs):
    dataset, plan, job, splits = organs
    with lock(job.work / "runs" / plan.train[0] / "fold_0.lock", "training fold 0 of 3d_fullres"), pytest.raises(UserError) as raised:
        train(dataset, plan, splits, job, folds=(0,))
    assert "training fold 0" in str(raised.value)
    assert not (job.work / "runs" / plan.train[0] / "fold_0" / "run.json").exists()


def test_a_fold_that_cannot_be_trained_does_not_lose_the_others_and_is_named_at_the_end(organs):
    dataset, plan, job, splits = organs
    root = job.work / "runs" / plan.train[0]
    with lock(root / "fold_0.lock", "training elsewhere"), pytest.raises(UserError, match="training elsewhere"):
        train(dataset, plan, splits, job, folds=(0, 1))
    assert not (root / "fold_0" / "run.json").exists()
    assert (root / "fold_1" / "run.json").exists()
    with lock(root / "fold_0.lock", "one"), lock(root / "fold_2.lock", "two"), pytest.raises(UserError, match="2 of 3 folds"):
        train(dataset, plan, splits, job)


def test_side_by_side_a_time_budget_is_shared_by_the_trainings_that_follow_each_other(organs):
    first = organs[1].configurations[0]
    second, flat = replace(first, name="3d_cascade", previous=first.name), replace(first, name="2d")
    assert rounds([first], folds=5, teams=1) == 5
    assert rounds([first, flat], folds=5, teams=4) == 3  # ten trainings, four at a time
    assert rounds([first, flat, second], folds=5, teams=4) == 3 + 2  # the second stage waits for the first
    assert rounds([second], folds=5, teams=5) == 1  # its first stage was trained before


def test_devices_join_for_a_fold_only_where_there_are_fewer_folds_than_devices_and_the_batch_goes_round(organs):
    four = tuple(f"cuda:{number}" for number in range(4))
    one = replace(organs[1].configurations[0], batch_size=2)
    large = replace(one, name="large", batch_size=8)
    second = replace(large, name="3d_cascade", previous="large")
    assert teams(four, [one], folds=5) == teams(four, [one], folds=3) == tuple((device,) for device in four)
    assert teams(four, [one], folds=2) == (four[:2], four[2:])
    assert teams(four, [one], folds=1) == (four[:2],)  # two samples in a batch: two devices stay idle
    assert teams(four, [large], folds=1) == teams(four, [large, second], folds=1) == (four,)  # a cascade's stages follow each other
    assert teams(four, [large, one], folds=1) == (four[:2], four[2:])
    assert teams(("cpu", "cpu"), [one], folds=1) == (("cpu", "cpu"),)
    for unlike in (("cuda:0", "cpu"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0"), ("mps", "cuda:0")):
        assert teams(unlike, [one], folds=1) == tuple((device,) for device in unlike)
    assert rounds([one], folds=1, teams=1) == 1


@pytest.mark.slow
def test_a_cascade_is_trained_side_by_side_and_its_weights_are_those_of_one_after_another(organs, tmp_path):
    dataset, plan, job, splits = organs
    first = plan.configurations[0]
    second = replace(first, name="3d_cascade", previous=first.name)
    both = replace(plan, configurations=(second, first), train=("3d_cascade",))
    prepare.prepare(dataset, both, job)
    other = replace(job, work=tmp_path / "other")
    shutil.copytree(job.work, other.work)
    train(dataset, both, splits, job)
    train(dataset, both, splits, replace(other, threads=2), devices=("cpu", "cpu"))
    found = sorted(path.relative_to(job.work) for path in (job.work / "runs").rglob("weights.safetensors"))
    assert len(found) == 6
    for path in found:
        assert (job.work / path).read_bytes() == (other.work / path).read_bytes()


def test_a_fold_of_another_plan_is_not_taken_for_this_one(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0,))
    other = small(plan, replace(QUICK, learning_rate=1e-4))
    with pytest.raises(UserError, match="another plan"):
        train(dataset, other, splits, job, folds=(0,))


def test_a_case_whose_cache_is_damaged_is_named(organs):
    from autounet.data.prepared import open_prepared

    dataset, plan, job, splits = organs
    name = splits.folds[0].train[0]
    path = open_prepared(job.work, plan, plan.train[0])[name].folder / "image.b2nd"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle - 200 : middle + 200] = bytes(400)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError) as raised:
        train(dataset, plan, splits, job, folds=(0,), iterations=40)
    assert raised.value.case == name


def test_a_time_budget_ends_the_training_and_is_shared_between_the_folds(organs):
    dataset, plan, job, splits = organs
    train(dataset, plan, splits, job, folds=(0, 1), seconds=6.0)
    for fold in (0, 1):
        record = read_value(job.work / "runs" / plan.train[0] / f"fold_{fold}" / "run.json", RunRecord)
        assert 3.0 <= record.seconds < 9.0
        assert record.iterations > 0


def test_first_stages_come_before_the_stages_that_need_them(organs):
    _, plan, _, splits = organs
    first = plan.configurations[0]
    second = replace(first, name="3d_cascade", previous=first.name)
    both = replace(plan, configurations=(second, first), train=("3d_cascade",))
    assert [c.name for c in in_order(both, None)] == [first.name, "3d_cascade"]
    assert wanted_folds(plan, splits, None) == [0, 1, 2]
    with pytest.raises(UserError, match=r"no fold 7.*Choose from 0 to 2"):  # B168
        wanted_folds(plan, splits, (7,))


def test_a_cascade_is_trained_on_the_masks_of_folds_that_had_not_seen_the_case(organs):
    dataset, plan, job, splits = organs
    first = plan.configurations[0]
    second = replace(first, name="3d_cascade", previous=first.name)
    both = replace(plan, configurations=(first, second), train=(first.name, "3d_cascade"))
    prepare.prepare(dataset, both, job)
    with pytest.raises(UserError, match="Train every fold"):
        train(dataset, both, splits, job, folds=(0,), configurations=("3d_cascade",))
    train(dataset, both, splits, job)
    weights = load_tensors(job.work / "runs" / "3d_cascade" / "fold_0" / "weights.safetensors")
    assert weights["encoder.stages.0.0.conv.weight"].shape[1] == 1 + len(plan.labels.foreground)


def dice_of(job: Job, plan: Plan) -> dict[str, float | None]:
    record = read_value(job.work / "runs" / plan.train[0] / "fold_0" / "run.json", RunRecord)
    return {t.target: t.dice for t in record.validation}


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["flips across the body", "all flips and all that the plan augments with"])
def test_organs_are_learnt_and_left_is_never_right(tmp_path, augmentation):
    dataset, plan, job = world(tmp_path, "organs", 8, 36)  # kidneys of some fifty voxels; smaller ones measure rounding
    pair = SidePair(left="kidney_left", right="kidney_right")
    steps = Augmentation(steps=MIRROR, mirror_axes=(2,), swap_sides=True)
    if augmentation.startswith("all"):
        planned = plan.configuration(plan.train[0]).augmentation
        assert {step.kind for step in planned.steps} >= {"rotation", "scaling", "mirror"}
        steps = replace(planned, mirror_axes=(0, 1, 2), swap_sides=True)
    # Which side a kidney is on shows in its place alone, so the network has to see the whole body.
    chosen = small(plan, replace(QUICK, iterations=500), stages=3, augmentation=steps, patch_zyx=(16, 36, 40))
    plan = replace(chosen, side_pairs=(pair,))
    prepare.prepare(dataset, plan, job)
    splits = make_splits(dataset, 4, 0)
    train(dataset, plan, splits, job, folds=(0,))
    scores = dice_of(job, plan)
    assert scores["liver"] > 0.85
    assert min(scores["kidney_left"], scores["kidney_right"]) > 0.6
    names = {c.name: c.value for c in plan.labels.classes}
    for case in splits.folds[0].validation:
        mask = read_image(next((job.work / "runs" / plan.train[0] / "fold_0" / "validation").glob(f"{case}.*"))).voxels_czyx[0]
        truth = read_image(dataset.folder / dataset.case(case).label.path).voxels_czyx[0]
        left, right = names["kidney_left"], names["kidney_right"]
        swapped = np.sum((mask == left) & (truth == right)) + np.sum((mask == right) & (truth == left))
        assert swapped <= 0.02 * np.sum((truth == left) | (truth == right))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size", "least"), [("lesions", 24, 0.4), ("multichannel", 24, 0.6), ("cells", 64, 0.8)])
def test_phantoms_are_learnt_in_minutes(tmp_path, kind, size, least):
    dataset, plan, job = world(tmp_path, kind, 8, size)
    plan = small(plan, replace(QUICK, iterations=400), patch=min(size, 32), sampling=Sampling(foreground_fraction=0.5))
    prepare.prepare(dataset, plan, job)
    train(dataset, plan, make_splits(dataset, 4, 0), job, folds=(0,))
    known = [d for d in dice_of(job, plan).values() if d is not None]
    assert np.mean(known) > least
