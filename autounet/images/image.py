"""What comes through the door: voxels, their geometry, and how a mask of the same geometry is spelled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from planners.fingerprint import TripleMm

Format = Literal["nifti", "metaimage", "nrrd", "gipl", "png", "jpeg", "bmp", "tiff", "dicom"]
Trust = Literal["sform", "qform", "stored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the user has decided about files that leave something open. Without a decision such a file is refused."""

    trust: Trust | None = None  # which of two placements a NIfTI header means; "stored": axes as they are, no patient
    spacing_zyx_mm: TripleMm | None = None  # instead of the header's
    unusual_geometry: bool = False  # accept voxels below 0.01 or above 50 mm, origins beyond 100 m, uneven slices within 5 %
    fill_nonfinite: float | None = None  # instead of NaN and infinity
    max_bytes: int | None = None  # that the voxels may take; None: what the machine has
    channels: int | None = None  # declared; another number is refused
    part: int | None = None  # read this one of the channels in a NIfTI file alone
    palette_indices: bool = False  # read the numbers behind the colours of a palette picture
    root: Path | None = None  # links that leave this folder are refused
    follow_outside: bool = False  # … unless this is set
    resample_tilt: bool = False  # straighten a tilted or unevenly spaced DICOM series by linear interpolation
    series: str | None = None  # of several DICOM series in a folder: the end of its UID, or its number in the table


DEFAULT = ReadOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The geometry of a file as that file spells it, and nothing else of its header: no names, dates or comments."""

    format: Format
    suffix: str  # of a mask that goes with the file: `.nii.gz` for `.nii.gz`, `.png` for `.jpg`
    geometry: Geometry
    stored: bytes = b""
    trust: Trust | None = None  # with which the file was read, so that its mask can be read the same way
    spacing_zyx_mm: TripleMm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What a header alone tells."""

    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]  # as `read_image` will give it
    voxel_bytes: int  # that the whole array will take
    format: Format
    header: Header
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in memory. Integers stay as stored unless the file scales them; everything else is float32 and finite."""

    voxels_czyx: NDArray[Any]
    geometry: Geometry
    header: Header
    notes: tuple[str, ...] = ()
