"""The last good checkpoint is never risked for the next one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from autounet.store import calls
from autounet.store.checkpoints import Checkpoints
from planners.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def saved(folder: Path, *steps: int, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, {"w": torch.full((50,), float(step))}, {"step": step, "loss": [0.5, step]}, best=step == best)
    return checkpoints


def test_the_latest_comes_back_with_its_state(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").latest() is None
    latest = saved(tmp_path, 10, 20).latest()
    assert latest is not None
    assert (latest.step, latest.state, latest.note) == (20, {"step": 20, "loss": [0.5, 20]}, "")
    assert torch.equal(latest.tensors["w"], torch.full((50,), 20.0))
    as_numpy = Checkpoints(tmp_path).latest("numpy")
    assert as_numpy is not None
    assert isinstance(as_numpy.tensors["w"], np.ndarray)


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 10, 20, 30, 40, 50, best=20)
    assert names(tmp_path) == [
        f"{stem}.{kind}" for stem in ("000002_step_20_best", "000004_step_40", "000005_step_50") for kind in ("json", "safetensors")
    ]
    best = checkpoints.best()
    assert best is not None
    assert (best.step, best.best) == (20, True)
    checkpoints.save(60, {"w": torch.zeros(1)}, {}, best=True)
    assert [n for n in names(tmp_path) if "best" in n and n.endswith("json")] == ["000006_step_60_best.json"]


def test_the_same_step_again_takes_a_new_name(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    before = (tmp_path / "000001_step_10.safetensors").stat().st_ino
    saved(tmp_path, 10)
    assert names(tmp_path)[::2] == ["000001_step_10.json", "000002_step_10.json"]
    assert (tmp_path / "000001_step_10.safetensors").stat().st_ino == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record cut", "record of another"])
def test_a_damaged_one_is_passed_over_and_that_is_said(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    tensors, record = tmp_path / "000002_step_20.safetensors", tmp_path / "000002_step_20.json"
    if damage == "flipped":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 0x10
        tensors.write_bytes(data)
    if damage == "cut":
        os.truncate(tensors, 100)
    if damage == "gone":
        tensors.unlink()
    if damage == "record cut":
        os.truncate(record, 30)
    if damage == "record of another":
        record.write_text((tmp_path / "000001_step_10.json").read_text())
    said: list[str] = []
    latest = Checkpoints(tmp_path, say=said.append).latest()
    assert latest is not None
    assert latest.step == 10
    assert torch.equal(latest.tensors["w"], torch.full((50,), 10.0))
    assert said == [latest.note]
    assert latest.note.startswith("fell back to step 10: step 20 is damaged (")


def test_when_none_is_sound_training_does_not_silently_start_again(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    for path in tmp_path.glob("*.safetensors"):
        os.truncate(path, 10)
    with pytest.raises(UserError, match="no checkpoint in") as caught:
        Checkpoints(tmp_path).latest()
    assert "remove" in caught.value.fix


def test_going_on_after_a_fall_back_replaces_the_damaged_one_in_the_end(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 10, 20)
    os.truncate(tmp_path / "000002_step_20.safetensors", 10)
    checkpoints.save(15, {"w": torch.full((50,), 15.0)}, {})
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.note) == (15, "")
    checkpoints.save(20, {"w": torch.full((50,), 20.0)}, {})
    assert names(tmp_path)[::2] == ["000003_step_15.json", "000004_step_20.json"]


def test_tensors_without_a_record_are_no_checkpoint_and_are_cleared_away(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 10, 20)
    (tmp_path / "000002_step_20.json").unlink()
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.note) == (10, "")
    checkpoints.tidy()
    assert names(tmp_path) == ["000001_step_10.json", "000001_step_10.safetensors"]


def test_a_save_that_fails_at_any_call_leaves_the_previous_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killing at each call is in tests/faults; here the process lives on, so its own clearing up shows."""
    failed = 0
    for at in range(1, 200):
        folder = tmp_path / str(at)
        checkpoints = saved(folder, 10)
        count = [0]

        def wrap(name: str, at: int = at, count: list[int] = count) -> None:
            call = getattr(calls, name)

            def full(*args: object) -> object:
                count[0] += 1
                if count[0] == at:
                    raise OSError(28, "No space left on device")
                return call(*args)

            monkeypatch.setattr(calls, name, full)

        for name in ("open_file", "write", "fsync", "replace"):
            wrap(name)
        try:
            checkpoints.save(20, {"w": torch.full((50,), 20.0)}, {"step": 20})
        except UserError:
            failed += 1
        finally:
            monkeypatch.undo()
        latest = checkpoints.latest()
        assert latest is not None
        assert torch.equal(latest.tensors["w"], torch.full((50,), float(latest.step)))
        assert list(folder.glob("*.part")) == []
        if count[0] < at:
            break
    assert failed == at - 1
    assert failed >= 14


def test_records_of_another_version_or_kind_are_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    record = tmp_path / "000002_step_20.json"
    plain = json.loads(record.read_text())
    for change in ({"schema": 2}, {"more": 1}, {"sha256": 5}, {"step": 21}):
        record.write_text(json.dumps({**plain, **change}))
        latest = Checkpoints(tmp_path).latest()
        assert latest is not None
        assert latest.step == 10
        assert latest.note
