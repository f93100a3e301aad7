"""Damaged files of every format are read or refused with one sentence; nothing else ever happens."""

import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as Pillow

from autounet.images.dicom_labels import Masks, label_names, read_dicom_seg, read_rtstruct
from autounet.images.image import Image, ImageInfo, ReadOptions
from autounet.images.read import read_header, read_image
from planners.errors import UserError
from tests.images.badinputs.dicom_seeds import plane, series
from tests.images.test_dicom_labels import box, rtstruct, segmentation

ROUNDS = 120
OPTIONS = (ReadOptions(max_bytes=1 << 24), ReadOptions(max_bytes=1 << 24, trust="stored", unusual_geometry=True, fill_nonfinite=0.0))
FORMATS = (".nii", ".nii.gz", ".mha", ".nrrd", ".gipl", ".png", ".jpg", ".bmp", ".tif", ".dcm")


def seed_file(path: Path) -> Path:
    """A small valid file of the format its name says."""
    rng = np.random.default_rng(1)
    array = rng.integers(0, 200, (5, 6, 7)).astype(np.int16)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    elif path.suffix in (".png", ".jpg", ".bmp", ".tif"):
        Pillow.fromarray(array[0].repeat(3, 0).astype(np.uint8)).save(path)
    elif path.suffix == ".dcm":
        plane(0).save_as(path, enforce_file_format=True)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path), path.suffix != ".gipl")
    return path


def flipped_bits(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))


def wild_header(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, min(400, len(data) - 8)))
    size = int(rng.choice([1, 2, 4, 8]))
    data[start : start + size] = rng.choice([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7, rng.bytes(8)])[:size]


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(0, len(data))) :]


def doubled(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    data[start:start] = data[start : start + int(rng.integers(1, 64))]


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (flipped_bits, wild_header, wild_header, cut, doubled)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = seed_file(tmp_path / f"case{suffix}")
    whole = path.read_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for round_number in range(ROUNDS):
            rng = np.random.default_rng([round_number, len(suffix)])
            data = bytearray(whole)
            MUTATIONS[round_number % len(MUTATIONS)](data, rng)
            path.write_bytes(data)
            for options in OPTIONS:
                refused += outcome(path, options)
    assert refused > ROUNDS // 10, "most damage is noticed"


def test_a_damaged_structure_set_or_segmentation_is_read_or_refused(tmp_path: Path) -> None:
    grid = read_image(series(tmp_path / "ct")).geometry
    structures = rtstruct(tmp_path / "rs.dcm", {"a": [box(4.0, -8.4, -5.4, -19.4, -17.8)], "b": [box(2.0, -8.4, -5.4, -19.4, -17.8)]})
    frames = np.ones((3, 8, 10), np.uint8)
    segments = [segmentation(tmp_path / f"{kind}.dcm", frames, [1, 2, 1], kind) for kind in ("BINARY", "FRACTIONAL", "LABELMAP")]
    for path, paint in ((structures, read_rtstruct), *((one, read_dicom_seg) for one in segments)):
        whole = path.read_bytes()
        for round_number in range(ROUNDS):
            data = bytearray(whole)
            MUTATIONS[round_number % len(MUTATIONS)](data, np.random.default_rng([round_number, 5]))
            path.write_bytes(data)
            found = painted(path, lambda file: (label_names(file), paint(file, grid)))  # noqa: B023 - called at once
            if isinstance(found, UserError):
                assert path.name in str(found)
            else:
                assert tuple(found[1]) == found[0]
                assert all(mask.shape == grid.shape_zyx for mask in found[1].values())


def painted(path: Path, paint: Callable[[Path], tuple[tuple[str, ...], Masks]]) -> tuple[tuple[str, ...], Masks] | UserError:
    try:
        return paint(path)
    except UserError as error:
        return error


def outcome(path: Path, options: ReadOptions) -> bool:
    """Whether the file was refused; what is read has to be finite, and as large as its header said."""
    found = read(path, options)
    if isinstance(found, UserError):
        assert path.name in str(found)
        assert found.fix
        return True
    info, image = found
    assert image.voxels_czyx.shape[1:] == info.geometry.shape_zyx
    assert image.voxels_czyx.nbytes <= 1 << 24
    assert np.isfinite(image.voxels_czyx).all()
    return False


def read(path: Path, options: ReadOptions) -> tuple[ImageInfo, Image] | UserError:
    try:
        return read_header(path, options), read_image(path, options)
    except UserError as error:
        return error
