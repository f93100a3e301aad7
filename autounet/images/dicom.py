"""DICOM series as images: one folder, one volume, every slice where its header says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.dicom_files import Series, dataset_of, named, read_file_record, scan_dicom
from autounet.images.dicom_frames import frame_slices
from autounet.images.dicom_pixels import pixel_dtype, stored_frames
from autounet.images.dicom_stack import Slice, Stack, stack, straightened
from autounet.images.geometry import picture_geometry
from autounet.images.image import DEFAULT, Header, Image, ImageInfo, ReadOptions
from autounet.images.placement import Placed, checked, from_lps
from autounet.images.source import Named
from autounet.images.voxels import check_budget, made_finite

SUFFIX = ".nii.gz"  # of masks that go with a series
Pixels = dict[tuple[int, int], NDArray[Any]]  # by file and frame


def find_series(folder: Path, options: ReadOptions = DEFAULT) -> tuple[Series, ...]:
    """The image series below a folder; structure sets, segmentations and reports are not among them."""
    return scan_dicom(folder, options).series


def read_dicom_series(folder: Path, options: ReadOptions = DEFAULT) -> Image:
    """The one image series below a folder."""
    return read_dicom(folder, options)


def read_dicom_info(path: Path, options: ReadOptions) -> ImageInfo:
    """Geometry and size of a series, from all its headers."""
    where = named(path, options)
    series, notes = _series(where, path, options)
    slices, stored = _slices(where, series, options, None)
    found, placed = _placed(where, slices, options)
    dtype = stored if not _is_rescaled(slices) and not (found and _skewed(found)) else np.dtype(np.float32)
    return ImageInfo(
        geometry=placed.geometry,
        channels=1,
        dtype=dtype,
        voxel_bytes=int(np.prod(placed.geometry.shape_zyx, dtype=object)) * dtype.itemsize,
        format="dicom",
        header=_header(placed),
        notes=(*notes, *placed.notes, *_value_notes(series, slices)),
    )


def read_dicom(path: Path, options: ReadOptions) -> Image:
    """The volume of the one series below a folder, or of one file; rescaled slice by slice."""
    where = named(path, options)
    series, notes = _series(where, path, options)
    first = series.files[0]
    check_budget(where, (sum(file.frames for file in series.files), first.rows, first.columns), np.dtype(np.float32), options)
    pixels: Pixels = {}
    slices, _ = _slices(where, series, options, pixels)
    found, placed = _placed(where, slices, options)
    ordered = found.slices if found else slices
    volume_zyx = _volume(pixels, ordered)
    if found is not None and _skewed(found):
        volume_zyx, found = straightened(volume_zyx.astype(np.float32), found)
        placed = _grid(where, found, volume_zyx.shape, slices, options)
    more = made_finite(where, volume_zyx[None], options)
    return Image(
        voxels_czyx=volume_zyx[None],
        geometry=placed.geometry,
        header=_header(placed),
        notes=(*notes, *placed.notes, *_value_notes(series, slices), *more),
    )


def _series(where: Named, path: Path, options: ReadOptions) -> tuple[Series, tuple[str, ...]]:
    """The one series that is meant; several in a folder are a question to the user."""
    if not path.is_dir():
        file = read_file_record(path, options)
        if file is None or file.kind != "image":
            raise where.refuse("is no DICOM image", "pass a folder with one image series")
        return Series(uid=file.series_uid, study_uid=file.study_uid, patient_key="", modality=file.modality, files=(file,)), ()
    found = scan_dicom(path, options)
    if not found.series:
        raise where.refuse("holds no DICOM image", "pass a folder with one image series")
    others = len(found.labels) + found.ignored
    notes = (f"{others} DICOM objects that are no images were left out",) if others else ()
    if len(found.series) == 1 and options.series is None:
        return found.series[0], notes
    table = "; ".join(f"{number}: {one.title}" for number, one in enumerate(found.series, start=1))
    wanted = options.series
    chosen = [
        one
        for number, one in enumerate(found.series, start=1)
        if wanted is not None and (wanted == str(number) or one.uid.endswith(wanted))
    ]
    if len(chosen) == 1:
        return chosen[0], notes
    studies, patients = len({one.study_uid for one in found.series}), len({one.patient_key for one in found.series})
    raise where.refuse(
        f"holds {len(found.series)} series of {studies} studies and {patients} patients: {table}",
        "set series under [dataset] in autounet.toml to the number or the end of the UID, or put each series into its own folder",
    )


def _slices(where: Named, series: Series, options: ReadOptions, pixels: Pixels | None) -> tuple[tuple[Slice, ...], np.dtype[Any]]:
    """All frames of all files, and their number type; `pixels` is filled when given."""
    slices: list[Slice] = []
    dtypes: set[np.dtype[Any]] = set()
    for number, file in enumerate(series.files):
        if file.mosaic:
            raise where.refuse("holds a mosaic: many slices tiled into one picture", "convert it to NIfTI first, for example with dcm2niix")
        with dataset_of(file.path, options, pixels=pixels is not None) as (source, dataset):
            dtypes.add(pixel_dtype(source, dataset).newbyteorder("="))
            slices += frame_slices(source, dataset, file, number)
            if pixels is not None:
                for frame, plane in enumerate(stored_frames(source, dataset)):
                    pixels[number, frame] = plane
    return tuple(slices), np.result_type(*dtypes)


def _placed(where: Named, slices: tuple[Slice, ...], options: ReadOptions) -> tuple[Stack | None, Placed]:
    """The stack and its grid; a single image without a position (radiography, ultrasound) is a picture."""
    if len(slices) == 1 and slices[0].position_lps is None:
        one = slices[0]
        y, x = one.spacing_yx_mm or (1.0, 1.0)
        geometry = replace(picture_geometry((one.rows, one.columns)), spacing_zyx_mm=(1.0, y, x))
        return None, Placed(checked(where, geometry, options), ("an image without a position in the patient, taken as a picture",))
    if options.spacing_zyx_mm is not None:
        slices = tuple(replace(one, spacing_yx_mm=options.spacing_zyx_mm[1:]) for one in slices)
    found = stack(where, slices, options)
    return found, _grid(where, found, (len(found.slices), found.slices[0].rows, found.slices[0].columns), slices, options)


def _grid(where: Named, found: Stack, shape: tuple[int, ...], slices: tuple[Slice, ...], options: ReadOptions) -> Placed:
    directions = found.directions_lps
    notes = found.notes
    if not directions[:, 2].any():  # a single slice: its thickness is all there is
        thickness = slices[0].thickness_mm or 1.0
        row, column = directions[:, 0] / np.linalg.norm(directions[:, 0]), directions[:, 1] / np.linalg.norm(directions[:, 1])
        directions = np.stack([directions[:, 0], directions[:, 1], np.cross(row, column) * thickness], axis=1)
    z, y, x = shape
    placed = from_lps(where, (z, y, x), directions, found.origin_lps, "ImageOrientationPatient")
    return Placed(checked(where, placed.geometry, options), (*notes, *placed.notes))


def _volume(pixels: Pixels, ordered: tuple[Slice, ...]) -> NDArray[Any]:
    """The slices in order, as float32 when any of them is rescaled, else as stored."""
    if not _is_rescaled(ordered):
        planes = [pixels[one.file, one.frame] for one in ordered]
        volume: NDArray[Any] = np.stack(planes)
        return volume
    volume = np.empty((len(ordered), ordered[0].rows, ordered[0].columns), np.float32)
    for plane_yx, one in zip(volume, ordered, strict=True):
        plane_yx[...] = pixels[one.file, one.frame] * one.slope + one.intercept
    return volume


def _is_rescaled(slices: tuple[Slice, ...]) -> bool:
    return any((one.slope, one.intercept) != (1.0, 0.0) for one in slices)


def _skewed(found: Stack) -> bool:
    steps = np.diff(found.offsets_mm)
    return any(found.lateral_yx_mm) or bool(len(steps) and np.abs(steps / np.median(steps) - 1).max() > 0.05)


def _value_notes(series: Series, slices: tuple[Slice, ...]) -> tuple[str, ...]:
    notes = []
    if series.files[0].colours == "MONOCHROME1":
        notes.append("stored with white as its lowest value (MONOCHROME1); the stored values are used")
    if series.modality == "CT" and not any(one.rescaled for one in slices):
        notes.append("a CT without RescaleSlope and RescaleIntercept; the stored values are taken for Hounsfield units")
    return tuple(notes)


def _header(placed: Placed) -> Header:
    return Header(format="dicom", suffix=SUFFIX, geometry=placed.geometry)
