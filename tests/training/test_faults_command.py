"""Two trainings of one fold, and a cache that is damaged under a training, through the real command line."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.training.command import FOLD, STEPS, finished, start, steps_made, training_of, until_step, weights_of

USER_ERROR = 4
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "organs"
    finished("demo", "--cases", "4", "--size", "24", "--folder", folder, "--data-only")
    return folder


def a_training_case(work: Path) -> tuple[str, Path]:
    """Its name and the file that its voxels are in."""
    name = json.loads((work / "splits.json").read_text())["folds"][0]["train"][0]
    key = dict(json.loads((work / "cache" / "3d_fullres.json").read_text())["cases"])[name]
    (image,) = (path for path in (work / "cache").rglob("image.b2nd") if path.parent.name == key)
    return name, image


def test_a_second_training_of_a_fold_is_told_who_is_at_it_and_since_when_and_a_damaged_cache_is_mended(data, tmp_path):
    words = training_of(data)
    finished(*words, "--work", tmp_path / "undisturbed")
    work = tmp_path / "work"
    first = start(*words, "--work", work)
    until_step(first, work / FOLD, 3)
    first.send_signal(signal.SIGSTOP)  # so that there are steps left when the second was refused
    second = start(*words, "--work", work)
    _, said = second.communicate(timeout=120)
    assert second.returncode == USER_ERROR
    last = said.splitlines()[-1]
    assert f"training fold 0 of 3d_fullres (process {first.pid} on " in last
    assert ", since 20" in last
    name, image = a_training_case(work)
    with image.open("r+b") as file:
        file.seek(300)
        file.write(bytes(image.stat().st_size - 600))
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == USER_ERROR
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {name}: ")
    assert "Run the command again" in last
    made = steps_made(work / FOLD)
    assert len(made) < STEPS
    finished(*words, "--work", work)
    assert steps_made(work / FOLD) == list(range(1, STEPS + 1))
    assert weights_of(work) == weights_of(tmp_path / "undisturbed")
