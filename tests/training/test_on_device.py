"""Samples augmented where the network trains: the same ones, and who decides that it is done there."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from autounet import stop
from autounet.augment.draw import draw
from autounet.augment.rows import apply_rounds, rounds
from autounet.augment.together import Box, warped
from autounet.job import Job
from autounet.progress import Progress
from autounet.rng import generator
from autounet.store.checkpoints import Checkpoints
from autounet.training import fold as folds
from autounet.training import on_device, trial
from autounet.training.execution import Execution
from autounet.training.fold import Fold, fresh_learner, train_fold
from autounet.training.loader import Loader, Workers
from autounet.training.loop import Surroundings
from autounet.training.memory_trace import Counter
from autounet.training.on_device import Augmenter, hindrance, making
from autounet.training.sample import SampleError, Source
from autounet.training.trial import Choice, NoRoomError, Timing, rehearsal, timing, tried
from planners.fingerprint import SidePair
from planners.labels import LabelClass, Labels
from planners.plan import ChannelPlan, Loss, LossTerm, Schedule, Step
from tests.augment.test_together import Watched
from tests.training.tiny import REFERENCE, MemoryCase, case, recipe

CPU, NOWHERE = torch.device("cpu"), torch.device("meta")
QUIET = replace(REFERENCE, steps=tuple(replace(step, probability=0.4) for step in REFERENCE.steps if step.kind != "noise"))
ELASTIC = replace(QUIET, steps=(Step(kind="elastic", probability=0.5, low=1.0, high=2.0), *QUIET.steps))
SHORT = Schedule(iterations=8, iterations_per_epoch=4, momentum=0.9, ema_decay=0.9)


def labels(count, ignore=None, named=()):
    names = named or [f"class {value}" for value in range(count)]
    return Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(names)), ignore=ignore)


def two_cases(shape=(24, 24, 24)):
    return {"a": case(1, shape), "b": case(2, (shape[0], 26, 22))}


def many_classes(count, ignore):
    rng = np.random.default_rng(0)
    found = {}
    for name in ("a", "b"):
        drawn = rng.integers(0, count + ignore, (24, 24, 24)).astype(np.int8)
        drawn[:, :, :5] = -1  # outside the mask
        found[name] = MemoryCase(rng.normal(size=(1, 24, 24, 24)).astype(np.float32), drawn, ignore=count if ignore else None)
    return found


def masked(made):
    return replace(made, plan=replace(made.plan, channels=(ChannelPlan(name="mr", modality="mr", scheme="zscore", mask_outside=True),)))


SIDES = {
    "labels": labels(3, named=("background", "kidney_left", "kidney_right")),
    "side_pairs": (SidePair(left="kidney_left", right="kidney_right", axis=2),),
}
KINDS = {
    "volumes": lambda: (recipe(augmentation=ELASTIC, batch=4), two_cases()),
    "slices": lambda: (recipe(dimensions=2, patch=(1, 16, 20), augmentation=ELASTIC, batch=5), two_cases()),
    "thick slices": lambda: (recipe(patch=(8, 16, 16), augmentation=replace(QUIET, in_plane_only=True), batch=3), two_cases((9, 24, 24))),
    "small cases": lambda: (recipe(augmentation=QUIET), {name: case(3, (10, 24, 24)) for name in ("a", "b")}),
    "sixty classes": lambda: (masked(recipe(augmentation=QUIET, labels=labels(60))), many_classes(60, False)),
    "ignore": lambda: (masked(recipe(augmentation=QUIET, labels=labels(5, ignore=9))), many_classes(5, True)),
    "sides": lambda: (recipe(augmentation=replace(QUIET, swap_sides=True), **SIDES), two_cases()),
    "partly annotated": lambda: (replace(recipe(augmentation=QUIET), annotated=(("a", (1,)),)), two_cases()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_from_the_device_is_the_one_from_the_threads(kind):
    made, cases = KINDS[kind]()
    source = Source(recipe=made, cases=cases)
    places = tuple(range(made.configuration.batch_size))
    warps = set()
    with Loader(source, 1, places) as whole, Loader(source, 1, places, making(source, CPU)) as split:
        one, other = whole.batches(3), split.batches(3)
        for step in range(3, 9):
            expected, found = next(one), next(other)
            torch.testing.assert_close(found.image, expected.image, atol=1e-3, rtol=1e-3)
            assert found.targets.classes.dtype == expected.targets.classes.dtype == torch.int16
            assert torch.equal(found.targets.classes, expected.targets.classes)
            assert found.cases == expected.cases
            annotated = (found.targets.annotated_bk, expected.targets.annotated_bk)
            assert annotated == (None, None) or torch.equal(*annotated)
            warps |= {source.raw(step, place, CPU).box.drawn.warped for place in places}
        one.close()
        other.close()
    assert warps == {True, False}


def test_what_is_read_for_the_device_is_what_is_read_for_the_threads():
    read = []
    for _ in range(2):
        cases = two_cases()
        source = Source(recipe=recipe(), cases=cases)
        for step in range(10):
            source.sample(step, 1) if not read else source.raw(step, 1, CPU)
        read.append([c.boxes for c in cases.values()])
    assert read[0] == read[1]


@pytest.mark.parametrize("kind", ["ignore", "sides", "partly annotated", "slices"])
def test_a_whole_batch_is_made_without_waiting_for_the_device(kind):
    made, cases = KINDS[kind]()
    noisy = replace(made.configuration.augmentation, steps=(*QUIET.steps, Step(kind="noise", probability=0.9, low=0.1, high=0.2)))
    made = replace(
        made, configuration=replace(made.configuration, augmentation=replace(made.configuration.augmentation, steps=noisy.steps))
    )
    source, augmenter = Source(recipe=made, cases=cases), Augmenter(made, NOWHERE)
    for step in range(4):
        raws = [source.raw(step, place, NOWHERE) for place in range(made.configuration.batch_size)]
        with Watched():
            batch = augmenter.batch(raws)
        assert batch.image.device == batch.targets.classes.device == NOWHERE
        assert batch.image.ndim == made.configuration.dimensions + 2


def test_noise_on_the_device_is_as_strong_and_of_other_numbers():
    noise = Step(kind="noise", probability=1.0, low=0.5, high=0.5)
    source = Source(recipe=recipe(augmentation=replace(REFERENCE, steps=(noise,))), cases=two_cases())
    clean = Source(recipe=recipe(augmentation=replace(REFERENCE, steps=())), cases=two_cases())
    quiet = clean.sample(0, 0).image_czyx
    here = source.sample(0, 0).image_czyx - quiet
    there = Augmenter(source.recipe, CPU).batch([source.raw(0, 0, CPU)]).image[0] - quiet
    assert float(here.std()) == pytest.approx(0.5, rel=0.05)
    assert float(there.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float(np.corrcoef(here.flatten(), there.flatten())[0, 1])) < 0.06


@pytest.mark.parametrize(
    ("patch", "batch", "channels", "mebibytes"), [((128, 128, 128), 2, 1, 400), ((1, 512, 512), 12, 3, 400), ((40, 56, 40), 9, 1, 100)]
)
def test_a_batch_takes_little_memory_beside_a_step_and_few_kernels(patch, batch, channels, mebibytes):
    """Counted on a device without memory: what is alive at once, and how often something is started there."""
    plan, peaks, started = REFERENCE, [], []
    for step in range(6):
        drawn = [draw(plan, channels, patch[0] == 1, generator(1, "memory", step, index)) for index in range(batch)]
        boxes = []
        for each in drawn:
            shape = [stop - start for start, stop in each.box((0, 0, 0), patch)]
            image, label = torch.empty(channels, *shape, device=NOWHERE), torch.empty(1, *shape, dtype=torch.int8, device=NOWHERE)
            middle = tuple((edge - 1) / 2 for edge in shape)
            boxes.append(Box(image_czyx=image, labels_nzyx=label, drawn=each, middle_zyx=middle).packed(patch, NOWHERE))
        order, effects = [step.kind for step in plan.steps], [each.effects for each in drawn]
        with Counter() as memory, Watched() as watched:
            image, _ = warped(boxes, patch, NOWHERE)
            apply_rounds(image, rounds(effects, order, channels))
        peaks.append(memory.peak / 2**20)
        started.append(watched.done)
    assert max(peaks) < mebibytes
    assert max(started) < 2000  # a few milliseconds of a processor


def test_no_memory_left_on_the_device_is_said_with_a_way_out(monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(on_device, "warped", full)
    source = Source(recipe=recipe(), cases=two_cases())
    with pytest.raises(NoRoomError, match="cpu has no memory left to augment a batch of 3d_fullres") as failed:
        Augmenter(source.recipe, CPU).batch([source.raw(0, 0, CPU)])
    assert '"runs_on": "threads"' in failed.value.fix


@pytest.fixture
def as_an_accelerator(monkeypatch):
    """The processor is taken for a device of its own."""
    monkeypatch.setattr(on_device, "PROCESSORS", ())


def trained(folder, runs_on="device", workers=Workers(count=2)):  # noqa: B008 - a frozen value
    made = recipe(schedule=SHORT, augmentation=replace(REFERENCE, runs_on=runs_on))
    fold = Fold(recipe=made, cases=two_cases(), folder=folder, workers=workers)
    return train_fold(fold, Job(work=folder, progress=Progress.silent(), threads=1, device="cpu")).weights


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def choices(folder):
    said = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [(event["where"], event["why"]) for event in said if event["kind"] == "augments_on"]


def test_a_training_with_samples_from_the_device_repeats_itself_bit_for_bit_stopped_and_with_any_workers(
    tmp_path, monkeypatch, as_an_accelerator
):
    whole = trained(tmp_path / "whole")
    assert choices(tmp_path / "whole") == [("device", "the plan says so")]
    assert equal(whole, trained(tmp_path / "alone", workers=Workers(count=0)))

    def surroundings(**made):
        real = made["log"].event

        def event(kind, **fields):
            real(kind, **fields)
            if kind == "train" and fields["step"] == 3:
                stop.request("test")

        made["log"].event = event
        return Surroundings(**made)

    with monkeypatch.context() as patched:
        patched.setattr(folds, "Surroundings", surroundings)
        with pytest.raises(stop.Stopped):
            trained(tmp_path / "parts")
    stop.clear()
    assert Checkpoints(tmp_path / "parts" / "checkpoints").latest().state["runs_on"] == "device"
    # "auto" keeps what was settled, without asking again.
    monkeypatch.setattr(folds, "tried", None)
    assert equal(whole, trained(tmp_path / "parts", runs_on="auto"))
    assert not equal(whole, trained(tmp_path / "threads", runs_on="threads"))


@pytest.mark.processor
def test_on_a_processor_threads_augment_and_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(folds, "tried", None)
    monkeypatch.setattr(folds, "worth_a_trial", lambda schedule: True)
    trained(tmp_path / "fold", "auto")
    trained(tmp_path / "asked", "device")
    assert choices(tmp_path / "fold") == choices(tmp_path / "asked") == [("threads", "the network trains on the processor")]


def test_a_run_from_the_device_goes_on_with_threads_where_there_is_none_and_says_so(tmp_path, monkeypatch):
    made = recipe(schedule=SHORT)
    fold = Fold(recipe=made, cases=two_cases(), folder=tmp_path)
    said = []

    class Around:
        progress = type("Voice", (), {"note": said.append})

    training = type("Training", (), {})()
    training.around, training.name = Around, "train 3d_fullres fold 0"
    training.learner = type("Learner", (), {"execution": Execution(device=CPU)})
    training.state = type("State", (), {"backend": "native", "runs_on": "device"})
    assert folds._where(fold, training) == "threads"
    assert "by threads from now on (the network trains on the processor); their noise is of other numbers" in said[0]
    monkeypatch.setattr(on_device, "PROCESSORS", ())
    assert folds._where(fold, training) == "device"
    training.state.runs_on = None  # of a run that began before there was a choice
    assert folds._where(fold, training) == "threads"
    assert len(said) == 1


def test_the_trial_decides_once_and_leaves_no_trace_in_the_weights(tmp_path, monkeypatch, as_an_accelerator):
    monkeypatch.setattr(folds, "worth_a_trial", lambda schedule: True)
    real, said = trial.timing, []

    def timed(learner, loader, parts, time_left):
        real(learner, loader, parts, time_left)  # all of its steps are made
        said.append(type(loader._making.together).__name__)
        return Timing(0.1 if len(said) == 1 else 0.05, 0.04 if len(said) == 1 else 0.0)

    notes = []
    monkeypatch.setattr(trial, "timing", timed)
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    assert equal(trained(tmp_path / "tried", "auto"), trained(tmp_path / "told", "device"))
    assert said == ["partial", "method"]  # threads, then the device
    why = "on the device 50 ms a step, 0% of it waiting; by threads 100 ms a step, 40% of it waiting"
    assert choices(tmp_path / "tried") == [("device", why)]
    assert [note for note in notes if "augmented" in note] == [f"train 3d_fullres fold 0: samples are augmented on the device ({why})"]


def learner_of(folder, **more):
    made = recipe(schedule=replace(SHORT, **more))
    fold = Fold(recipe=made, cases=two_cases(), folder=folder)
    return fresh_learner(fold, Execution(device=CPU)), Source(recipe=made, cases=two_cases())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_rehearsal_changes_nothing(tmp_path, optimiser):
    learner, source = learner_of(tmp_path, optimiser=optimiser)
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    with Loader(source, 1, (0, 1)) as loader, rehearsal(learner):
        batches = loader.batches(0)
        for _ in range(3):
            learner.step(next(batches), 0.0)
        assert learner.averaged_steps == 3
        batches.close()
    assert equal(before, learner.tensors())
    assert learner.averaged_steps == 0


def test_steps_are_timed_when_what_lay_ready_is_used_up():
    class Fake:
        waited_seconds, ahead, made = 0.0, 4, 0

        def batches(self, start):
            while True:
                self.made += 1
                self.waited_seconds += 0.0 if self.made <= 4 else 0.25
                yield None

    left = [60.0]

    class Learner:
        def step(self, batch, rate, parts):
            assert rate == 0.0
            left[0] -= 0.5

    loader = Fake()
    assert timing(Learner(), loader, 1, lambda: left[0]) == Timing(0.5, 0.25)
    assert loader.made == 5 + trial.STEPS
    left[0], loader.made = 1.5, 0
    with pytest.raises(trial.SlowError):
        timing(Learner(), loader, 1, lambda: left[0])
    assert loader.made == 3


@pytest.mark.parametrize(("seconds", "patience"), [(None, 600.0), (1000.0, 20.0)])
def test_a_trial_takes_a_share_of_the_time_and_no_more(monkeypatch, seconds, patience):
    given = []

    def timed(learner, loader, parts, time_left):
        given.append(time_left())
        raise trial.SlowError

    monkeypatch.setattr(trial, "timing", timed)
    assert tried(idle(seconds), opened, 1, clock=lambda: 7.0) == Choice("threads", "the steps take too long to try it", True)
    assert given == [patience]


class Made:
    """A loader whose first batch is made, or not."""

    def __init__(self, where, error=None):
        self.where, self.error = where, error

    def batches(self, start):
        if self.error is not None:
            raise self.error
        yield None


@contextmanager
def opened(where):
    yield Made(where)


def idle(seconds=None):
    parts = {"optimiser": torch.optim.SGD([torch.zeros(1)]), "averaged_steps": 0, "scaler": None}
    return type("Learner", (), {**parts, "schedule": replace(SHORT, seconds=seconds)})()


def outcomes(monkeypatch, device, fails=None, ranks=None):
    """What the trial says when threads take 100 ms a step and the device does that."""

    @contextmanager
    def failing(where):
        yield Made(where, fails if where == "device" else None)

    def timed(learner, loader, parts, time_left):
        if loader.where == "device" and isinstance(device, Exception):
            raise device
        return Timing(0.1, 0.05) if loader.where == "threads" else Timing(device, 0.0)

    monkeypatch.setattr(trial, "timing", timed)
    return tried(idle(), failing, 1, ranks)


def test_the_device_must_be_clearly_faster_and_able(monkeypatch):
    assert outcomes(monkeypatch, 0.08).where == "device"
    assert outcomes(monkeypatch, 0.097).where == "threads"
    full = outcomes(monkeypatch, 0.01, NoRoomError("cuda:0 has no memory left", ""))
    assert full == Choice("threads", "cuda:0 has no memory left", True)
    unable = outcomes(monkeypatch, 0.01, NotImplementedError("aten::gather is not there\nfor this device"))
    assert unable == Choice("threads", "the device cannot do it: aten::gather is not there", True)
    beside = outcomes(monkeypatch, torch.OutOfMemoryError())
    assert beside == Choice("threads", "the device has no memory for it beside a step", True)
    with pytest.raises(SampleError, match="torn"):
        outcomes(monkeypatch, 0.01, SampleError("torn", "", "a"))


def test_ranks_choose_the_device_only_if_it_is_faster_for_all_and_all_can(monkeypatch):
    def others(answers):
        """What the other ranks think, question by question; the questions for the time are no news."""
        return lambda mine, seconds: (mine or (seconds == 0.0 and answers.pop(0)), seconds)

    assert outcomes(monkeypatch, 0.08, ranks=others([False, False])).where == "device"
    assert outcomes(monkeypatch, 0.08, ranks=others([False, True])).where == "threads"
    unable = outcomes(monkeypatch, 0.08, ranks=others([True]))
    assert unable == Choice("threads", "another process cannot do it on its device", True)
    with pytest.raises(torch.OutOfMemoryError):  # the launcher ends the others, which wait in the middle of a step
        outcomes(monkeypatch, torch.OutOfMemoryError(), ranks=others([False]))


def test_a_stop_of_any_rank_ends_the_trial_of_all(tmp_path):
    learner, source = learner_of(tmp_path)

    @contextmanager
    def real(where):
        with Loader(source, 1, (0, 1)) as loader:
            yield loader

    asked = []

    def ranks(stopping, seconds):
        asked.append(stopping)
        return len(asked) > 3, seconds

    try:
        with pytest.raises(stop.Stopped):
            tried(learner, real, 1, ranks)
    finally:
        stop.clear()
    assert asked == [False] * 4
    assert learner.averaged_steps == 0


def test_what_keeps_samples_from_the_device_is_said(as_an_accelerator):
    def no(made, backend="native", processes=False, device=CPU):
        return hindrance(made, device, backend, processes)

    assert no(recipe()) is None
    assert "skeleton_recall" in no(recipe(loss=Loss(terms=(LossTerm(kind="skeleton_recall"),))))
    assert "batchgenerators" in no(recipe(), backend="batchgenerators")
    assert "--worker-processes" in no(recipe(), processes=True)
    made = recipe()
    assert "cascade" in no(replace(made, configuration=replace(made.configuration, previous="3d_lowres")))


def test_short_trainings_are_not_tried():
    assert not trial.worth_a_trial(SHORT)
    assert trial.worth_a_trial(replace(SHORT, iterations=5000))
    assert not trial.worth_a_trial(replace(SHORT, iterations=5000, seconds=60.0))
    assert trial.worth_a_trial(replace(SHORT, seconds=3600.0))
