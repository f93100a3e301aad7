"""The command line as people and schedulers use it, for the tests of what they do to a training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autounet.store.weights import load_tensors

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 75
STEPS = 24
FOLD = Path("runs") / "3d_fullres" / "fold_0"


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autounet", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished(*words: object) -> str:
    process = start(*words)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-2000:]
    return said


def steps_made(fold: Path) -> list[int]:
    log = fold / "events.jsonl"
    events: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return [event["step"] for event in events if event["kind"] == "train"]


def until_step(process: subprocess.Popen[str], fold: Path, step: int) -> None:
    """Wait for that step."""
    end = time.monotonic() + 300
    while not any(made >= step for made in steps_made(fold)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def stopped_at(process: subprocess.Popen[str], fold: Path, step: int) -> str:
    """Send SIGTERM to it and all its processes, as schedulers do, when that step is made; none is left."""
    until_step(process, fold, step)
    sent = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED, said[-2000:]
    assert time.monotonic() - sent < 30
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return said


def training_of(data: Path) -> tuple[object, ...]:
    """The words of a short training."""
    return ("train", data, "--iterations", STEPS, "--folds", "0", "--configurations", "3d_fullres", "--threads", "1")


def weights_of(work: Path) -> dict[str, bytes]:
    """The bits."""
    return {name: value.tobytes() for name, value in load_tensors(work / FOLD / "weights.safetensors", "numpy").items()}
