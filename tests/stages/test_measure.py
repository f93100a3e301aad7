import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.data.splits import read_splits
from autounet.job import Job
from autounet.phantoms import make
from autounet.progress import Progress
from autounet.stages.check import check
from autounet.stages.measure import measure
from autounet.store.strict import read_value
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from tests.data.made import mask, pairs, picture, save


def measured(folder: Path) -> Fingerprint:
    job = Job(work=folder.with_name(folder.name + ".autounet"), progress=Progress.silent())
    return measure(check(folder, job), job)


def reference(folder: Path, cases: int) -> dict[str, float]:
    """The reference's numbers: equal draws with replacement from every case's foreground, read by nibabel."""
    import nibabel as nib

    drawn = []
    for number in range(cases):
        image = np.asarray(nib.load(folder / "images" / f"p{number}.nii.gz").dataobj)
        label = np.asarray(nib.load(folder / "labels" / f"p{number}.nii.gz").dataobj)
        drawn.append(np.random.RandomState(1234).choice(image[label > 0], 10**6))
    values = np.concatenate(drawn).astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    return {"mean": values.mean(), "median": float(np.median(values)), "std": values.std(), "low": low, "high": high}


def test_intensities_equal_the_references_definition_within_half_a_percent(tmp_path: Path) -> None:
    shape = (40, 40, 40)
    for number in range(6):
        image = np.random.default_rng(number).gamma(4, 50 + 20 * number, shape).astype(np.float32)
        save(tmp_path / "d" / "images" / f"p{number}.nii.gz", image)
        save(tmp_path / "d" / "labels" / f"p{number}.nii.gz", mask(shape, low=5, high=15 + 4 * number))
    found, expected = measured(tmp_path / "d").channels[0].foreground, reference(tmp_path / "d", 6)
    assert_allclose(found.mean, expected["mean"], rtol=0.005)
    assert_allclose(found.median, expected["median"], rtol=0.005)
    assert_allclose(found.std, expected["std"], rtol=0.005)
    assert_allclose(found.percentile_00_5, expected["low"], rtol=0.005)
    assert_allclose(found.percentile_99_5, expected["high"], rtol=0.005)


def test_shapes_are_cropped_and_on_canonical_axes(tmp_path: Path) -> None:
    image = np.zeros((30, 20, 10), np.int16)
    image[4:26, 3:18, 2:9] = picture(0, (22, 15, 7))
    affine = np.array([[0, 0, 3.0, 0], [0.5, 0, 0, 0], [0, -0.7, 0, 0], [0, 0, 0, 1]])  # x to the front, y down, z to the right
    for number in range(5):
        save(tmp_path / "d" / "images" / f"p{number}.nii.gz", image, affine)
        save(tmp_path / "d" / "labels" / f"p{number}.nii.gz", mask((30, 20, 10), low=5, high=8), affine)
    fingerprint = measured(tmp_path / "d")
    case = fingerprint.cases[0]
    assert case.shape_zyx == (15, 22, 7)  # up, front, right
    assert_allclose(case.spacing_zyx_mm, (0.7, 0.5, 3.0), rtol=1e-6)
    assert case.stored_axes == (2, 0, 1)  # the stored z, y, x index run to the right, up, to the front
    assert_allclose(fingerprint.median_relative_size_after_crop, 22 * 15 * 7 / 6000)
    assert fingerprint.orientations == ("AIR",)


def test_the_fingerprint_comes_back_from_its_file(tmp_path: Path) -> None:
    fingerprint = measured(pairs(tmp_path / "d"))
    assert read_value(tmp_path / "d.autounet" / "fingerprint.json", Fingerprint) == fingerprint


def test_a_ct_is_known_by_its_hounsfield_units_and_noise_is_not(tmp_path: Path) -> None:
    ct = measured(make("ct", tmp_path / "ct", cases=5, size=32, layout="pairs")).channels[0]
    mr = measured(make("organs", tmp_path / "mr", cases=5, size=32, layout="pairs")).channels[0]
    assert (ct.modality, ct.confidence > 0.9) == ("ct", True)
    assert mr.modality != "ct"


def test_organs_of_phantoms_have_sides_and_classes(tmp_path: Path) -> None:
    fingerprint = measured(make("organs", tmp_path / "d", cases=6, size=48, layout="pairs"))
    assert {(p.left, p.right) for p in fingerprint.side_pairs} == {("kidney_left", "kidney_right")}
    by_name = {c.name: c for c in fingerprint.classes}
    assert all(c.cases == 6 for c in by_name.values())
    assert 0.5 < by_name["kidney_left"].volume_ml / by_name["kidney_right"].volume_ml < 2


def test_the_histogram_counts_every_voxel_of_the_crop(tmp_path: Path) -> None:
    histogram = measured(pairs(tmp_path / "d")).channels[0].histogram
    assert histogram is not None
    assert sum(histogram.counts) == 6 * 12 * 11 * 10
    assert 0 < histogram.low < histogram.high < 1000


def test_ignored_voxels_count_as_not_annotated_and_not_as_foreground(tmp_path: Path) -> None:
    label = mask()
    label[:, :, 9] = 2
    folder = pairs(tmp_path / "d", **{f"p{n}": label for n in range(6)})
    (folder / "autounet.toml").write_text("[labels]\na = 1\nignore = 2\n")
    fingerprint = measured(folder)
    assert_allclose(fingerprint.annotated_fraction, 0.9)
    assert [c.name for c in fingerprint.classes] == ["a"]


def test_folds_are_written_once_edited_by_hand_and_checked(tmp_path: Path) -> None:
    folder, work = pairs(tmp_path / "d"), tmp_path / "d.autounet"
    measured(folder)
    plain = json.loads((work / "splits.json").read_text())
    first, second = plain["folds"][0], plain["folds"][1]
    a, b = first["validation"][0], second["validation"][0]
    text = (work / "splits.json").read_text().replace(f'"{a}"', '"@"').replace(f'"{b}"', f'"{a}"').replace('"@"', f'"{b}"')
    (work / "splits.json").write_text(text)
    measured(folder)
    assert (work / "splits.json").read_text() == text
    (work / "splits.json").write_text(text.replace(f'"{a}"', '"nobody"'))
    with pytest.raises(UserError, match="names nobody, which the dataset does not have"):
        measured(folder)


def test_new_cases_enter_folds_that_nobody_edited(tmp_path: Path) -> None:
    folder, work = pairs(tmp_path / "d", cases=10), tmp_path / "d.autounet"
    measured(folder)
    before = json.loads((work / "splits.json").read_text())
    save(folder / "images" / "p10.nii.gz", picture(10))
    save(folder / "labels" / "p10.nii.gz", mask())
    job = Job(work=work, progress=Progress.silent())
    dataset = check(folder, job)
    measure(dataset, job)
    after = read_splits(work / "splits.json", dataset)
    for old, new in zip(before["folds"], after.folds, strict=True):
        assert set(old["validation"]) <= set(new.validation)
    assert sum("p10" in f.validation for f in after.folds) == 1


def test_a_new_case_next_to_edited_folds_is_asked_for(tmp_path: Path) -> None:
    folder, work = pairs(tmp_path / "d"), tmp_path / "d.autounet"
    measured(folder)
    plain = json.loads((work / "splits.json").read_text())
    (work / "splits.json").write_text(json.dumps(plain | {"made": "", "rule": "mine"}))
    save(folder / "images" / "p9.nii.gz", picture(9))
    save(folder / "labels" / "p9.nii.gz", mask())
    with pytest.raises(UserError, match="p9 is in neither part"):
        measured(folder)


def test_the_references_folds_are_made_when_asked(tmp_path: Path) -> None:
    from sklearn.model_selection import KFold

    folder = pairs(tmp_path / "d", cases=11)
    (folder / "autounet.toml").write_text('[dataset]\nfold_rule = "nnunet"\n')
    measured(folder)
    made = json.loads((tmp_path / "d.autounet" / "splits.json").read_text())
    ids = np.array(sorted(f"p{n}" for n in range(11)))
    expected = [sorted(ids[test]) for _, test in KFold(5, shuffle=True, random_state=12345).split(ids)]
    assert [sorted(f["validation"]) for f in made["folds"]] == expected


def test_b099_a_class_that_a_fold_never_trains_on_is_warned_of(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", p1=mask(value=2))
    (folder / "autounet.toml").write_text("[labels]\ntumour = 1\ncyst = 2\n")
    job = Job(work=tmp_path / "w", progress=Progress.silent())
    dataset = check(folder, job)
    measure(dataset, job)
    fold = next(n for n, f in enumerate(read_splits(job.work / "splits.json", dataset).folds) if "p1" in f.validation)
    said = [text for text in job.progress.warnings if "trains without" in text]
    assert len(said) == 1
    assert said[0].startswith(f"fold {fold} trains without cyst: ")
    assert "splits.json" in said[0]
