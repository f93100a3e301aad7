"""A small CT series, written by pydicom, and ways to spoil it."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES = "1.2.826.0.1.3680043.8.498.1"
CANARY = "CANARY^PATIENT"


def plane(index: int, *, z: float | None = None, rows: int = 8, columns: int = 10, **fields: Any) -> Dataset:
    """Slice number `index` of a CT, 2 mm apart; further fields replace or (None) delete."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    uid = f"{SERIES}.{index + 1}.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = CTImageStorage, uid, SERIES
    dataset.StudyInstanceUID, dataset.PatientID, dataset.PatientName, dataset.Modality = f"{SERIES}.9", "CANARY-ID", CANARY, "CT"
    dataset.Rows, dataset.Columns, dataset.PixelSpacing, dataset.InstanceNumber = rows, columns, [0.7, 0.9], index + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, -20, 2.0 * index if z is None else z]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = pixels(index, rows, columns).tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def pixels(index: int, rows: int = 8, columns: int = 10) -> Any:
    """What slice `index` stores: different everywhere."""
    return (np.arange(rows * columns).reshape(rows, columns) + 1000 * index).astype(np.uint16)


def save(folder: Path, *datasets: Dataset, names: list[str] | None = None) -> Path:
    """The data sets as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(datasets):
        dataset.save_as(folder / (names[number] if names else f"slice_{number:02d}.dcm"), enforce_file_format=True)
    return folder


def series(folder: Path, count: int = 6, **fields: Any) -> Path:
    """A good series, all of whose slices have these fields."""
    return save(folder, *(plane(index, **fields) for index in range(count)))


def new_uid() -> str:
    """A UID nobody has."""
    return str(generate_uid())


def edit(path: Path, **fields: Any) -> None:
    """Change fields of one file."""
    dataset = pydicom.dcmread(path)
    for name, value in fields.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
