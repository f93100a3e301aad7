"""Bad inputs B080 to B092 that only several cases together show."""

import shutil
from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose

from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.measure import measure
from planners.fingerprint import Fingerprint
from tests.data.made import checked, found, mask, pairs, picture, save


def measured(folder: Path) -> Fingerprint:
    """The dataset in numbers."""
    return measure(checked(folder), Job(work=folder.with_name(folder.name + ".autounet"), progress=Progress.silent()))


def ct(folder: Path, cases: int = 6) -> Path:
    for number in range(cases):
        image = np.random.default_rng(number).normal(50, 60, (20, 20, 20)).astype(np.int16)
        image[:3] = -1000
        save(folder / "images" / f"p{number}.nii.gz", image)
        save(folder / "labels" / f"p{number}.nii.gz", mask((20, 20, 20)))
    return folder


def test_b080_a_constant_image_is_noted_and_kept(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "images" / "p1.nii.gz", np.full((12, 11, 10), 7, np.int16))
    dataset = checked(folder)
    assert found(dataset, "constant_image").case == "p1"
    assert dataset.broken == ()


def test_b081_an_image_of_zeros_is_noted_and_its_whole_extent_used(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "images" / "p1.nii.gz", np.zeros((12, 11, 10), np.int16))
    assert found(checked(folder), "empty_image").case == "p1"
    shapes = {c.case: c.shape_zyx for c in measured(folder).cases}
    assert shapes["p1"] == (10, 11, 12)


def test_b078_nan_drops_the_case_with_count_and_is_filled_when_asked(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    image = picture(1).astype(np.float32)
    image[3, 4, 5] = np.nan
    save(folder / "images" / "p1.nii.gz", image)
    assert "1 " in found(checked(folder), "unreadable", "p1").found
    assert checked(folder, "[dataset]\nfill_nonfinite = 0\n").broken == ()


def test_b085_a_ct_without_its_offset_is_named_among_those_that_have_it(tmp_path: Path) -> None:
    folder = ct(tmp_path / "d")
    shifted = np.random.default_rng(9).normal(50, 60, (20, 20, 20)).astype(np.int16) + 1024
    shifted[:3] = 24
    save(folder / "images" / "p4.nii.gz", shifted)
    problem = found(checked(folder), "ct_offset")
    assert problem.case == "p4"
    assert "24" in problem.found
    assert "-1000" in problem.expected
    assert "1024" in problem.remedy


def test_b086_padding_below_air_is_still_a_ct(tmp_path: Path) -> None:
    folder = ct(tmp_path / "d")
    padded = np.random.default_rng(9).normal(50, 60, (20, 20, 20)).astype(np.int16)
    padded[:3], padded[:1] = -1000, -3024
    save(folder / "images" / "p4.nii.gz", padded)
    assert not [p for p in checked(folder).problems if p.severity != "note"]


def test_b087_values_beyond_half_precision_are_measured_exactly(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    images = [picture(n).astype(np.float32) * np.float32(1e27) for n in range(6)]
    for number, image in enumerate(images):
        save(folder / "images" / f"p{number}.nii.gz", image)
    assert checked(folder).broken == ()
    inside = np.concatenate([image[mask() > 0] for image in images]).astype(np.float64)
    seen = measured(folder).channels[0].foreground
    assert_allclose((seen.mean, seen.std, seen.median), (inside.mean(), inside.std(), np.median(inside)), rtol=5e-3)


def test_b088_unsigned_16_bit_keeps_its_upper_half(tmp_path: Path) -> None:
    from autounet.data.open import open_dataset
    from autounet.data.voxels import read_case

    folder = pairs(tmp_path / "d")
    save(folder / "images" / "p0.nii.gz", (picture(0).astype(np.uint16) + 60_000))
    dataset = open_dataset(folder)
    assert read_case(dataset, dataset.case("p0")).image_czyx.min() > 60_000


def test_b089_a_channel_that_copies_another_is_noted(tmp_path: Path) -> None:
    for case in ("a", "b", "c"):
        save(tmp_path / "d" / "images" / f"{case}_0000.nii.gz", picture(1 + ord(case)))
        save(tmp_path / "d" / "images" / f"{case}_0001.nii.gz", picture(1 + ord(case) if case == "b" else 77 + ord(case)))
        save(tmp_path / "d" / "labels" / f"{case}.nii.gz", mask())
    assert found(checked(tmp_path / "d"), "channel_copy").case == "b"


def test_b090_the_same_voxels_in_two_patients_are_found_under_another_compression(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "images" / "p3.nii", picture(1))  # stored plain, with the voxels of p1
    (folder / "images" / "p3.nii.gz").unlink()
    problem = found(checked(folder), "duplicate")
    assert (problem.case, "p3" in problem.found) == ("p1", True)
    assert problem.severity == "warning"


def test_two_scans_of_one_patient_may_be_alike(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    shutil.copy(folder / "images" / "p1.nii.gz", folder / "images" / "p3.nii.gz")
    dataset = checked(folder, '[groups]\np1 = "x"\np3 = "x"\n')
    assert not [p for p in dataset.problems if p.code == "duplicate"]


def test_b128_a_test_image_that_was_trained_on_is_found(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    (folder / "images_test").mkdir()
    shutil.copy(folder / "images" / "p1.nii.gz", folder / "images_test" / "q9.nii.gz")
    assert "q9" in found(checked(folder), "test_in_training").found


def test_b091_a_case_scaled_unlike_all_others_is_noted(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=25)
    save(folder / "images" / "p7.nii.gz", picture(7).astype(np.float32) * 1e5)
    assert found(checked(folder), "intensity_outlier").case == "p7"


def test_intensities_that_differ_by_ten_thousand_are_one_note_not_many(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=20)
    for number in range(0, 20, 2):
        save(folder / "images" / f"p{number}.nii.gz", picture(number).astype(np.float32) * 1e4)
    dataset = checked(folder)
    assert "factor of" in found(dataset, "intensity_scale").found
    assert not [p for p in dataset.problems if p.code == "intensity_outlier"]


def test_b117_swapped_channels_are_seen_by_their_intensities(tmp_path: Path) -> None:
    def write(case: str, first: str, second: str) -> None:
        rng = np.random.default_rng(len(case) + ord(case[-1]))
        save(tmp_path / "d" / "images" / f"{case}_{first}.nii.gz", rng.normal(1000, 30, (16, 16, 16)).astype(np.float32))
        save(tmp_path / "d" / "images" / f"{case}_{second}.nii.gz", rng.exponential(3, (16, 16, 16)).astype(np.float32))
        save(tmp_path / "d" / "labels" / f"{case}.nii.gz", mask((16, 16, 16)))

    for case in "abcdefgh":
        write(case, *(("t1", "t2") if case != "e" else ("t2", "t1")))
    problem = found(checked(tmp_path / "d"), "channels_swapped")
    assert (problem.case, problem.found) == ("e", "its channels look like t2, t1")
