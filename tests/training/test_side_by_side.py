"""Folds side by side: a process for each, and what becomes of the others when one fails, dies or is stopped."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from autounet import stop
from autounet.progress import Progress, Voice
from autounet.store.lock import lock
from autounet.training import side_by_side as side_by_side_module
from autounet.training.side_by_side import LEFT_ALONE, UNFORESEEN, Crew, Unit, side_by_side

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
HEAD = "import json, os, sys, time, signal\ntask = json.loads(sys.stdin.readline())\n"


class Heard:
    """A stream that remembers."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def crew(program, teams=(("one",), ("two",)), folder=None):
    heard = Heard()
    return Crew(teams=teams, program=HEAD + program, progress=Progress(Voice(stream=heard, folder=folder))), heard


def units(*names, after=()):
    return [Unit(name=name, after=frozenset(after)) for name in names]


def stopped_when_two_are_ready(names, made, heard):
    def ask():
        while heard.text.count("ready") < 2:
            time.sleep(0.02)
        stop.request("test")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with pytest.raises(stop.Stopped):
            side_by_side(units(*names), {n: {"name": n} for n in names}, made)
    finally:
        thread.join()
        stop.clear()


def test_every_device_trains_one_at_a_time_and_all_are_trained(tmp_path):
    program = f"""
place = {str(tmp_path)!r} + '/' + task['device']
os.mkdir(place)  # two on one device at a time would meet here
time.sleep(0.2)
os.rmdir(place)
open({str(tmp_path)!r} + '/done_' + task['name'], 'w').write(task['device'])
"""
    names = [f"fold {i}" for i in range(5)]
    made, _ = crew(program)
    assert side_by_side(units(*names), {n: {"name": n} for n in names}, made) == {}
    used = [(tmp_path / f"done_{n}").read_text() for n in names]
    assert set(used) == {"one", "two"}


def test_one_that_fails_or_is_killed_leaves_the_others_alone_and_is_explained():
    program = """
print('warning: beware', file=sys.stderr)
if task['name'] == 'bad':
    print(json.dumps({'error': ['the disk is full', 'free some space', 'case_03']}))
    sys.exit(1)
if task['name'] == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
"""
    names = ("bad", "good", "killed", "better")
    made, heard = crew(program)
    failed = side_by_side(units(*names), {n: {"name": n} for n in names}, made)
    assert sorted(failed) == ["bad", "killed"]
    assert (failed["bad"].problem, failed["bad"].fix, failed["bad"].case) == ("the disk is full", "free some space", "case_03")
    assert "SIGKILL" in failed["killed"].problem
    assert "warning: [one] beware" in heard.text


def test_a_second_stage_waits_for_all_folds_of_the_first_and_is_not_begun_when_one_failed(tmp_path):
    program = f"""
log = open({str(tmp_path / "log")!r}, 'a')
log.write('begin ' + task['name'] + chr(10)); log.flush()
time.sleep(0.1)
log.write('end ' + task['name'] + chr(10)); log.flush()
sys.exit(3 if task['name'] == 'b' else 0)
"""
    first = units("a", "b")
    second = [*units("c", after=("a",)), *units("d", after=("b",)), *units("e", after=("d",))]
    made, _ = crew(program, (("one",), ("two",), ("three",)))
    failed = side_by_side([*first, *second], {n: {"name": n} for n in "abcde"}, made)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines.index("end a") < lines.index("begin c")
    assert sorted(failed) == ["b", "d", "e"]
    assert "begin d" not in lines
    assert "needs b" in failed["d"].problem
    assert "ended with code 3" in failed["b"].problem


def test_a_stop_is_passed_on_once_and_waited_for(tmp_path):
    program = f"""
def asked(*_):
    time.sleep(0.3)  # a step is finished
    open({str(tmp_path)!r} + '/saved_' + task['name'], 'a').write('x')
    sys.exit(75)
signal.signal(signal.SIGTERM, asked)
print('ready', file=sys.stderr, flush=True)
time.sleep(60)
"""
    made, heard = crew(program)
    stopped_when_two_are_ready("abc", made, heard)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved_a", "saved_b"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"x"}


def test_a_team_is_told_who_is_who_and_where_to_meet_and_leaves_no_folder(tmp_path):
    program = f"""
place = task['place']
open(place['meeting'] + '/' + str(place['number']), 'w').close()
while len(os.listdir(place['meeting'])) < place['count']:
    time.sleep(0.02)
open({str(tmp_path)!r} + '/' + task['name'] + task['device'], 'w').write(json.dumps(place))
"""
    made, _ = crew(program, (("one", "two"), ("three", "four")))
    assert side_by_side(units("a", "b", "c"), {n: {"name": n} for n in "abc"}, made) == {}
    told = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert len(told) == 6
    assert {place["count"] for place in told.values()} == {2}
    for name, place in told.items():
        assert place["number"] == (0 if name[1:] in ("one", "three") else 1)
        assert not Path(place["meeting"]).exists()
    assert told["aone"]["meeting"] == told["atwo"]["meeting"] != told["bthree"]["meeting"]


def test_a_team_that_is_asked_to_stop_is_given_the_time_its_first_needs_to_save(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side_module, "GRACE_SECONDS", 0.5)
    program = f"""
def asked(*_):
    if task['place']['number'] == 0:
        time.sleep(2)  # a checkpoint is written
        open({str(tmp_path)!r} + '/saved', 'w').close()
    sys.exit(75)
signal.signal(signal.SIGTERM, asked)
print('ready', file=sys.stderr, flush=True)
time.sleep(60)
"""
    made, heard = crew(program, (("one", "two"),))
    stopped_when_two_are_ready("a", made, heard)
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (RuntimeError("[../gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), LEFT_ALONE),
        (torch.distributed.DistBackendError("NCCL error"), LEFT_ALONE),
        (torch.OutOfMemoryError("CUDA out of memory"), UNFORESEEN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_lost_connection_explains_less_than_any_error_of_ones_own(error, fix):
    lost = side_by_side_module._lost_a_partner(error)
    assert (LEFT_ALONE if lost else UNFORESEEN) == fix


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
CRASHED = f"print(json.dumps({{'error': ['OutOfMemoryError: the disk is full', {UNFORESEEN!r}, '']}})); sys.exit(1)"
FAILED = "print(json.dumps({'error': ['the disk is full', 'free some space', '']})); sys.exit(1)"


@pytest.mark.parametrize("end", [KILLED, FAILED, CRASHED])
def test_when_one_of_a_team_fails_its_partners_are_not_waited_for_and_its_own_reason_is_said(end, monkeypatch):
    monkeypatch.setattr(side_by_side_module, "GRACE_SECONDS", 1.0)
    program = f"""
if task['place']['number'] == 1:
    {end}
if task['place']['number'] == 0:  # it finds its partner gone and can only say so
    print(json.dumps({{'error': ['connection closed by peer', {LEFT_ALONE!r}, '']}}))
    sys.exit(1)
time.sleep(600)  # it waits for the others in vain
"""
    made, _ = crew(program, (("one", "two", "three"),))
    began = time.monotonic()
    failed = side_by_side(units("a", "b"), {n: {"name": n} for n in "ab"}, made)
    assert time.monotonic() - began < 60
    assert sorted(failed) == ["a", "b"]  # the next on the same team was begun
    for failure in failed.values():
        assert "SIGKILL" in failure.problem or failure.problem.endswith("the disk is full")


@pytest.mark.slow
def test_the_processes_die_with_the_command_that_started_them_and_nothing_stays_locked(tmp_path):
    data, work = tmp_path / "organs", tmp_path / "work"
    environment = [sys.executable, "-m", "autounet"]
    subprocess.run([*environment, "demo", "--cases", "4", "--size", "20", "--folder", data, "--data-only"], cwd=ROOT, check=True)
    words = ["train", data, "--work", work, "--folds", "0-1", "--configurations", "3d_fullres", "--devices", "cpu,cpu", "--threads", "2"]
    command = subprocess.Popen([*environment, *words, "--iterations", "5000"], cwd=ROOT, stderr=subprocess.DEVNULL)
    locks = [work / "runs" / "3d_fullres" / f"fold_{k}.lock" for k in (0, 1)]
    logs = [work / "runs" / "3d_fullres" / f"fold_{k}" / "events.jsonl" for k in (0, 1)]
    end = time.monotonic() + 200
    while not all(log.exists() and '"train"' in log.read_text() for log in logs):
        assert command.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    pids = [json.loads(path.read_text())["pid"] for path in locks]
    assert command.pid not in pids
    assert len(set(pids)) == 2
    command.kill()
    command.wait()
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            assert time.monotonic() < end
            time.sleep(0.05)
    for path in locks:
        with lock(path, "the next training"):  # the dead do not hold it
            pass
