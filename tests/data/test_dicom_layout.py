from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autounet.data.open import open_dataset
from autounet.data.voxels import read_case
from planners.errors import UserError

pydicom = pytest.importorskip("pydicom")

SHAPE_YX = (12, 10)


def series(folder: Path, patient: str, slices: int = 5, modality: str = "CT", uid: str = "") -> Path:
    """A CT of one patient as a scanner exports it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    storage = CTImageStorage if modality == "CT" else MRImageStorage
    series_uid, study_uid, frame_uid = uid or generate_uid(), generate_uid(), generate_uid()
    for z in range(slices):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = storage, generate_uid(), modality
        one.PatientName, one.PatientID = f"CANARY^{patient}", patient
        one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID = series_uid, study_uid, frame_uid
        one.Rows, one.Columns, one.InstanceNumber = *SHAPE_YX, z + 1
        one.PixelSpacing, one.SliceThickness = [0.7, 0.7], 2.0
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 2.0 * z], [1, 0, 0, 0, 1, 0]
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = (1000 + z * 10 + np.arange(np.prod(SHAPE_YX)).reshape(SHAPE_YX) % 7).astype(np.uint16).tobytes()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID, one.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, storage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        pydicom.dcmwrite(folder / f"IM{z:04d}", one, enforce_file_format=True)
    return folder


def nifti_mask(path: Path, slices: int = 5) -> None:
    """On the grid of `series`, in the world of NIfTI."""
    values = np.zeros((SHAPE_YX[1], SHAPE_YX[0], slices), np.uint8)
    values[2:5, 3:7, 1:3] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([-0.7, -0.7, 2.0, 1.0])), path)


def test_series_with_masks_named_after_the_patient_are_cases(tmp_path: Path) -> None:
    for patient in ("patA", "patB", "patC"):
        series(tmp_path / "d" / "dicom" / patient, patient)
        nifti_mask(tmp_path / "d" / "masks" / f"{patient}.nii.gz")
    dataset = open_dataset(tmp_path / "d")
    assert (dataset.layout, [c.id for c in dataset.training]) == ("dicom", ["patA", "patB", "patC"])
    assert (dataset.channels[0].name, dataset.channels[0].modality) == ("ct", "ct")
    voxels = read_case(dataset, dataset.case("patB"))
    assert voxels.image_czyx.shape == (1, 5, 12, 10)
    assert float(voxels.image_czyx.min()) == 1000 - 1024
    assert voxels.label_zyx is not None
    assert int(voxels.label_zyx[1:3, 3:7, 2:5].sum()) == int(voxels.label_zyx.sum()) == 24


def test_two_series_of_one_patient_share_the_group_and_names_stay_out_of_the_index(tmp_path: Path) -> None:
    from planners.strict_json import to_plain

    for visit in ("v1", "v2"):
        series(tmp_path / "d" / visit, "SECRET")
        nifti_mask(tmp_path / "d" / visit / "mask.nii.gz")
    series(tmp_path / "d" / "v3", "OTHER")
    nifti_mask(tmp_path / "d" / "v3" / "mask.nii.gz")
    dataset = open_dataset(tmp_path / "d")
    assert len({c.group for c in dataset.cases}) == 2
    text = str(to_plain(dataset))
    assert "SECRET" not in text
    assert "CANARY" not in text


def test_b145_kinds_of_series_are_a_question_with_its_answer(tmp_path: Path) -> None:
    series(tmp_path / "d" / "a" / "ct", "a")
    series(tmp_path / "d" / "a" / "t2", "a", modality="MR")
    nifti_mask(tmp_path / "d" / "a" / "ct" / "mask.nii.gz")
    with pytest.raises(UserError, match=r'2 kinds: 1 CT, 1 MR; which is the image\? Set series = "CT"'):
        open_dataset(tmp_path / "d")


def test_an_unknown_series_lists_those_there_are(tmp_path: Path) -> None:
    series(tmp_path / "d" / "a", "a")
    (tmp_path / "c.toml").write_text('[dataset]\nseries = "PET"\nlayout = "dicom"\n')
    with pytest.raises(UserError, match=r"no DICOM series is 'PET'. Use one of CT"):
        open_dataset(tmp_path / "d", config=tmp_path / "c.toml")


def test_a_changed_slice_changes_the_hash_of_the_series(tmp_path: Path) -> None:
    from autounet.data.records import hash_files

    for patient in ("patA", "patB"):
        series(tmp_path / "d" / patient / "deep" / "er", patient)
        nifti_mask(tmp_path / "d" / "masks" / f"{patient}.nii.gz")
    dataset = open_dataset(tmp_path / "d")
    before = hash_files(dataset, dataset.cases[0])
    changed = tmp_path / "d" / "patA" / "deep" / "er" / "IM0002"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x07")
    after = hash_files(dataset, dataset.cases[0])
    assert [a.path for a in after if a not in before] == ["patA/deep/er"]
