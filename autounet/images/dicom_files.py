"""DICOM files on the disk: found, opened with the same care as any other file, and read into plain records without names."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from autounet.images.guarded import guarded
from autounet.images.image import ReadOptions
from autounet.images.source import Named, Source, opened, printable, shown
from planners.errors import UserError

Kind = Literal["image", "rtstruct", "dicom_seg", "other"]
_SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_DIRECTORY = "1.2.840.10008.1.3.10"
_FIRST_ELEMENTS = {(2, 0), (2, 1), (2, 2), (2, 16), (8, 0), (8, 1), (8, 5), (8, 8), (8, 18), (8, 22), (8, 24)}
_DEFLATED, _META_BYTES = b"1.2.840.10008.1.2.1.99", 2048
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "ImageType", "InstanceNumber"),
    *("Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames"),
    *(
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "RescaleSlope",
        "RescaleIntercept",
        "SamplesPerPixel",
        "PhotometricInterpretation",
    ),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"),
    "FrameOfReferenceUID",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """What one file says of itself; nothing in it tells who the patient is."""

    path: Path
    kind: Kind
    series_uid: str
    study_uid: str
    instance_uid: str
    patient_key: str  # a hash: equal for files of one patient, and of no other use
    frame_of_reference: str
    modality: str
    rows: int
    columns: int
    frames: int
    localizer: bool
    mosaic: bool
    colours: str  # PhotometricInterpretation
    syntax: str  # transfer syntax UID
    refers_to: tuple[str, ...] = ()  # series that a structure set or segmentation was drawn on


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The image files of one series."""

    uid: str
    study_uid: str
    patient_key: str
    modality: str
    files: tuple[DicomFile, ...]

    @property
    def title(self) -> str:
        """One line for a table."""
        first = self.files[0]
        frames = sum(file.frames for file in self.files)
        return f"{self.modality or '?'}, {frames} images of {first.columns} x {first.rows}, UID …{self.uid[-12:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFolder:
    """What was found below a folder."""

    series: tuple[Series, ...]
    labels: tuple[DicomFile, ...]  # structure sets and segmentations
    ignored: int  # other DICOM objects: reports, plans, directories


def scan_dicom(folder: Path, options: ReadOptions) -> DicomFolder:
    """All DICOM files below a folder, by series; a DICOMDIR is never followed."""
    found: dict[str, list[DicomFile]] = {}
    labels: list[DicomFile] = []
    ignored = 0
    for path in _candidates(folder):
        file = read_file_record(path, options)
        if file is None:
            continue
        if file.kind == "image":
            found.setdefault(file.series_uid, []).append(file)
        elif file.kind == "other":
            ignored += 1
        else:
            labels.append(file)
    series = tuple(
        Series(uid=uid, study_uid=files[0].study_uid, patient_key=files[0].patient_key, modality=files[0].modality, files=tuple(files))
        for uid, files in sorted(found.items())
    )
    return DicomFolder(series=series, labels=tuple(labels), ignored=ignored)


def read_file_record(path: Path, options: ReadOptions) -> DicomFile | None:
    """The record of one file; None when it is no DICOM file."""
    with opened(path, options) as source:
        if not _looks_like_dicom(source):
            return None
        with guarded(source, "pydicom"):
            return _record(path, source, _read(source, tags=_TAGS))


@contextmanager
def dataset_of(path: Path, options: ReadOptions, *, pixels: bool = True) -> Iterator[tuple[Source, Any]]:
    """The whole data set of one file, open so that large values can be read."""
    with opened(path, options) as source:
        if not _looks_like_dicom(source):
            raise source.refuse("is no DICOM file", "remove it, or give it the suffix of what it is")
        with guarded(source, "pydicom"):
            yield source, _read(source, pixels=pixels)


def numbers(source: Source, dataset: Any, name: str, count: int) -> tuple[float, ...] | None:
    """That many finite numbers of a field; None when it is absent or empty."""
    value = dataset.get(name)
    if value is None or (hasattr(value, "__len__") and not len(value)):
        return None
    try:
        found = tuple(float(v) for v in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value]))
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        found = ()
    if len(found) != count or not all(map(isfinite, found)):
        raise source.refuse(f"has a {name} that is not {count} numbers", "export the series again")
    return found


def whole(source: Source, dataset: Any, name: str, default: int = 0) -> int:
    """A whole number that is not negative; the default when the field is absent or empty."""
    found = numbers(source, dataset, name, 1)
    if found is None:
        return default
    if found[0] != int(found[0]) or found[0] < 0:
        raise source.refuse(f"has {name} = {found[0]:g}", "export the file again")
    return int(found[0])


def items(source: Source, dataset: Any, name: str) -> list[Any]:
    """The items of a sequence; none when it is absent."""
    value = dataset.get(name)
    if value is None or value == "":
        return []
    if not isinstance(value, pydicom().sequence.Sequence):
        raise source.refuse(f"has a {name} that is no sequence", "export the file again")
    return list(value)


def pydicom() -> Any:
    """The library, or what to type to get it."""
    try:
        import pydicom as library
    except ImportError:
        raise UserError("reading DICOM needs the package pydicom, which is not installed", "type: pip install 'autounet[dicom]'") from None
    return library


def _candidates(folder: Path) -> list[Path]:
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        paths += [Path(place, name) for name in sorted(names) if not name.startswith(".") and name.upper() != "DICOMDIR"]
    return paths


def _looks_like_dicom(source: Source) -> bool:
    start = source.file.read(132) or b""
    source.file.seek(0)
    if start[128:132] == b"DICM":
        return True
    # Without a preamble a file begins with an early element of group 2 or 8.
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    return len(start) >= 8 and (group, element) in _FIRST_ELEMENTS


def _refuse_deflated(source: Source) -> None:
    """Data sets deflated as a whole would be inflated by the library without a limit; nobody stores images so."""
    start = source.file.read(_META_BYTES) or b""
    source.file.seek(0)
    if _DEFLATED in start:
        raise source.refuse("is deflated as a whole (Deflated Explicit VR Little Endian)", "export the series uncompressed")


def _read(source: Source, *, tags: list[str] | None = None, pixels: bool = True) -> Any:
    _refuse_deflated(source)
    return pydicom().dcmread(source.file, force=True, specific_tags=tags, stop_before_pixels=tags is not None or not pixels)


def _record(path: Path, source: Source, dataset: Any) -> DicomFile:
    def text(name: str) -> str:
        return str(dataset.get(name) or "").strip()

    sop_class = text("SOPClassUID")
    rows, columns, frames = whole(source, dataset, "Rows"), whole(source, dataset, "Columns"), whole(source, dataset, "NumberOfFrames", 1)
    image_type = [str(word).upper() for word in dataset.get("ImageType") or []]
    return DicomFile(
        path=path,
        kind=_kind(sop_class, text("Modality"), rows * columns),
        series_uid=text("SeriesInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        instance_uid=text("SOPInstanceUID"),
        patient_key=blake2b(text("PatientID").encode(), digest_size=8).hexdigest() if text("PatientID") else "",
        frame_of_reference=text("FrameOfReferenceUID"),
        modality=printable(text("Modality"), 16),
        rows=rows,
        columns=columns,
        frames=frames,
        localizer="LOCALIZER" in image_type,
        mosaic="MOSAIC" in image_type,
        colours=text("PhotometricInterpretation"),
        syntax=str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "") or ""),
        refers_to=_references(source, dataset),
    )


def _kind(sop_class: str, modality: str, pixels: int) -> Kind:
    if sop_class in _SEG or modality == "SEG":
        return "dicom_seg"
    if sop_class == _RTSTRUCT or modality == "RTSTRUCT":
        return "rtstruct"
    return "image" if pixels and sop_class != _DIRECTORY and modality not in ("PR", "SR", "RTDOSE", "REG") else "other"


def _references(source: Source, dataset: Any) -> tuple[str, ...]:
    series = items(source, dataset, "ReferencedSeriesSequence")
    for frame in items(source, dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(source, frame, "RTReferencedStudySequence"):
            series += items(source, study, "RTReferencedSeriesSequence")
    return tuple(sorted({str(item.get("SeriesInstanceUID", "")) for item in series} - {""}))


def named(path: Path, options: ReadOptions) -> Named:
    """The folder or file as errors show it."""
    return Named(shown=f"the folder {shown(path, options.root)}" if path.is_dir() else shown(path, options.root))
