"""A run may be killed or starved at any call it makes: nothing visible is ever torn, nothing finished is ever lost."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VICTIM = Path(__file__).with_name("victim.py")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: the order of calls is tested, not the speed of the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def go_through(place: Path, *kinds: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(VICTIM), str(place), *kinds], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("kind", ["kill", "half", "power_cut", "power_cut_names"])
def test_a_run_may_be_killed_at_every_call(kind: str, place: Path) -> None:
    seen = go_through(place, kind)[kind]
    assert seen["problems"] == []
    assert seen["points"] >= (20 if kind == "half" else 200), "the sweep did not reach the store"
    assert seen["ends"] == {"-9": seen["points"]}


@pytest.mark.parametrize("kind", ["enospc", "edquot", "eio", "full"])
def test_a_run_may_be_refused_by_the_disk_at_every_call(kind: str, place: Path) -> None:
    seen = go_through(place, kind)[kind]
    assert seen["problems"] == []
    assert seen["points"] >= 200
    assert set(seen["ends"]) <= {"0", "4"}
    assert seen["ends"]["4"] > 0.9 * seen["points"], "nearly every refusal must be told to the user"


def test_short_and_interrupted_writes_are_completed(place: Path) -> None:
    for kind, seen in go_through(place, "short", "eintr").items():
        assert seen["problems"] == [], kind
        assert seen["ends"] == {"0": seen["points"]}, kind


def test_the_power_cut_would_find_a_store_that_forgets_to_sync_files(place: Path) -> None:
    problems = " ".join(go_through(place, "careless_power_cut")["careless_power_cut"]["problems"])
    assert "torn: masks/a.bin" in problems
    assert "manifest: masks/b.bin" in problems


def test_the_power_cut_would_find_a_store_that_forgets_to_sync_folders(place: Path) -> None:
    problems = " ".join(go_through(place, "careless_power_cut_names")["careless_power_cut_names"]["problems"])
    assert "manifest: masks/a.bin" in problems
