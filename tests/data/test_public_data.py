"""The public datasets are understood without any configuration, or ask the one question that only a person can answer."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.data.dataset import Dataset
from autounet.data.open import open_dataset
from autounet.data.voxels import read_case
from autounet.images.read import read_image
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.check import check
from autounet.stages.measure import measure
from planners.errors import UserError
from planners.fingerprint import Fingerprint


def measured(folder: Path, work: Path) -> tuple[Dataset, Fingerprint]:
    job = Job(work=work, progress=Progress.silent())
    dataset = check(folder, job)
    return dataset, measure(dataset, job)


# The reference's dataset_fingerprint.json of the same cases.
REFERENCE = {
    "hippocampus_msd": (22897.69140625, 363.10546875, 61108.2109375, 0.0, 486420.21875, 29.0, 272638.03125),
    "isbi2012_em": (136.85537719726562, 140.0, 39.109710693359375, 0.0, 255.0, 30.0, 222.0),
    "sts_sarcoma": (357.8798828125, 323.0, 134.14353942871094, 1.0, 1150.0, 112.0, 917.0),
}


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_intensities_of_the_foreground_are_the_references_within_half_a_percent(name: str, public_data: Path, tmp_path: Path) -> None:
    _, fingerprint = measured(public_data / name, tmp_path)
    found = fingerprint.channels[0].foreground
    numbers = (found.mean, found.median, found.std, found.minimum, found.maximum, found.percentile_00_5, found.percentile_99_5)
    assert_allclose(numbers, REFERENCE[name], rtol=0.005)
    assert fingerprint.median_relative_size_after_crop == 1.0


@pytest.mark.parametrize(
    ("name", "dimensions", "cases", "groups", "channels", "values"),
    [
        ("hippocampus_msd", 3, 100, 100, 1, (0, 1, 2)),
        ("isbi2012_em", 2, 24, 24, 1, (0, 1)),
        ("dsb2018_nuclei", 2, 85, 85, 3, (0, 1)),
        ("axon_sem", 2, 6, 4, 1, (0, 1, 2)),
        ("sunnybrook_lv_2d", 2, 50, 27, 1, (0, 1)),
        ("sts_sarcoma", 3, 10, 10, 1, (0, 1)),
        ("brats2013_flair_t1c", 3, 2, 2, 2, (0, 1, 2, 3, 4)),
        ("spinalcord_sct", 3, 5, 5, 1, (0, 1)),
        ("totalseg_example", 3, 1, 1, 1, None),
    ],
)
def test_folders_are_understood_without_configuration(
    name: str, dimensions: int, cases: int, groups: int, channels: int, values: tuple[int, ...] | None, public_data: Path
) -> None:
    dataset = open_dataset(public_data / name)
    assert (dataset.layout, dataset.dimensions, len(dataset.training)) == ("pairs", dimensions, cases)
    assert (len({c.group for c in dataset.cases}), len(dataset.channels)) == (groups, channels)
    found = tuple(c.value for c in dataset.labels.classes)
    assert found == values if values is not None else (len(found), max(found) > 41) == (42, True)
    assert not [p for p in dataset.problems if p.severity == "error"]
    voxels = read_case(dataset, dataset.training[0])
    assert voxels.label_zyx is not None
    assert voxels.image_czyx.shape[1:] == voxels.label_zyx.shape


def test_gray_stored_as_colour_and_as_gray_with_alpha_are_told(public_data: Path, tmp_path: Path) -> None:
    sunnybrook, _ = measured(public_data / "sunnybrook_lv_2d", tmp_path / "a")
    axons, _ = measured(public_data / "axon_sem", tmp_path / "b")
    assert any("gray stored as three equal colours" in p.found for p in sunnybrook.problems)
    assert any("alpha channel is 255 everywhere" in p.found and "1 cases" in p.found for p in axons.problems)


def test_three_series_of_a_patient_ask_which_one_and_answered_give_the_masks_of_the_nifti_files(public_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    with pytest.raises(UserError, match=r"3 kinds: 2 CT, 2 MR, 2 PT; which is the image\? Set series"):
        open_dataset(public_data / "sts_sarcoma_dicom")
    config = tmp_path / "answer.toml"
    config.write_text('[dataset]\nseries = "MR_T1"\n')
    dataset = open_dataset(public_data / "sts_sarcoma_dicom", config=config)
    assert (dataset.layout, dataset.label_style, [c.id for c in dataset.training]) == ("dicom", "rtstruct", ["STS_002", "STS_003"])
    for case in dataset.training:
        label = read_case(dataset, case).label_zyx
        assert label is not None
        truth = read_image(public_data / "sts_sarcoma" / "mr_t1" / "labels" / f"{case.id}.nii.gz").voxels_czyx[0] > 0
        assert 2 * np.count_nonzero(truth & (label > 0)) / (truth.sum() + (label > 0).sum()) >= 0.99


def test_patients_are_hashes_never_names(public_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    config = tmp_path / "answer.toml"
    config.write_text('[dataset]\nseries = "CT"\n')
    dataset = open_dataset(public_data / "sts_sarcoma_dicom", config=config)
    assert all(len(c.group) == 16 and set(c.group) <= set("0123456789abcdef") for c in dataset.cases)


def test_a_dicom_folder_with_a_segmentation_is_one_case(public_data: Path) -> None:
    pytest.importorskip("pydicom")
    dataset = open_dataset(public_data / "dicom_seg_small" / "bitpack_23x38x3")
    assert (dataset.layout, dataset.label_style, len(dataset.training)) == ("dicom", "dicom_seg", 1)
    label = read_case(dataset, dataset.training[0]).label_zyx
    assert label is not None
    assert int(label.max()) == 1


def test_labels_without_images_are_named_as_such(public_data: Path) -> None:
    with pytest.raises(UserError, match="2 labels and no image"):
        open_dataset(public_data / "kits19_labels_only")


def test_a_folder_of_odd_files_ends_in_words(public_data: Path, tmp_path: Path) -> None:
    said, understood = list[str](), 0
    for number, folder in enumerate(sorted(p for p in (public_data / "odd_files").rglob("*") if p.is_dir())):
        try:
            understood += bool(check(folder, Job(work=tmp_path / str(number), progress=Progress.silent())).cases)
        except UserError as refused:
            said.append(str(refused))
    assert said
    assert all(text.isprintable() for text in said)
    assert understood + len(said) == number + 1


def test_the_spinal_cord_is_a_tube_in_three_orientations(public_data: Path, tmp_path: Path) -> None:
    dataset, fingerprint = measured(public_data / "spinalcord_sct", tmp_path)
    assert fingerprint.orientations == ("LAS", "PSR", "RAS")
    assert fingerprint.classes[0].elongation > 3
    assert any(p.code == "orientations" for p in dataset.problems)
