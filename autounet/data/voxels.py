"""The voxels of one case, in stored orientation: channels stacked on one grid, the label in class numbers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data import label_values
from autounet.data.agreement import Agreement, compare
from autounet.data.dataset import Case, Dataset, ImageFile, Reading
from autounet.images.geometry import Geometry
from autounet.images.image import Header, Image, ReadOptions
from autounet.images.orientation import orient, orientation_of, restore
from autounet.images.read import read_header, read_image
from planners.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseVoxels:
    """One case in memory."""

    image_czyx: NDArray[Any]  # float32, or the stored integers
    label_zyx: NDArray[np.int16] | None  # class numbers; ignore is the number behind the last class
    geometry: Geometry
    header: Header  # with which a mask can be written back
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCase:
    """One case as its files have it: the label in the user's values."""

    image_czyx: NDArray[Any]
    values_zyx: NDArray[Any] | None
    geometry: Geometry
    header: Header
    notes: tuple[str, ...]


def read_case(dataset: Dataset, case: Case, *, with_label: bool = True) -> CaseVoxels:
    """All channels and the label of a case; the label is None when it has none."""
    stored = read_stored(dataset, case, with_label=with_label)
    label = None
    if stored.values_zyx is not None:
        label = label_values.to_classes(stored.values_zyx, dataset.labels, nearest=dataset.reading.nearest_label, case=case.id)
    return CaseVoxels(image_czyx=stored.image_czyx, label_zyx=label, geometry=stored.geometry, header=stored.header, notes=stored.notes)


def read_stored(dataset: Dataset, case: Case, *, with_label: bool = True) -> StoredCase:
    """The same with the label's own values."""
    image, notes = _channels(dataset, case)
    values = None
    if with_label and case.label is not None:
        values, said = read_values(dataset, case, image.geometry)
        notes += said
    return StoredCase(
        image_czyx=image.voxels_czyx, values_zyx=values, geometry=image.geometry, header=image.header, notes=tuple(dict.fromkeys(notes))
    )


def read_stored_label(dataset: Dataset, case: Case) -> NDArray[Any]:
    """The label's own values without the image's voxels."""
    first = case.images[0]
    info = read_header(dataset.folder / first.path, read_options(dataset, series=first.series))
    geometry = info.geometry if first.section is None else replace(info.geometry, shape_zyx=(1, *info.geometry.shape_zyx[1:]), flat=True)
    return read_values(dataset, case, geometry)[0]


def read_options(dataset: Dataset, *, channels: int | None = None, series: str | None = None, label: bool = False) -> ReadOptions:
    """How the door shall read the files of a dataset."""
    return options_of(dataset.reading, dataset, channels=channels, series=series, label=label)


def options_of(reading: Reading, dataset: Dataset, *, channels: int | None, series: str | None, label: bool) -> ReadOptions:
    """The user's decisions in the door's words."""
    return ReadOptions(
        trust=reading.trust,
        spacing_zyx_mm=reading.spacing_zyx_mm,
        unusual_geometry=reading.unusual_geometry or (label and reading.ignore_geometry),
        fill_nonfinite=reading.fill_nonfinite,
        palette_indices=reading.palette_indices,
        channels=channels,
        root=dataset.folder,
        follow_outside=reading.follow_symlinks,
        resample_tilt=reading.resample_tilt,
        series=series,
    )


def read_values(dataset: Dataset, case: Case, geometry: Geometry) -> tuple[NDArray[Any], list[str]]:
    """The label of a case in the user's values, on the grid of its image."""
    assert case.label is not None
    if dataset.label_style == "masks":
        return _from_masks(dataset, case, geometry)
    if dataset.label_style in ("rtstruct", "dicom_seg"):
        from autounet.data.dicom_values import read_dicom_values

        return read_dicom_values(dataset, case, geometry)
    return _from_file(dataset, case, case.label, geometry)


def _channels(dataset: Dataset, case: Case) -> tuple[Image, list[str]]:
    """Every file once; the channels that were asked for, stacked on the grid of the first."""
    colours = dataset.channels[0].modality == "rgb" and len(dataset.channels) == 3
    read: dict[tuple[str, str | None], Image] = {}
    taken, notes = [], list[str]()
    for file in case.images:
        name = (file.path, file.series)
        if name not in read:
            wanted = 3 if colours else 1 if dataset.reading.gray else None
            read[name] = read_image(dataset.folder / file.path, read_options(dataset, channels=wanted, series=file.series))
            notes += read[name].notes
        image = read[name]
        first = read[(case.images[0].path, case.images[0].series)]
        part = _part(image, file, case)
        taken.append(part if image is first else _on_grid(_Place(dataset, case, file, first.geometry), part, image.geometry, notes))
    first = _section(read[(case.images[0].path, case.images[0].series)], case.images[0])
    whole = first.voxels_czyx
    # All channels of one file, in its order, are taken without a copy.
    stacked = whole if len(case.images) == len(whole) and len(read) == 1 else np.stack(taken)
    return replace(first, voxels_czyx=stacked), notes


def _part(image: Image, file: ImageFile, case: Case) -> NDArray[Any]:
    channels = len(image.voxels_czyx)
    if file.part is None and channels > 1:
        raise UserError(f"{file.path} holds {channels} channels, one is expected", "run `autounet check` on the dataset again", case.id)
    if (file.part or 0) >= channels:
        raise UserError(
            f"{file.path} holds {channels} channels, channel {file.part} is wanted", "give every case the same channels", case.id
        )
    voxels: NDArray[Any] = _section(image, file).voxels_czyx[file.part or 0]
    return voxels


def _section(image: Image, file: ImageFile) -> Image:
    """One page of a stack as a picture of its own."""
    if file.section is None:
        return image
    geometry = image.geometry
    if file.section >= geometry.shape_zyx[0]:
        raise UserError(
            f"{file.path} holds {geometry.shape_zyx[0]} pictures, number {file.section} is wanted", "run `autounet check` again"
        )
    flat = replace(geometry, shape_zyx=(1, *geometry.shape_zyx[1:]), flat=True)
    header = replace(image.header, geometry=flat)
    return replace(image, voxels_czyx=image.voxels_czyx[:, file.section : file.section + 1], geometry=flat, header=header)


@dataclass(frozen=True, slots=True)
class _Place:
    """A file of a case and the grid that it has to lie on."""

    dataset: Dataset
    case: Case
    file: ImageFile
    grid: Geometry


def _on_grid(place: _Place, voxels_zyx: NDArray[Any], stored: Geometry, notes: list[str]) -> NDArray[Any]:
    """Voxels of another file on the grid of the first; a true mismatch is refused."""
    if place.file.section is not None:
        return voxels_zyx
    agreement = compare(place.grid, stored)
    problem = refused(agreement, place.file, place.dataset.reading, place.case)
    if problem is not None:
        raise problem
    if agreement.found:
        notes.append(f"{place.file.path}: {agreement.found}")
    if agreement.turned:
        return restore(orient(voxels_zyx, orientation_of(stored)), orientation_of(place.grid))
    return voxels_zyx


def refused(agreement: Agreement, file: ImageFile, reading: Reading, case: Case) -> UserError | None:
    """The error for grids that do not fit, unless the user said that headers do not matter and the shapes are equal."""
    if agreement.verdict != "mismatch" or (reading.ignore_geometry and "voxels against" not in agreement.found):
        return None
    fix = "resample it onto the grid of the image" if "voxels against" in agreement.found else (
        "write the image's header into it, or set ignore_geometry = true under [dataset] in autounet.toml if the arrays do fit"
    )  # fmt: skip
    return UserError(f"{file.path} lies elsewhere than the case's first image: {agreement.found}", fix, case.id)


def _from_file(dataset: Dataset, case: Case, file: ImageFile, geometry: Geometry) -> tuple[NDArray[Any], list[str]]:
    image = read_image(dataset.folder / file.path, read_options(dataset, series=file.series, label=True))
    notes: list[str] = list(image.notes)
    voxels_czyx = _section(image, file).voxels_czyx
    if len(voxels_czyx) > 1 and file.part is None:
        voxels_czyx = _gray(voxels_czyx, file, case)
    voxels = voxels_czyx[file.part or 0]
    voxels = _on_grid(_Place(dataset, case, file, geometry), voxels, image.geometry, notes)
    if dataset.reading.binary_label:
        return (voxels != 0).astype(np.uint8), notes
    values, said = label_values.whole(voxels, scale=dataset.reading.label_scale, name=file.path, case=case.id)
    return values, notes + ([f"{file.path}: {said}"] if said else [])


def _gray(voxels_czyx: NDArray[Any], file: ImageFile, case: Case) -> NDArray[Any]:
    if all(np.array_equal(voxels_czyx[0], other) for other in voxels_czyx[1:]):
        return voxels_czyx[:1]
    fix = "save it as gray values, one number for each class"
    if len(voxels_czyx) != 3 or voxels_czyx.dtype.kind == "f":
        fix = "merge its volumes, one for each class, into one label map; classes that overlap become [regions] in autounet.toml"
    raise UserError(f"the label {file.path} holds {len(voxels_czyx)} different channels, a label map has one", fix, case.id)


def _from_masks(dataset: Dataset, case: Case, geometry: Geometry) -> tuple[NDArray[Any], list[str]]:
    """One file a class: painted in order, later ones on top."""
    highest = max((m.value for m in case.masks), default=0)
    out = np.zeros(geometry.shape_zyx, np.uint8 if highest < 256 else np.int32)
    notes: list[str] = []
    overlap = 0
    for mask in case.masks:
        values, said = _from_file(dataset, case, mask.file, geometry)
        on = values != 0
        overlap += int(np.count_nonzero(out[on]))
        out[on] = mask.value
        notes += said
    if overlap:
        notes.append(f"{overlap:,} voxels are in several masks; the later class was taken")
    return out, notes
