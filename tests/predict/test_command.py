"""`autounet predict` as it is typed: many good images, a few bad ones, and what is left behind."""

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autounet.cli import main
from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = Geometry(
    shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)


def autounet(*words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "autounet", *map(str, words), "--device", "cpu", "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=600)


def here(capsys: pytest.CaptureFixture[str], *words: object) -> subprocess.CompletedProcess[str]:
    """A command in this process, which has imported what it needs."""
    code = main([*map(str, words), "--device", "cpu", "--threads", "1"])
    said = capsys.readouterr()
    return subprocess.CompletedProcess([str(word) for word in words], code, said.out, said.err)


def predict(*words: object) -> subprocess.CompletedProcess[str]:
    """Masks of images."""
    return autounet("predict", *words)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tiny_bundle(tmp_path / "model", plan_of(configuration((8, 8, 8))))


def packed(change: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    """The same file with its inflated bytes changed."""

    def spoil(good: bytes) -> bytes:
        data = bytearray(gzip.decompress(good))
        change(data)
        return gzip.compress(bytes(data), mtime=0)

    return spoil


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty.nii.gz": (lambda _: b"", "empty"),
    "text.nii.gz": (lambda _: b"no image at all", "no"),
    "half.nii.gz": (lambda good: good[: len(good) // 2], "cut"),
    "checksum.nii.gz": (lambda good: good[:-8] + bytes(4) + good[-4:], "checksum"),
    "page.nii.gz": (lambda _: b"<!DOCTYPE html><html><body>log in</body></html>", "web page"),
    "picture.nii": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(600), "PNG"),
    "nothing.nii.gz": (packed(lambda d: struct.pack_into("<h", d, 40, 0)), "axes"),
    "huge.nii.gz": (packed(lambda d: struct.pack_into("<4h", d, 40, 3, 32000, 32000, 32000)), "voxels"),
    "nan.nii.gz": (packed(lambda d: struct.pack_into("<f", d, 352, float("nan"))), "NaN"),
    "spacing.nii.gz": (packed(lambda d: struct.pack_into("<3f", d, 80, -1.0, float("nan"), 0.0)), "spacing"),
}


@pytest.mark.slow
def test_a_hundred_good_images_and_ten_bad_ones_are_a_hundred_masks_ten_reasons_and_exit_3(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(100):
        origin = (float(number), 2.0, 1.0)
        write_image(source / f"good_{number:03d}.nii.gz", smooth((1, 9, 10, 11), number), replace(GRID, origin_xyz_mm=origin))
    good = (source / "good_000.nii.gz").read_bytes()
    for name, (spoil, _) in BAD.items():
        (source / name).write_bytes(spoil(good))
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    done = predict(model, source, out, "--json")
    assert done.returncode == 3, done.stderr[-2000:]
    cases = {case["case"]: case for case in json.loads(done.stdout)["result"]["cases"]}
    assert len(cases) == 110
    masks = sorted(out.glob("*.nii.gz"))
    assert [m.name for m in masks] == [f"good_{n:03d}.nii.gz" for n in range(100)]
    for number, mask in enumerate(masks):
        assert SimpleITK.ReadImage(str(mask)).GetOrigin() == pytest.approx((-float(number), -2.0, 1.0)), "each mask lies on its own image"
    for name, (_, word) in BAD.items():
        case = cases[name.split(".")[0]]
        assert case["problem"], name
        assert case["fix"], name
        assert word.lower() in f"{case['problem']} {case['fix']}".lower(), (name, case)
        assert name.split(".")[0] in done.stderr, "the reason is said, not only recorded"
    assert len({case["problem"] for case in cases.values()}) == 11, "ten reasons, each its own"
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before
    again = predict(model, source, out)
    assert again.returncode == 3
    assert "100 of 110 masks are there, 100 of them from before" in again.stdout
    assert "Traceback" not in done.stderr + again.stderr


def test_one_file_all_bad_and_nothing_at_all_have_their_own_exit_codes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    one = here(capsys, "predict", model, tmp_path / "in" / "a.nii.gz", tmp_path / "one", "--classes", "class_2")
    assert one.returncode == 0, one.stderr
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "one" / "a.nii.gz")))
    assert set(np.unique(found).tolist()) <= {0, 2}
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"")
    assert here(capsys, "predict", model, tmp_path / "in", tmp_path / "bad").returncode == 3
    (tmp_path / "none").mkdir()
    nothing = here(capsys, "predict", model, tmp_path / "none", tmp_path / "nothing")
    assert nothing.returncode == 4
    assert "fix" in nothing.stderr or "holds no" in nothing.stderr
