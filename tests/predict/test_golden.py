"""`autounet verify` on a model: the golden pair is predicted again, and whatever is not as it was is found."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autounet.inference.golden import make_golden
from autounet.job import Job
from autounet.model import load
from autounet.progress import Progress
from autounet.stages.verify import verify
from autounet.store.bundle import Card, Contents, Golden, MemberFile, open_bundle, write_bundle
from autounet.store.selection import Chosen, Selection
from autounet.store.weights import load_tensors, save_tensors
from planners.errors import UserError
from planners.plan import Plan
from tests.predict.test_command import here
from tests.predict.test_hostile import WEIGHTS, parts_of, write
from tests.tiny_models import configuration, fingerprint_of, plan_of, tiny_bundle


def job(folder: Path) -> Job:
    return Job(work=folder, progress=Progress.silent(), device="cpu", threads=1)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Contents, Path]:
    """A model with its golden pair."""
    plan = plan_of(configuration((8, 8, 8)))
    random_weights = load(tiny_bundle(tmp_path, plan, case="CANARY_CASE"), device="cpu")
    fingerprint = fingerprint_of(plan, "CANARY_CASE")
    selection = Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="the only one", failed_cases=("CANARY_CASE",))
    contents = Contents(
        plan=plan,
        fingerprint=fingerprint,
        selection=selection,
        card=Card(name="golden"),
        members=[MemberFile("3d_fullres", 0, tmp_path / "3d_fullres_0.safetensors")],
        golden=make_golden(plan, fingerprint, selection, random_weights.ensemble.members),
    )
    write_bundle(tmp_path / "golden.aunet", contents)
    return contents, tmp_path / "golden.aunet"


def test_a_sound_model_predicts_its_golden_image_again(made: tuple[Contents, Path], tmp_path: Path) -> None:
    contents, model = made
    assert contents.golden is not None
    assert len(np.unique(contents.golden.label_zyx)) > 1, "a golden mask of background proves nothing"
    sound, damaged = verify(model, job(tmp_path))
    assert damaged == ()
    assert any("100.00 % of its voxels" in line for line in sound)


def test_a_flipped_bit_of_a_weight_is_found(made: tuple[Contents, Path], tmp_path: Path) -> None:
    _, model = made
    parts = parts_of(model)
    for place in (-1, -1000, len(parts[WEIGHTS]) // 2):
        weights = bytearray(parts[WEIGHTS])
        weights[place] ^= 1
        bad = write(tmp_path / "bad.aunet", {**parts, WEIGHTS: bytes(weights)}, hashed=False)
        with pytest.raises(UserError, match="is not what its hash says"):
            verify(bad, job(tmp_path))


def test_weights_that_were_exchanged_together_with_their_hash_are_found_by_the_golden_pair(
    made: tuple[Contents, Path], tmp_path: Path
) -> None:
    contents, _ = made
    tensors = load_tensors(contents.members[0].path)
    save_tensors(tmp_path / "other.safetensors", {name: value * 1.5 for name, value in tensors.items()})
    write_bundle(tmp_path / "other.aunet", replace(contents, members=[MemberFile("3d_fullres", 0, tmp_path / "other.safetensors")]))
    _, damaged = verify(tmp_path / "other.aunet", job(tmp_path))
    assert len(damaged) == 1
    assert "computes something else" in damaged[0]


def test_a_golden_mask_that_differs_is_found_and_rounding_is_not(made: tuple[Contents, Path], tmp_path: Path) -> None:
    contents, _ = made
    golden = contents.golden
    assert golden is not None
    for voxels, is_damaged in ((1, False), (golden.label_zyx.size // 500, True)):
        changed = golden.label_zyx.copy()
        changed.reshape(-1)[:voxels] = (changed.reshape(-1)[:voxels] + 1) % 3
        path = tmp_path / f"{voxels}.aunet"
        write_bundle(path, replace(contents, golden=replace(golden, label_zyx=changed)))
        _, damaged = verify(path, job(tmp_path))
        assert bool(damaged) == is_damaged, voxels


def test_a_golden_pair_that_does_not_fit_the_model_is_one_clear_error(made: tuple[Contents, Path], tmp_path: Path) -> None:
    contents, _ = made
    golden = contents.golden
    assert golden is not None
    odd: dict[str, Golden] = {
        "channels": replace(golden, image_czyx=np.concatenate([golden.image_czyx] * 2)),
        "axes": replace(golden, image_czyx=golden.image_czyx[0]),
        "shapes": replace(golden, label_zyx=golden.label_zyx[:-1]),
        "spacing": replace(golden, spacing_zyx_mm=(0.0, 1.0, float("nan"))),
        "size": replace(golden, image_czyx=np.zeros((1, 1, 1, 2**23), np.float32), label_zyx=np.zeros((1, 1, 2**23), np.int32)),
    }
    for what, one in odd.items():
        with pytest.raises(UserError):
            made_and_verified(tmp_path / f"{what}.aunet", replace(contents, golden=one))


def made_and_verified(path: Path, contents: Contents) -> None:
    write_bundle(path, contents)
    verify(path, job(path.parent))


def test_the_command_ends_with_3_when_the_golden_mask_differs(
    made: tuple[Contents, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents, model = made
    golden = contents.golden
    assert golden is not None
    assert here(capsys, "verify", model).returncode == 0
    write_bundle(tmp_path / "other.aunet", replace(contents, golden=replace(golden, label_zyx=golden.label_zyx * 0)))
    done = here(capsys, "verify", tmp_path / "other.aunet")
    assert done.returncode == 3
    assert "damaged" in done.stdout


def test_a_model_names_no_case_and_no_path(made: tuple[Contents, Path], tmp_path: Path) -> None:
    _, model = made
    with zipfile.ZipFile(model) as archive:
        everything = model.read_bytes() + b"".join(archive.read(name) for name in archive.namelist())
        extra = [info.extra + info.comment for info in archive.infolist()]
    for secret in ("CANARY_CASE", str(tmp_path), str(Path.home()), str(Path(__file__).resolve().parents[2])):
        assert len(secret) > 4
        assert secret.encode() not in everything
    assert not any(b"CANARY" in more for more in extra)
    plan: Plan = open_bundle(model).plan
    assert plan.dataset == "tiny", "the name of the dataset is the user's word for it, and stays"
