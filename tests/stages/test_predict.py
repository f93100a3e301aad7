import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from numpy.testing import assert_array_equal

from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.predict import PredictedCase, PredictOptions, PredictReport, predict
from autounet.store.bundle import open_bundle
from autounet.store.manifest import Manifest
from planners.errors import UserError
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

GRID = Geometry(
    shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
)


def job(folder):
    return Job(work=folder, progress=Progress.silent(), device="cpu", threads=1)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    return tiny_bundle(folder, plan_of(configuration((8, 8, 8))))


def images(folder, count, first=0):
    for number in range(first, first + count):
        write_image(folder / f"case_{number:03d}.nii.gz", smooth((1, 9, 10, 11), number), GRID)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_good_images_get_masks_and_bad_ones_reasons(model, tmp_path):
    source = images(tmp_path / "in", 20)
    bad = {
        "empty.nii.gz": b"",
        "text.nii.gz": b"no image at all",
        "half.nii.gz": (source / "case_000.nii.gz").read_bytes()[:300],
        "json.nii": b'{"not": "an image"}',
    }
    for name, data in bad.items():
        (source / name).write_bytes(data)
    write_image(source / "two_channels.nii.gz", smooth((2, 9, 10, 11), 0), GRID)
    before = contents(source)
    report = predict(model, source, tmp_path / "out", job(tmp_path / "out"))
    assert len(report.cases) == 25
    assert sorted(report.failed_cases) == ["empty", "half", "json", "text", "two_channels"]
    assert all(case.problem and case.fix for case in report.cases if case.case in report.failed_cases)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 20
    assert contents(source) == before, "the input is only read"
    told = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert {c["case"] for c in told["cases"] if c["problem"]} == set(report.failed_cases)
    assert str(tmp_path) not in (tmp_path / "out" / "predict.json").read_text()


def test_a_mask_lies_where_its_image_lies_in_the_same_format(model, tmp_path):
    source = tmp_path / "in"
    for suffix in (".nii.gz", ".nii", ".mha", ".nrrd"):
        write_image(source / f"as{suffix.replace('.', '_')}{suffix}", smooth((1, 9, 10, 11), 1), GRID)
    predict(model, source, tmp_path / "out", job(tmp_path / "out"))
    for path in source.iterdir():
        image, mask = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(tmp_path / "out" / path.name))
        assert mask.GetSize() == image.GetSize()
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(mask, what)(), getattr(image, what)(), atol=1e-5)


def test_typed_again_nothing_is_computed_and_another_model_or_image_is_noticed(model, tmp_path):
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    predict(model, source, out, job(out))
    before = contents(out)
    again = predict(model, source, out, job(out))
    assert all(case.found for case in again.cases)
    assert {k: v for k, v in contents(out).items() if k != "predict.json"} == {k: v for k, v in before.items() if k != "predict.json"}
    write_image(source / "case_001.nii.gz", smooth((1, 9, 10, 11), 99), GRID)
    third = predict(model, source, out, job(out))
    assert [case.found for case in third.cases] == [True, False]
    (out / "case_000.nii.gz").unlink()
    fourth = predict(model, source, out, job(out))
    assert [case.found for case in fourth.cases] == [False, True]
    with_maps = predict(model, source, out, job(out), PredictOptions(uncertainty=True))
    assert not any(case.found for case in with_maps.cases)
    (tmp_path / "other").mkdir()
    other = tiny_bundle(tmp_path / "other", plan_of(configuration((8, 8, 8))), folds=(1,))
    of_another = predict(other, source, out, job(out), PredictOptions(uncertainty=True))
    assert not any(case.found for case in of_another.cases)


def test_a_kill_while_a_mask_is_replaced_leaves_no_entry_that_lies(model, tmp_path, monkeypatch):
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    predict(model, source, out, job(out))
    write_image(source / "case_001.nii.gz", smooth((1, 9, 10, 11), 99), GRID)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as at:
        at.setattr("autounet.store.files.publish_text", killed)  # the mask is there, its stamp is not
        with pytest.raises(KeyboardInterrupt):
            predict(model, source, out, job(out))
    assert Manifest.open(out).damaged() == ()
    assert [case.found for case in predict(model, source, out, job(out)).cases] == [True, False]


def test_a_mask_that_lost_a_bit_is_made_again(model, tmp_path):
    source, out = images(tmp_path / "in", 1), tmp_path / "out"
    predict(model, source, out, job(out))
    mask = out / "case_000.nii.gz"
    good = mask.read_bytes()
    mask.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert not predict(model, source, out, job(out)).cases[0].found
    assert mask.read_bytes() == good


def test_extra_maps_lie_on_the_image_s_grid(model, tmp_path):
    source, out = images(tmp_path / "in", 1), tmp_path / "out"
    predict(model, source, out, job(out), PredictOptions(probabilities=True, uncertainty=True))
    image = nibabel.load(source / "case_000.nii.gz")
    maps = [nibabel.load(p) for p in sorted((out / "probabilities" / "case_000").glob("*.nii.gz"))]
    assert len(maps) == 3
    np.testing.assert_allclose(sum(m.get_fdata() for m in maps), 1, atol=1e-5)
    mask = nibabel.load(out / "case_000.nii.gz").get_fdata()
    names = ["background", "class_1", "class_2"]
    stacked = np.stack([nibabel.load(out / "probabilities" / "case_000" / f"{n}.nii.gz").get_fdata() for n in names])
    assert_array_equal(stacked.argmax(0), mask)
    entropy = nibabel.load(out / "uncertainty" / "case_000" / "entropy.nii.gz")
    np.testing.assert_allclose(entropy.affine, image.affine)
    assert 0 <= entropy.get_fdata().min() <= entropy.get_fdata().max() <= np.log(3) + 1e-5


def test_numbered_channels_are_one_case_and_a_missing_one_is_named(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    two = tiny_bundle(folder, plan_of(configuration((8, 8, 8)), channels=2))
    source = tmp_path / "in"
    for name in ("a_0000", "a_0001", "b_0001", "c_0000", "c_0001", "c_0002"):
        write_image(source / f"{name}.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    report = predict(two, source, tmp_path / "out", job(tmp_path / "out"))
    assert report.failed_cases == ("b", "c")
    assert "0001" in report.cases[1].problem
    assert "0000 to 0001" in report.cases[2].problem


def test_wrong_folders_are_one_clear_error(model, tmp_path):
    source = images(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="lies in the input"):
        predict(model, source, source / "masks", job(tmp_path))
    with pytest.raises(UserError, match="lies in the input"):
        predict(model, source, source, job(tmp_path))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file"):
        predict(model, source, tmp_path / "file", job(tmp_path))
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UserError, match="there is no"):
        predict(model, tmp_path / "none", tmp_path / "out", job(tmp_path))
    with pytest.raises(UserError):
        predict(model, tmp_path / "empty", tmp_path / "out", job(tmp_path))


def test_a_network_that_answers_with_nan_makes_no_mask(tmp_path):
    from autounet.store.bundle import Card, Contents, MemberFile, write_bundle
    from autounet.store.selection import Chosen, Selection
    from autounet.store.weights import load_tensors, save_tensors
    from tests.tiny_models import fingerprint_of

    folder = tmp_path / "model"
    folder.mkdir()
    plan = plan_of(configuration((8, 8, 8)))
    tiny_bundle(folder, plan)
    tensors = load_tensors(folder / "3d_fullres_0.safetensors")
    tensors = {k: torch.full_like(v, float("nan")) for k, v in tensors.items()}
    save_tensors(folder / "nan.safetensors", tensors)
    chosen = Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="test")
    contents_ = Contents(
        plan=plan,
        fingerprint=fingerprint_of(plan),
        selection=chosen,
        card=Card(name="nan"),
        members=[MemberFile("3d_fullres", 0, folder / "nan.safetensors")],
    )
    write_bundle(folder / "nan.aunet", contents_)
    report = predict(folder / "nan.aunet", images(tmp_path / "in", 1), tmp_path / "out", job(tmp_path / "out"))
    assert "not finite" in report.cases[0].problem
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_no_name_of_a_patient_reaches_any_output(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    nifti = nibabel.Nifti1Image(smooth((1, 9, 10, 11), 1)[0].transpose(2, 1, 0), np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        nifti.header[field] = b"CANARY^JANE"
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"CANARY^JANE"))
    nibabel.save(nifti, source / "n.nii.gz")
    for suffix in (".mha", ".nrrd"):
        image = SimpleITK.GetImageFromArray(smooth((1, 9, 10, 11), 1)[0])
        for key in ("0010|0010", "PatientName", "Comment"):
            image.SetMetaData(key, "CANARY^JANE")
        SimpleITK.WriteImage(image, str(source / f"s{suffix[1:]}{suffix}"))
    report = predict(model, source, out, job(out), PredictOptions(probabilities=True, uncertainty=True))
    assert report.failed_cases == ()
    import gzip

    for name, data in contents(out).items():
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        assert b"CANARY" not in plain, name
        assert b"JANE" not in plain, name


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.predict import predict
print("ready", flush=True)
out = Path(sys.argv[3])
predict(Path(sys.argv[1]), Path(sys.argv[2]), out, Job(work=out, progress=Progress.silent(), device="cpu", threads=1))
"""


def test_killed_at_any_moment_the_next_call_makes_the_same_bytes(model, tmp_path):
    source, whole, torn = images(tmp_path / "in", 6), tmp_path / "whole", tmp_path / "torn"
    root = Path(__file__).resolve().parents[2]
    predict(model, source, whole, job(whole))
    for attempt in range(4):
        child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(model), str(source), str(torn)], cwd=root, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.15 + 0.2 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    predict(model, source, torn, job(torn))

    def masks(folder):
        return {name: data for name, data in contents(folder).items() if name.endswith(".nii.gz")}

    assert masks(torn) == masks(whole)
    assert len(masks(whole)) == 6


def test_a_dry_run_writes_nothing(model, tmp_path):
    report = predict(model, images(tmp_path / "in", 2), tmp_path / "out", job(tmp_path / "out"), PredictOptions(dry_run=True))
    assert len(report.cases) == 2
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_memory_that_does_not_suffice_is_said_before_the_case_starts(model, tmp_path):
    source = images(tmp_path / "in", 1)
    small = replace(job(tmp_path / "out"), max_ram_bytes=1_000_000)
    report = predict(model, source, tmp_path / "out", small)
    assert "GB of memory" in report.cases[0].problem
    assert open_bundle(model).plan.configurations[0].patch_zyx == (8, 8, 8)


@pytest.mark.parametrize(("device", "there"), [("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)])
def test_b168_a_device_that_is_not_there_is_said_before_anything_is_computed(model, tmp_path, device, there):
    if there():
        pytest.skip(f"this machine has {device}")
    images(tmp_path / "in", 1)
    at = Job(work=tmp_path / "out", progress=Progress.silent(), device=device)
    with pytest.raises(UserError, match=f"no usable {device} device.*--device cpu"):
        predict(model, tmp_path / "in", tmp_path / "out", at)


def test_b168_a_number_that_no_device_has_is_said_with_those_there_are(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    images(tmp_path / "in", 1)
    at = Job(work=tmp_path / "out", progress=Progress.silent(), device="cuda:7")
    with pytest.raises(UserError, match=r"no device cuda:7, this machine has 2.*--device cuda:1"):
        predict(model, tmp_path / "in", tmp_path / "out", at)


def test_why_a_case_has_no_mask_is_said_in_two_sentences():
    failed = PredictedCase(case="a", problem="a.nii.gz was cut", fix="copy the file again")
    assert failed.said == "a: a.nii.gz was cut. Copy the file again."
    assert PredictReport(model="m", cases=(failed,)).lines()[1] == failed.said
