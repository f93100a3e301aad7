"""Signals, as schedulers and impatient people send them, to real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def _start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autounet", *map(str, words)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _wait(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)


def _computes(process: subprocess.Popen[str], threshold_ticks: int) -> bool:
    """Whether it has used this much processor time: imports are over."""
    text = Path(f"/proc/{process.pid}/stat").read_text()
    return sum(int(v) for v in text[text.rindex(")") + 2 :].split()[11:13]) > threshold_ticks


def _group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_75_and_the_last_line_says_how_to_go_on(number: signal.Signals) -> None:
    process = _start("doctor", "--seconds", "120", "--threads", "1")
    _wait(lambda: _computes(process, 400), 60)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert err.splitlines()[-1] == f"error: stopped by {number.name}; what was finished is kept. Type the same command again to go on."
    assert "Traceback" not in err


def _kinds(log: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_a_training_stops_within_half_a_minute_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    data, log = tmp_path / "organs", tmp_path / "organs.autounet" / "events.jsonl"
    made = _start("demo", "--cases", "6", "--size", "32", "--folder", data, "--data-only")
    made.communicate(timeout=120)
    assert made.returncode == 0
    words = ("run", data, "--iterations", "30", "--folds", "0", "--threads", "1")
    process = _start(*words)
    _wait(lambda: any('"train' in line and '"step"' in line for line in (log.read_text().splitlines() if log.exists() else [])), 300)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.monotonic() - sent < 30
    _wait(lambda: _group_is_empty(process.pid), 5)
    again = _start(*words)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err[-2000:]
    assert "Model:" in out
    assert _kinds(log).count("command") == 2
