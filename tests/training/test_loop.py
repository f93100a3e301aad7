import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autounet import stop
from autounet.job import Job
from autounet.progress import Progress
from autounet.store.checkpoints import Checkpoints
from autounet.training import fold as folds
from autounet.training import loop
from autounet.training.fold import Fold, fresh_learner, train_fold
from autounet.training.loader import Loader
from autounet.training.sample import Source
from planners.errors import UserError
from planners.plan import Augmentation, Schedule
from tests.training.tiny import case, recipe

SHORT = Schedule(
    shape="warmup_stable_decay", warmup_fraction=0.1, decay_fraction=0.3, iterations=12, iterations_per_epoch=4, momentum=0.9, ema_decay=0.9
)


def job(tmp_path: Path) -> Job:
    return Job(work=tmp_path, progress=Progress.silent(), threads=1, device="cpu")


def fold(tmp_path: Path, schedule=SHORT, **more):
    cases = {"a": case(1), "b": case(2)}
    return Fold(recipe=recipe(schedule=schedule), cases=cases, folder=tmp_path / "fold_0", **more)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def unbroken(tmp_path):
    return train_fold(fold(tmp_path / "unbroken"), job(tmp_path)).weights


def test_stopped_after_every_single_step_the_weights_are_those_of_an_unbroken_run(tmp_path, unbroken, monkeypatch):
    stops = 0
    real = loop.Training.run

    def interrupted(self, loader):
        end = self.state.step + 1

        def event(kind, **fields):
            if kind == "train" and fields["step"] >= end and fields["step"] < SHORT.iterations:
                stop.request("test")

        monkeypatch.setattr(self.around.log, "event", event)
        return real(self, loader)

    monkeypatch.setattr(loop.Training, "run", interrupted)
    while True:
        stop.clear()
        try:
            weights = train_fold(fold(tmp_path / "broken"), job(tmp_path)).weights
            break
        except stop.Stopped:
            stops += 1
        finally:
            stop.clear()
    assert stops == SHORT.iterations - 1
    assert equal(weights, unbroken)


def test_killed_between_checkpoints_the_lost_steps_are_made_again_bit_for_bit(tmp_path, unbroken, monkeypatch):
    step = loop.Learner.step
    for died_at in (3, 7, 11):
        made = 0

        def dying(self, batch, rate, parts=1, died_at=died_at):
            nonlocal made
            made += 1
            if made > died_at:
                raise KeyboardInterrupt
            return step(self, batch, rate, parts)

        monkeypatch.setattr(loop.Learner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train_fold(fold(tmp_path / f"died_{died_at}"), job(tmp_path))
        monkeypatch.setattr(loop.Learner, "step", step)
        assert equal(train_fold(fold(tmp_path / f"died_{died_at}"), job(tmp_path)).weights, unbroken)


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_the_number_of_workers_changes_no_weight(tmp_path, unbroken, monkeypatch, workers):
    monkeypatch.setattr(folds, "loader_workers", lambda how, threads: workers)
    assert equal(train_fold(fold(tmp_path / "workers"), job(tmp_path)).weights, unbroken)


def test_batches_are_gone_when_nobody_holds_them_without_a_search_for_circles():
    source = Source(recipe=recipe(), cases={"a": case(1), "b": case(2)})
    gc.collect()
    gc.disable()  # pinned memory of many batches would fill a machine before it looks
    try:
        with Loader(source, 2, (0, 1)) as loader:
            batches = loader.batches(0)
            seen = [weakref.ref(next(batches).image) for _ in range(8)]
            batches.close()
            del batches
        assert [one() for one in seen] == [None] * 8
    finally:
        gc.enable()


def test_adamw_resumes_bit_for_bit_too(tmp_path, monkeypatch):
    plan = replace(SHORT, optimiser="adamw", learning_rate=1e-3)
    whole = train_fold(fold(tmp_path / "whole", plan), job(tmp_path)).weights
    real, calls = loop.Learner.step, []

    def stopping(self, batch, rate, parts=1):
        calls.append(rate)
        if len(calls) == 5:
            stop.request("test")
        return real(self, batch, rate, parts)

    monkeypatch.setattr(loop.Learner, "step", stopping)
    with pytest.raises(stop.Stopped):
        train_fold(fold(tmp_path / "parts", plan), job(tmp_path))
    stop.clear()
    assert equal(train_fold(fold(tmp_path / "parts", plan), job(tmp_path)).weights, whole)


def test_one_phantom_is_learnt_by_heart(tmp_path):
    plan = replace(SHORT, iterations=160, learning_rate=0.02, ema_decay=0.95)
    made = recipe(schedule=plan, augmentation=Augmentation(steps=()), cases=("a",), patch=(24, 24, 24))
    held = case(1)
    trained = train_fold(Fold(recipe=made, cases={"a": held}, folder=tmp_path / "fold_0"), job(tmp_path))
    with torch.no_grad():
        found = trained.network.cpu()(torch.from_numpy(held.image_czyx)[None]).argmax(1)[0].numpy()
    for k in (1, 2):
        dice = 2 * np.sum((found == k) & (held.label_zyx == k)) / (np.sum(found == k) + np.sum(held.label_zyx == k))
        assert dice >= 0.98


class Poisoned:
    """A source whose images are not numbers in some steps."""

    def __init__(self, real, steps):
        self.real, self.steps, self.recipe = real, steps, real.recipe

    def sample(self, step, position):
        made = self.real.sample(step, position)
        if step in self.steps:
            made.image_czyx.fill_(float("nan"))
        return made


def poison(monkeypatch, steps):
    monkeypatch.setattr(folds, "Source", lambda **given: Poisoned(Source(**given), steps))


def test_one_batch_that_is_not_finite_is_passed_over(tmp_path, monkeypatch):
    poison(monkeypatch, {4})
    trained = train_fold(fold(tmp_path), job(tmp_path))
    assert all(torch.isfinite(w).all() for w in trained.weights.values())
    assert '"not_finite"' in (tmp_path / "fold_0" / "events.jsonl").read_text()


def test_a_loss_that_stays_not_finite_goes_back_halves_the_rate_once_and_then_names_the_case(tmp_path, monkeypatch):
    poison(monkeypatch, set(range(3, 100)))
    with pytest.raises(UserError) as raised:
        train_fold(fold(tmp_path), job(tmp_path))
    assert raised.value.case in ("a", "b")
    assert "not finite" in raised.value.problem
    kept = Checkpoints(tmp_path / "fold_0" / "checkpoints").latest()
    assert all(torch.isfinite(value.float()).all() for value in kept.tensors.values())


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    train_fold(fold(tmp_path), job(tmp_path))
    other = fold(tmp_path, replace(SHORT, learning_rate=0.5))
    with pytest.raises(UserError, match="another plan"):
        train_fold(other, job(tmp_path))


def test_asking_for_more_steps_goes_on_where_the_shorter_training_ended(tmp_path):
    train_fold(fold(tmp_path), job(tmp_path))
    longer = train_fold(fold(tmp_path, replace(SHORT, iterations=16)), job(tmp_path))
    assert longer.state.step == 16
    events = (tmp_path / "fold_0" / "events.jsonl").read_text()
    assert events.count('"kind": "train"') == 16


def test_scores_on_the_way_are_kept_and_a_plateau_calls_the_decay(tmp_path):
    plan = replace(SHORT, iterations=60, stop_at_plateau=True)
    seen = []

    def validate(network):
        assert not network.training
        seen.append(1)
        return 0.5, (("ball", 0.5), ("box", None))

    made = fold(tmp_path, plan, validate=validate)
    trained = train_fold(made, job(tmp_path))
    assert seen
    assert trained.state.scored[0].targets == (("ball", 0.5), ("box", None))
    assert trained.state.step < 60
    assert trained.state.decay_from is not None


def test_asked_to_stop_while_it_scores_it_loses_no_step_and_scores_when_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 1e9)
    asked = []

    def validate(network):
        if not asked:
            asked.append(1)
            stop.request("test")
            stop.check()
        return 0.5, (("ball", 0.5),)

    plan = replace(SHORT, iterations=8)
    with pytest.raises(stop.Stopped):
        train_fold(fold(tmp_path, plan, validate=validate), job(tmp_path))
    stop.clear()
    saved = Checkpoints(tmp_path / "fold_0" / "checkpoints").latest()
    assert (saved.step, saved.state["scored"]) == (1, [])
    trained = train_fold(fold(tmp_path, plan, validate=validate), job(tmp_path))
    assert trained.state.scored[0].step == 2
    unbroken = train_fold(fold(tmp_path / "unbroken", plan), job(tmp_path))
    assert equal(trained.weights, unbroken.weights)


def test_micro_batches_give_the_gradient_of_the_whole_when_dice_is_per_sample(tmp_path):
    made = fold(tmp_path)
    source = Source(recipe=made.recipe, cases=made.cases)
    from autounet.training.execution import Execution
    from autounet.training.sample import collate

    batch = collate([source.sample(0, 0), source.sample(0, 1)], flat=False)
    results = []
    for parts in (1, 2):
        learner = fresh_learner(made, Execution(device=torch.device("cpu")))
        report = learner.step(batch, 0.01, parts)
        results.append((report.loss, learner.final_weights()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    for name, weight in results[0][1].items():
        torch.testing.assert_close(weight, results[1][1][name], atol=1e-5, rtol=1e-4)
