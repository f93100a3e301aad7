"""SIGTERM as a scheduler sends it, through the real command line: exit 75, nothing lost, the same bits at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autounet.store.checkpoints import Checkpoints
from autounet.store.weights import load_tensors

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 75
STEPS = 24
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autounet", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(*words: object) -> str:
    process = start(*words)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-2000:]
    return said


def steps_made(fold: Path) -> list[int]:
    log = fold / "events.jsonl"
    events: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return [event["step"] for event in events if event["kind"] == "train"]


def stopped_at(process: subprocess.Popen[str], fold: Path, step: int) -> str:
    """Send SIGTERM when that step is made."""
    end = time.monotonic() + 300
    while not any(made >= step for made in steps_made(fold)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED, said[-2000:]
    assert time.monotonic() - sent < 30
    return said


def test_a_training_stopped_twice_loses_no_step_and_ends_in_the_bits_of_an_undisturbed_one(tmp_path):
    data = tmp_path / "organs"
    finished("demo", "--cases", "4", "--size", "24", "--folder", data, "--data-only")
    words = ("train", data, "--iterations", STEPS, "--folds", "0", "--configurations", "3d_fullres", "--threads", "1")
    finished(*words, "--work", tmp_path / "undisturbed")
    work = tmp_path / "stopped"
    fold = work / "runs" / "3d_fullres" / "fold_0"
    for step in (5, 12):
        said = stopped_at(start(*words, "--work", work), fold, step)
        assert said.splitlines()[-1].startswith("error: stopped by SIGTERM; what was finished is kept.")
        latest = Checkpoints(fold / "checkpoints").latest("numpy")
        assert latest is not None
        assert latest.step == steps_made(fold)[-1]  # the step in work was finished and kept
        assert latest.step < STEPS  # or the training was over before the signal came
    finished(*words, "--work", work)
    assert steps_made(fold) == list(range(1, STEPS + 1))  # none was made twice
    one = load_tensors(tmp_path / "undisturbed" / "runs" / "3d_fullres" / "fold_0" / "weights.safetensors", "numpy")
    other = load_tensors(fold / "weights.safetensors", "numpy")
    assert {name: value.tobytes() for name, value in one.items()} == {name: value.tobytes() for name, value in other.items()}
