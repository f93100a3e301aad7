"""Names planted in every header field of every format reach nothing that is written: masks, maps, logs, scores, page, model."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autounet import phantoms
from tests.images.badinputs.dicom_seeds import series
from tests.predict.test_command import autounet, here
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

CANARY = "CANARY^JANE"
TOLD = ("CANARY", "JANE", "Q0FOQVJZ", "43414e415259")  # plain, and as base64 and hex begin


def nifti(path: Path, voxels_zyx: np.ndarray, kind: type = nibabel.Nifti1Image, affine: np.ndarray | None = None) -> None:
    """Every text field of the header, the codes of the old format, and two extensions."""
    image = kind(voxels_zyx.transpose(2, 1, 0), np.eye(4) if affine is None else affine)
    for field in image.header.structarr.dtype.names:
        text = image.header.structarr.dtype[field]
        if text.kind == "S" and field not in ("magic", "sizeof_hdr"):
            image.header[field] = CANARY[: text.itemsize].encode()
    for code in ("comment", "dicom", "afni"):
        content = f"<x>{CANARY}</x>".encode()
        if code != "dicom":
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(image, path)
    raw = path.read_bytes()
    assert CANARY.encode() in (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)


def metaimage(path: Path, voxels_zyx: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(voxels_zyx)
    for key in ("0010|0010", "PatientName", "Comment", "Name", "AcquisitionDate"):
        image.SetMetaData(key, CANARY)
    SimpleITK.WriteImage(image, str(path))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"ElementDataFile", f"Comment = {CANARY}\nElementDataFile".encode(), 1))


def nrrd(path: Path, voxels_zyx: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(voxels_zyx)
    for key in ("PatientName", "0010|0010", "whatever"):
        image.SetMetaData(key, CANARY)
    SimpleITK.WriteImage(image, str(path))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\ntype:", f"\n# {CANARY}\ncontent: {CANARY}\nPatient:={CANARY}\ntype:".encode(), 1))
    assert CANARY.encode() in path.read_bytes()


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as it is, and what is packed in it: gzip, zip members, the streams of PNG and of any zlib."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield str(path), data + path.name.encode()
        if data[:2] == b"\x1f\x8b":
            yield f"{path} unpacked", gzip.decompress(data)
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for info in archive.infolist():
                    yield f"{path}: {info.filename}", archive.read(info) + info.filename.encode() + info.extra + info.comment
        for head in (b"\x78\x9c", b"\x78\xda", b"\x78\x01"):
            at = data.find(head)
            while 0 <= at < len(data):
                with suppress(zlib.error):
                    yield f"{path} at {at}", zlib.decompressobj().decompress(data[at:], 10**8)
                at = data.find(head, at + 1)


def assert_nobody(folder: Path, *said: str) -> None:
    """No canary in any file of a folder, nor in what was said."""
    looked = 0
    for name, data in (*texts(folder), *((f"output {n}", text.encode()) for n, text in enumerate(said))):
        looked += 1
        for word in TOLD:
            assert word.encode().lower() not in data.lower(), (name, word)
            assert word.encode("utf-16-le").lower() not in data.lower(), (name, word)
    assert looked > 1


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    hidden = {
        "plain": CANARY.encode(),
        "packed": gzip.compress(CANARY.encode()),
        "streamed": b"xxxx" + zlib.compress(CANARY.encode()),
        "wide": CANARY.encode("utf-16-le"),
    }
    for name, data in hidden.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
        with pytest.raises(AssertionError):
            assert_nobody(tmp_path / name, "nothing")


def test_no_name_in_a_header_reaches_a_mask_a_map_or_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    model = tiny_bundle(tmp_path / "model", plan_of(configuration((8, 8, 8))))
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    voxels = smooth((1, 9, 10, 11), 1)[0]
    nifti(source / "n1.nii.gz", voxels)
    nifti(source / "n2.nii", voxels, nibabel.Nifti2Image)
    metaimage(source / "mha.mha", voxels)
    nrrd(source / "nrrd.nrrd", voxels)
    nifti(source / "broken.nii", voxels)
    (source / "broken.nii").write_bytes((source / "broken.nii").read_bytes()[:-100])
    done = here(capsys, "predict", model, source, out, "--probabilities", "--uncertainty", "--verbose", "--json")
    assert done.returncode == 3, done.stderr
    cases = json.loads(done.stdout)["result"]["cases"]
    assert [c["case"] for c in cases if c["problem"]] == ["broken"]
    assert len([p for p in out.iterdir() if p.suffix in (".gz", ".nii", ".mha", ".nrrd")]) == 4
    assert (out / "events.jsonl").exists()
    assert_nobody(out, done.stdout, done.stderr)
    fields = {"PatientBirthDate": "19700101", "InstitutionName": CANARY, "ReferringPhysicianName": CANARY, "AccessionNumber": "CANARY"}
    series(tmp_path / "dicom" / "scan", SeriesDescription=CANARY, StudyDescription=CANARY, PatientComments=CANARY, **fields)
    of_dicom = here(capsys, "predict", model, tmp_path / "dicom", tmp_path / "of_dicom", "--probabilities", "--verbose")
    assert of_dicom.returncode == 0, of_dicom.stderr
    assert_nobody(tmp_path / "of_dicom", of_dicom.stdout, of_dicom.stderr)
    for data in (b for _, b in texts(tmp_path / "of_dicom")):
        assert b"19700101" not in data


@pytest.mark.slow
def test_no_name_in_a_header_reaches_the_scores_the_page_or_the_model(tmp_path: Path) -> None:
    plain = phantoms.make("organs", tmp_path / "plain", cases=6, size=24, seed=2)
    source = tmp_path / "named"
    for path in sorted(plain.rglob("*.nii.gz")):
        target = source / path.relative_to(plain)
        target.parent.mkdir(parents=True, exist_ok=True)
        loaded = nibabel.load(path)
        nifti(target, np.asarray(loaded.dataobj).transpose(2, 1, 0), affine=loaded.affine)
    (source / "autounet.toml").write_bytes((plain / "autounet.toml").read_bytes())
    ran = autounet("run", source, "--iterations", "6", "--folds", "0", "--verbose")
    assert ran.returncode == 0, ran.stderr[-2000:]
    work = source.with_name("named.autounet")
    (model,) = work.glob("*.aunet")
    done = autounet("predict", model, source / "images", tmp_path / "masks", "--probabilities")
    scored = autounet("evaluate", tmp_path / "masks", source / "labels", "--out", tmp_path / "scores")
    told = autounet("report", source)
    for one in (done, scored, told):
        assert one.returncode == 0, one.stderr[-2000:]
    for folder in (work, tmp_path / "masks", tmp_path / "scores"):
        assert_nobody(folder, *(one.stdout + one.stderr for one in (ran, done, scored, told)))
    with zipfile.ZipFile(model) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    for case in (p.name.split(".")[0] for p in (source / "images").iterdir()):
        assert case.encode() not in whole, "the model names no case"
    assert str(tmp_path).encode() not in whole, "and no path"
