"""Writing masks and images so that they lie exactly where their input lies: read back and compared before they are visible."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import SUFFIXES, suffix_of
from autounet.images.geometry import Geometry
from autounet.images.image import Format, Header, Image, ReadOptions
from autounet.images.read import PICTURES, read_as
from autounet.images.source import printable
from autounet.images.voxels import smallest_unsigned
from autounet.store.files import Digest, publish
from planners.errors import UserError

STRIP_VOXELS = 1 << 22
NEAR_MM = 1e-3  # at a corner: headers that keep single precision or text move it less


def write_mask(path: Path, voxels_zyx: NDArray[Any], like: Header | Geometry, *, format: str | None = None) -> Digest:  # noqa: A002
    """Write a label map on the grid of `like`, with its geometry bytes where the format allows, in the smallest unsigned integers."""
    geometry = like if isinstance(like, Geometry) else like.geometry
    if voxels_zyx.shape != geometry.shape_zyx:
        raise UserError(
            f"{printable(path.name)}: a mask of {voxels_zyx.shape} voxels is not on the grid {geometry.shape_zyx}",
            "resample the mask first",
        )
    if voxels_zyx.dtype.kind not in "iub":
        raise UserError(f"{printable(path.name)}: a mask of {voxels_zyx.dtype} is no label map", "round its values to whole numbers first")
    dtype = smallest_unsigned(printable(path.name), int(voxels_zyx.max()), int(voxels_zyx.min()))
    return _write(path, np.asarray(voxels_zyx, dtype)[None], geometry, like if isinstance(like, Header) else None, format)


def write_image(path: Path, voxels_czyx: NDArray[Any], geometry: Geometry, *, format: str | None = None) -> Digest:  # noqa: A002
    """Write an image or probabilities (czyx) of any number type the format knows."""
    if voxels_czyx.ndim != 4 or voxels_czyx.shape[1:] != geometry.shape_zyx:
        raise UserError(
            f"{printable(path.name)}: voxels of {voxels_czyx.shape} are not on the grid {geometry.shape_zyx}", "resample them first"
        )
    voxels = voxels_czyx.astype(np.float32) if voxels_czyx.dtype in (np.float16, np.float64) else voxels_czyx
    return _write(path, voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels, geometry, None, format)


def _write(path: Path, voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None, suffix: str | None) -> Digest:
    suffix = suffix or suffix_of(path.name)
    form = SUFFIXES.get(suffix)
    if form is None or form in ("jpeg", "dicom") or suffix in (".hdr", ".img", ".mhd", ".nhdr"):
        raise UserError(
            f"{printable(path.name)} is no name under which an image can be written", "end it in .nii.gz, .mha, .nrrd, .png or .tif"
        )
    copied = like if like is not None and like.format == form else None
    if form == "gipl" and copied is None:
        _check_gipl(path, geometry)
    blocks = _encoder(path, form, suffix)(voxels_czyx, geometry, copied)

    def write(file: BinaryIO) -> None:
        for block in blocks:
            file.write(block)

    return publish(path, write, verify=lambda part: _verify(part, path, form, voxels_czyx, geometry, copied))


def _encoder(path: Path, form: Format, suffix: str) -> Callable[[NDArray[Any], Geometry, Header | None], Iterator[bytes | memoryview]]:
    if form == "nifti":
        from autounet.images.nifti import encode_nifti

        return lambda voxels, geometry, like: encode_nifti(voxels, geometry, like, compressed=suffix == ".nii.gz")
    if form in PICTURES:
        from autounet.images.pictures import encode_picture

        return lambda voxels, geometry, like: encode_picture(printable(path.name), voxels, form)
    if form == "metaimage":
        from autounet.images.metaimage import encode_metaimage

        return encode_metaimage
    if form == "nrrd":
        from autounet.images.nrrd import encode_nrrd

        return encode_nrrd
    from autounet.images.gipl import encode_gipl

    return lambda voxels, geometry, like: encode_gipl(voxels, geometry, like, compressed=suffix == ".gipl.gz")


def _check_gipl(path: Path, geometry: Geometry) -> None:
    from autounet.images.gipl import can_hold

    if not can_hold(geometry):
        raise UserError(f"{printable(path.name)}: GIPL keeps no directions, and this grid is turned", "end the name in .nii.gz or .mha")


def _verify(part: Path, path: Path, form: Format, voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None) -> None:
    """What lies on the disk now must be what was meant, seen through the door everybody comes in by."""
    options = ReadOptions(unusual_geometry=True)
    if like is not None:
        options = ReadOptions(unusual_geometry=True, trust=like.trust, spacing_zyx_mm=like.spacing_zyx_mm)
    back = read_as(part, form, options)
    if not _same(back.voxels_czyx, voxels_czyx):
        raise UserError(
            f"{printable(path.name)} was read back with other voxels than were written", "check the disk, then type the same command again"
        )
    exact = like is not None and like.stored == back.header.stored and like.geometry == back.geometry
    if not exact and not _near(back, geometry, form):
        raise UserError(
            f"{printable(path.name)} was read back with another geometry than was written", "write another format, .nii.gz for example"
        )


def _same(one_czyx: NDArray[Any], other_czyx: NDArray[Any]) -> bool:
    """Equal, compared some rows at a time: a mask of a slide is in memory twice already."""
    if one_czyx.shape != other_czyx.shape:
        return False
    rows = max(1, STRIP_VOXELS // one_czyx.shape[-1])
    return all(
        np.array_equal(one_yx[row : row + rows], other_yx[row : row + rows])
        for one_zyx, other_zyx in zip(one_czyx, other_czyx, strict=True)
        for one_yx, other_yx in zip(one_zyx, other_zyx, strict=True)
        for row in range(0, len(one_yx), rows)
    )


def _near(back: Image, geometry: Geometry, form: Format) -> bool:
    if form in PICTURES:
        return back.geometry.shape_zyx == geometry.shape_zyx
    reach = float(np.abs(geometry.corners_mm()).max())
    return back.geometry.shape_zyx == geometry.shape_zyx and back.geometry.corner_distance_mm(geometry) <= NEAR_MM + 1e-6 * reach
