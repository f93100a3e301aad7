"""Samples made by processes: the same bits, no shared memory, and nothing left when somebody dies."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autounet.job import Job
from autounet.progress import Progress
from autounet.training.fold import Fold, train_fold
from autounet.training.loader import Loader, Making, Workers, waiting_in_words
from autounet.training.processes import processes
from autounet.training.sample import SampleError, Source
from planners.plan import Loss, LossTerm, Schedule
from tests.training.prepared_cases import prepared
from tests.training.tiny import recipe

ROOT = Path(__file__).resolve().parents[2]
SHORT = Schedule(iterations=6, iterations_per_epoch=3, momentum=0.9, ema_decay=0.9)
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def assert_equal_samples(one, other):
    assert one.case == other.case
    for name in ("image_czyx", "label_zyx", "annotated_k", "skeleton_zyx", "border_zyx"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), name


def test_processes_make_every_kind_of_sample_bit_for_bit_and_are_gone_afterwards(tmp_path):
    cases = prepared(tmp_path / "cache")
    made = replace(
        recipe(loss=Loss(terms=(LossTerm(kind="skeleton_recall"), LossTerm(kind="border_cross_entropy")))), annotated=(("a", (1,)),)
    )
    source = Source(recipe=made, cases=cases, previous={name: case.read_all()[1].astype(np.uint8) for name, case in cases.items()})
    (tmp_path / "tmp").mkdir()
    with processes(source, 2, tmp_path / "tmp", print) as makers, Loader(source, 2, (0, 1), Making.whole(source, makers.sample)) as loader:
        pids = [worker.process.pid for worker in makers.workers]
        assert len(set(pids)) == 2
        for step in range(4):
            for position in (0, 1):
                assert_equal_samples(makers.sample(step, position), source.sample(step, position))
        batches = loader.batches(7)
        batch = next(batches)
        assert torch.equal(batch.image[1], source.sample(7, 1).image_czyx)
        batches.close()
        opened = [str(entry.readlink()) for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        assert not [name for name in opened if name.startswith(("/dev/shm", "/dev/mqueue"))]
        assert not [name for name in opened if "socket" in name]
    assert not any(alive(pid) for pid in pids)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_killed_process_is_named_and_started_once_and_the_second_time_the_training_ends_with_the_reason(tmp_path):
    source, said = Source(recipe=recipe(), cases=prepared(tmp_path / "cache")), []
    with processes(source, 1, tmp_path, said.append) as makers:
        (worker,) = makers.workers
        first = worker.process.pid
        assert_equal_samples(makers.sample(3, 0), source.sample(3, 0))
        os.kill(first, signal.SIGKILL)
        assert_equal_samples(makers.sample(3, 1), source.sample(3, 1))
        assert said == [f"loader process 0 (pid {first}) was killed by SIGKILL while it made sample 1 of step 3; it is started once more"]
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(SampleError, match=r"killed by SIGKILL while it made sample 0 of step 4, for the second time.*--workers"):
            makers.sample(4, 0)


def test_what_goes_wrong_in_a_process_is_said_of_its_case_with_the_traceback(tmp_path):
    cases = prepared(tmp_path / "cache")
    source = Source(recipe=recipe(), cases=cases)
    for name in cases:
        (cases[name].folder / "image.b2nd").write_bytes(b"no frame at all")
    with processes(source, 1, tmp_path, print) as makers, pytest.raises(SampleError) as raised:
        makers.sample(0, 0)
    assert raised.value.case in ("a", "b")
    assert "is not what was written" in raised.value.problem
    assert "DamageError" in str(raised.value.__cause__)


class Said(Progress):
    """Remembers what was noted."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_fold_trained_by_processes_has_the_weights_of_one_trained_by_threads_and_both_say_how_long_they_waited(tmp_path):
    cases = prepared(tmp_path / "cache")
    weights = []
    for index, workers in enumerate((Workers(), Workers(count=2, processes=True))):
        fold = Fold(recipe=recipe(schedule=SHORT), cases=cases, folder=tmp_path / f"fold_{index}", workers=workers)
        said = Said()
        weights.append(train_fold(fold, Job(work=tmp_path, progress=said, threads=1, device="cpu")).weights)
        events = [json.loads(line) for line in (fold.folder / "events.jsonl").read_text().splitlines()]
        (waited,) = [event for event in events if event["kind"] == "waited"]
        assert 0 <= waited["share"] <= 1
        assert waited["seconds"] == pytest.approx([event for event in events if event["kind"] == "train"][-1]["waited"], abs=0.01)
        assert said.notes == [f"train 3d_fullres fold 0 {waited['text']}"]
        assert ("2 processes" if index else "1 thread") in waited["text"]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


PARENT = """
import sys, time
from pathlib import Path
from autounet.training.processes import processes
from autounet.training.sample import Source
from tests.training.prepared_cases import prepared
from tests.training.tiny import recipe
folder = Path(sys.argv[1])
with processes(Source(recipe=recipe(), cases=prepared(folder / "cache")), 2, folder, print) as makers:
    makers.sample(0, 0)
    print(*[worker.process.pid for worker in makers.workers], flush=True)
    time.sleep(100)
"""


def test_when_the_parent_is_killed_its_processes_die_too(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.communicate()
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.02, 1, False, 8), "waited for samples 2% of the time, made by 1 thread"),
        ((0.30, 2, False, 8), "waited for samples 30% of the time, made by 2 threads: give --workers 4"),
        (
            (0.30, 8, False, 8),
            "waited for samples 30% of the time, made by 8 threads: give --worker-processes, or more cores to each device",
        ),
    ],
)
def test_how_long_the_device_waited_is_said_and_what_to_change(given, said):
    assert waiting_in_words(*given) == said
