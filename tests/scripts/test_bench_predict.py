"""The rows of the prediction benchmark run, on sizes for a test; the reference is not needed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_predict.py"


@pytest.mark.slow
@pytest.mark.parametrize(("row", "size"), [("slide", 700), ("ct200x60", 4)])
def test_a_row_runs_alone_and_tells_the_network_from_the_rest(row, size, tmp_path):
    words = [sys.executable, str(SCRIPT), "--row", row, "--size", str(size), "--repeats", "1", "--quiet-seconds", "0"]
    done = subprocess.run([*words, "--scratch", str(tmp_path)], capture_output=True, text=True, check=True)
    (apart,) = {line for line in done.stdout.splitlines() if f"(size {size})" in line and line.count("|") == 9}
    cells = [cell.strip() for cell in apart.split("|")[1:-1]]
    network, outside = float(cells[1]), float(cells[4])
    assert network > 0
    assert 0 < outside < 60
    assert "ended with" not in done.stdout
    assert not list(tmp_path.iterdir()), "nothing is left behind"
