"""The user's folders are only read, whatever is asked for: not even a log is opened there before a refusal."""

import subprocess
import sys
from pathlib import Path

import pytest

from autounet.phantoms import make


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make("organs", tmp_path / "organs", cases=2, size=16)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _autounet(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autounet", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("output", ["images", "images/out", "images/../images"])
def test_predict_refuses_an_output_in_its_input_before_it_writes_anything(dataset, tmp_path, output):
    before = _files(dataset)
    (tmp_path / "model.aunet").write_bytes(b"not looked at before the folders are")
    done = _autounet("predict", tmp_path / "model.aunet", dataset / "images", dataset / output, cwd=tmp_path)
    assert done.returncode == 4
    assert "where nothing is written" in done.stderr.splitlines()[-1]
    assert _files(dataset) == before


def test_predict_refuses_a_work_folder_in_its_input(dataset, tmp_path):
    before = _files(dataset)
    (tmp_path / "model.aunet").write_bytes(b"")
    done = _autounet("predict", tmp_path / "model.aunet", dataset / "images", tmp_path / "out", "--work", dataset / "images", cwd=tmp_path)
    assert done.returncode == 4
    assert _files(dataset) == before


@pytest.mark.parametrize("verb", ["run", "prepare", "train"])
def test_a_cache_in_the_dataset_is_refused(dataset, tmp_path, verb):
    before = _files(dataset)
    done = _autounet(verb, dataset, "--cache", dataset / "cache", cwd=tmp_path)
    assert done.returncode == 4
    assert "cache" in done.stderr.splitlines()[-1]
    assert _files(dataset) == before


def test_scores_are_not_written_into_the_masks_that_are_scored(dataset, tmp_path):
    before = _files(dataset)
    done = _autounet("evaluate", dataset / "labels", dataset / "labels", "--out", dataset / "labels" / "scores", cwd=tmp_path)
    assert done.returncode == 4
    assert _files(dataset) == before


def test_masks_may_be_named_by_a_dot(dataset, tmp_path):
    made = make("organs", tmp_path / "masks" / "organs", cases=2, size=16) / "labels"
    done = _autounet("evaluate", ".", dataset / "labels", cwd=made)
    assert done.returncode == 0, done.stderr
    assert (made.parent / "labels.scores" / "scores.json").is_file()
