"""The bench of the two engines runs, on sizes for a test."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_openvino.py"


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the optional package openvino is not installed")
def test_both_engines_are_timed_on_one_network_and_agree():
    words = [sys.executable, str(SCRIPT), "--row", "tiny", "--repeats", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300, env={"PYTHONPATH": str(SCRIPT.parents[1])})
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
    assert cells[0] == "tiny, 8 x 16 x 16"
    assert all(float(seconds) > 0 for seconds in cells[1:9])
    assert len(cells) == 12
    assert all(float(share) > 0.9 for share in cells[9:])
