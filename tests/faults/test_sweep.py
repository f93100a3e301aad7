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


# Some calls in the fast tests, and always those around a folder that takes the place of another; all of them in the slow ones.
SOME = 12
EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
STRIDES = pytest.mark.parametrize("stride", [pytest.param(SOME, id="some"), EVERY])
LIMIT_SECONDS = 1800  # every call on a busy machine


def go_through(place: Path, stride: int, *kinds: str) -> dict[str, Any]:
    words = [sys.executable, str(VICTIM), str(place), str(stride), *kinds]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _reached(seen: dict[str, Any], stride: int, least: int, tail: int = 0) -> bool:
    return bool(seen["calls"] >= least and seen["points"] >= (seen["calls"] - tail) // stride)


@STRIDES
@pytest.mark.parametrize(
    "kind", ["kill", "after", "half", "power_cut", "power_cut_names", "no_swap_kill", "no_swap_power_cut", "no_swap_power_cut_names"]
)
def test_a_run_may_be_killed_at_every_call(kind: str, stride: int, place: Path) -> None:
    seen = go_through(place, stride, kind)[kind]
    assert seen["problems"] == []
    assert _reached(seen, stride, 40 if kind == "half" else 500), "the sweep did not reach the store"
    assert seen["ends"] == {"-9": seen["points"]}


@STRIDES
@pytest.mark.parametrize("kind", ["enospc", "edquot", "eio", "full", "no_swap_eio"])
def test_a_run_may_be_refused_by_the_disk_at_every_call(kind: str, stride: int, place: Path) -> None:
    seen = go_through(place, stride, kind)[kind]
    assert seen["problems"] == []
    # A full disk is met by the next call that takes room, and after the last such call by none.
    assert _reached(seen, stride, 500, tail=10 if kind == "full" else 0)
    assert set(seen["ends"]) <= {"0", "4"}
    assert seen["ends"]["4"] > 0.9 * seen["points"], "nearly every refusal must be told to the user"


@STRIDES
def test_short_and_interrupted_writes_are_completed(stride: int, place: Path) -> None:
    for kind, seen in go_through(place, stride, "short", "eintr").items():
        assert seen["problems"] == [], kind
        assert seen["ends"] == {"0": seen["points"]}, kind


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("careless_power_cut", ["torn: masks/a.bin", "manifest: masks/b.bin"]),
        ("careless_power_cut_names", ["manifest: masks/a.bin"]),
        ("careless_swap_power_cut_names", ["torn or lost: tree"]),
    ],
)
def test_the_power_cut_would_find_a_store_that_forgets_to_sync(kind: str, found: list[str], place: Path) -> None:
    problems = " ".join(go_through(place, 3 * SOME, kind)[kind]["problems"])
    assert [one for one in found if one not in problems] == []
