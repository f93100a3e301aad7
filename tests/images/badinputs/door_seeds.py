"""Valid seeds for the catalogue of bad inputs, and the edits that spoil them."""

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from autounet.images.image import DEFAULT, Image, ReadOptions
from autounet.images.read import read_header, read_image
from planners.errors import UserError

SPACING = np.diag([0.8, 0.8, 2.5, 1.0])


def voxels(shape: tuple[int, ...] = (12, 11, 10), dtype: Any = np.int16) -> NDArray[Any]:
    """Numbers that differ everywhere, indexed (x, y, z) as nibabel does."""
    return (np.arange(np.prod(shape)) % 97 + 3).reshape(shape).astype(dtype)


def nifti(path: Path, *, array: NDArray[Any] | None = None, affine: NDArray[Any] = SPACING, kind: Any = nib.Nifti1Image) -> Path:
    """A valid file written by nibabel."""
    nib.save(kind(voxels() if array is None else array, affine), path)
    return path


def patched(path: Path, *edits: tuple[Any, ...]) -> Path:
    """The file with struct-packed little-endian values at offsets: (offset, format, values...)."""
    data = bytearray(path.read_bytes())
    for offset, kind, *values in edits:
        struct.pack_into("<" + kind, data, offset, *values)
    path.write_bytes(data)
    return path


def gzipped(path: Path, data: bytes) -> Path:
    """Data compressed under that name."""
    path.write_bytes(gzip.compress(data, mtime=0))
    return path


def refused(path: Path, *fragments: str, options: ReadOptions = DEFAULT, header_too: bool = False) -> str:
    """The file is refused with one sentence that names it and holds every fragment, and a remedy."""
    with pytest.raises(UserError) as caught:
        read_image(path, options)
    text = str(caught.value)
    for fragment in (path.name, *fragments):
        assert fragment in text, f"{fragment!r} is not in: {text}"
    assert len(caught.value.fix) > 8, "a remedy says what to do"
    if header_too:
        with pytest.raises(UserError):
            read_header(path, options)
    return text


def accepted(path: Path, *notes: str, options: ReadOptions = DEFAULT) -> Image:
    """The file is read, its header alone says the same, and every note is given."""
    image, info = read_image(path, options), read_header(path, options)
    assert info.geometry == image.geometry
    assert (info.channels, info.dtype) == (len(image.voxels_czyx), image.voxels_czyx.dtype)
    assert info.voxel_bytes == image.voxels_czyx.nbytes
    assert image.voxels_czyx.shape[1:] == image.geometry.shape_zyx
    for note in notes:
        assert any(note in given for given in image.notes), f"{note!r} is not among {image.notes}"
    return image
