"""What goes wrong on a long night: a case that cannot be read, numbers that are none, a full disk, a damaged cache."""

import errno
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from autounet import stop
from autounet.data.prepared import DAMAGED
from autounet.job import Job
from autounet.progress import Progress
from autounet.store import calls
from autounet.store.checkpoints import Checkpoints
from autounet.training import fold as folds
from autounet.training import loop
from autounet.training.fold import Fold, train_fold
from autounet.training.loader import THREADS, Workers
from autounet.training.loop import Surroundings
from autounet.training.sample import SampleError, Source
from planners.errors import UserError
from planners.plan import Schedule
from tests.training.prepared_cases import prepared
from tests.training.tiny import MemoryCase, case, recipe

STEPS = 12
SHORT = Schedule(
    shape="warmup_stable_decay",
    warmup_fraction=0.1,
    decay_fraction=0.3,
    iterations=STEPS,
    iterations_per_epoch=4,
    momentum=0.9,
    ema_decay=0.9,
)


def trained(folder, cases=None, work=None, progress=None, workers=THREADS):
    """The weights of the tiny fold."""
    cases = cases or {"a": case(1), "b": case(2)}
    job = Job(work=work or folder.parent, progress=progress or Progress.silent(), threads=1, device="cpu")
    return train_fold(Fold(recipe=recipe(schedule=SHORT), cases=cases, folder=folder, workers=workers), job).weights


class Warned(Progress):
    """Remembers what it warned of."""

    def __init__(self):
        super().__init__()
        self.said = []

    def warn(self, text):
        self.said.append(text)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def events(folder, kind):
    return [e for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["kind"] == kind]


def latest_step(folder):
    found = Checkpoints(folder / "checkpoints").latest()
    assert not found.note
    return found.step


def at_step(monkeypatch, step, do, **changed):
    """Do something when a step is made, and save as often as `changed` says."""

    def surroundings(**given):
        real = given["log"].event

        def event(kind, **fields):
            real(kind, **fields)
            if kind == "train" and fields["step"] == step:
                do()

        given["log"].event = event
        return Surroundings(**{**given, **changed})

    monkeypatch.setattr(folds, "Surroundings", surroundings)


class Broken(MemoryCase):
    """A case that cannot be read from some time on."""

    after = 3

    def read(self, box_zyx):
        if len(self.boxes) >= self.after:
            raise ValueError("the disk gave nonsense")
        return super().read(box_zyx)


def test_a_case_that_cannot_be_loaded_ends_the_training_by_name_and_costs_no_step(tmp_path):
    whole = trained(tmp_path / "whole")
    sound = case(2)
    broken = {"a": case(1), "b": Broken(sound.image_czyx, sound.label_zyx)}
    with pytest.raises(SampleError) as raised:
        trained(tmp_path / "fold", broken)
    assert raised.value.case == "b"
    assert "cannot be made: ValueError: the disk gave nonsense" in raised.value.problem
    assert "type the same command again" in raised.value.fix
    made = [event["step"] for event in events(tmp_path / "fold", "train")]
    assert made
    assert latest_step(tmp_path / "fold") == made[-1]
    (failure,) = events(tmp_path / "fold", "sample_failed")
    assert failure["case"] == "b"
    assert "in read" in failure["traceback"]
    assert equal(trained(tmp_path / "fold"), whole)
    assert [event["step"] for event in events(tmp_path / "fold", "train")] == list(range(1, STEPS + 1))


def poison(monkeypatch, poisoned):
    """Images that are no numbers in the steps that `poisoned` says."""
    real = Source.sample

    def sample(self, step, position):
        made = real(self, step, position)
        if poisoned(step):
            made.image_czyx.fill_(float("nan"))
        return made

    monkeypatch.setattr(Source, "sample", sample)


@pytest.mark.parametrize("steps", [(0,), (5,), (STEPS - 1,), (3, 4), (2, 5, 8)])
def test_numbers_that_are_none_in_some_steps_are_passed_over_and_written_down(tmp_path, monkeypatch, steps):
    poison(monkeypatch, lambda step: step in steps)
    weights = trained(tmp_path / "fold")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert [event["step"] for event in events(tmp_path / "fold", "not_finite")] == list(steps)
    assert {event["step"] for event in events(tmp_path / "fold", "train")} == set(range(1, STEPS + 1)) - {step + 1 for step in steps}


def test_stopped_before_and_after_a_step_without_numbers_the_bits_are_the_same(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step == 4)
    whole = trained(tmp_path / "whole")
    for at in (3, 6):
        at_step(monkeypatch, at, partial(stop.request, "test"))
        try:
            with pytest.raises(stop.Stopped):
                trained(tmp_path / "parts")
        finally:
            stop.clear()
    assert equal(trained(tmp_path / "parts"), whole)


def test_weights_that_ran_away_once_go_back_to_the_checkpoint_and_end_well_at_half_the_rate(tmp_path, monkeypatch):
    real, ran_away = loop.Learner.step, []

    def step(self, batch, rate, parts=1):
        report = real(self, batch, rate, parts)
        if len(ran_away) == 0 and self.averaged_steps == 8:
            ran_away.append(rate)
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter.fill_(float("nan"))
        return report

    monkeypatch.setattr(loop.Learner, "step", step)
    at_step(monkeypatch, -1, lambda: None, clock=iter(range(10**6)).__next__, checkpoint_seconds=9)
    voice = Warned()
    weights = trained(tmp_path / "fold", progress=voice)
    said = voice.said
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert len(said) == 1
    assert "with half the learning rate" in said[0]
    back = int(said[0].split("back to step ")[1].split()[0])
    assert 0 < back < 8
    after = events(tmp_path / "fold", "train")[8:]
    assert after[0]["step"] == back + 1
    before = {event["step"]: event["rate"] for event in events(tmp_path / "fold", "train")[:8]}
    assert after[0]["rate"] == pytest.approx(before[back + 1] / 2)


def test_a_disk_that_is_full_at_a_checkpoint_is_named_and_the_next_run_goes_on_from_the_last_good_one(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    write, full = calls.write, []

    def refusing(descriptor, data):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(calls, "write", refusing)
    at_step(monkeypatch, 7, lambda: full.append(1), checkpoint_seconds=0.0)
    with pytest.raises(UserError) as raised:
        trained(tmp_path / "fold")
    assert str(tmp_path / "fold" / "checkpoints") in raised.value.problem
    monkeypatch.undo()
    assert latest_step(tmp_path / "fold") == 6
    assert equal(trained(tmp_path / "fold"), whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_on_a_really_full_disk_too(tmp_path, small_disk, monkeypatch):
    whole = trained(tmp_path / "whole")
    filler = small_disk / "somebody_elses_file"

    def fill():
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    at_step(monkeypatch, 7, fill, checkpoint_seconds=0.0)
    with pytest.raises(UserError) as raised:
        trained(small_disk / "fold", work=small_disk)
    assert f"{small_disk}" in raised.value.problem
    assert "free" in str(raised.value)
    assert latest_step(small_disk / "fold") == 6
    filler.unlink()
    monkeypatch.setattr(folds, "Surroundings", Surroundings)
    assert equal(trained(small_disk / "fold", work=small_disk), whole)


def test_a_cache_entry_that_is_overwritten_on_the_way_is_named_marked_and_made_anew(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", prepared(tmp_path / "cache"))
    cases = prepared(tmp_path / "other")
    for name in cases:
        assert cases[name].read_all()[0].size  # all of it was read, and found sound, before

    def overwrite():
        path = cases["a"].folder / "image.b2nd"
        with path.open("r+b") as file:
            file.seek(300)
            file.write(bytes(path.stat().st_size - 600))

    at_step(monkeypatch, 5, overwrite)
    with pytest.raises(UserError) as raised:
        trained(tmp_path / "fold", cases)
    assert raised.value.case == "a"
    assert "autounet prepare" in raised.value.fix
    assert (cases["a"].folder / DAMAGED).is_file()  # so the next prepare knows
    assert not (cases["b"].folder / DAMAGED).exists()
    assert latest_step(tmp_path / "fold") == events(tmp_path / "fold", "train")[-1]["step"]
    shutil.rmtree(tmp_path / "other")
    assert equal(trained(tmp_path / "fold", prepared(tmp_path / "other")), whole)


def loader_processes():
    """Of this process, by the kernel's account."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"autounet.training.worker" in stat.with_name("cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_loader_processes_killed_under_a_training_are_replaced_and_change_no_bit(tmp_path, monkeypatch):
    cases = prepared(tmp_path / "cache")
    whole = trained(tmp_path / "whole", cases)
    killed = []

    def kill():
        for pid in loader_processes():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    at_step(monkeypatch, 4, kill)
    voice = Warned()
    weights = trained(tmp_path / "fold", cases, progress=voice, workers=Workers(count=2, processes=True))
    assert equal(weights, whole)
    assert len(killed) == 2
    assert len(voice.said) == 2
    for pid in killed:
        assert any(f"(pid {pid}) was killed by SIGKILL while it made sample" in text for text in voice.said)
    assert loader_processes() == []
