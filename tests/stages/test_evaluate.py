import json

import numpy as np
import pytest

from autounet import phantoms
from autounet.images.geometry import Geometry, picture_geometry
from autounet.images.write import write_image, write_mask
from autounet.job import Job
from autounet.metrics.case_scores import Wanted, wanted_of
from autounet.metrics.lesions import lesion_scores
from autounet.progress import Progress
from autounet.stages.compare import compare
from autounet.stages.evaluate import evaluate
from planners.errors import UserError
from planners.labels import LabelClass, Labels

GRID = Geometry(
    shape_zyx=(6, 7, 8), spacing_zyx_mm=(2.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)
MOVED = Geometry(
    shape_zyx=(6, 7, 8), spacing_zyx_mm=(2.0, 1.0, 1.0), origin_xyz_mm=(9.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)


@pytest.fixture
def job(tmp_path):
    return Job(work=tmp_path, progress=Progress.silent())


def cube(value=1, shift=0):
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:5, 1:5, 1 + shift : 5 + shift] = value
    return mask


def test_two_folders_give_a_table_json_and_the_reference_s_summary(job, tmp_path):
    for name, shift in (("a", 0), ("b", 1)):
        write_mask(tmp_path / "truth" / f"{name}.nii.gz", cube(), GRID)
        write_mask(tmp_path / "masks" / f"{name}.mha", cube(shift=shift), GRID)
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "out", job)
    assert scores.values("1") == (1.0, 0.75)
    plain = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert plain["cases"][1]["metrics"]["1"]["hd95_mm"] == 1.0
    assert plain["cases"][1]["metrics"]["1"]["volume_error_ml"] == 0.0
    assert plain["definitions"]["nsd"] == "nsd-area-v1"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == 0.875
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") > 20


def test_every_thing_that_is_wrong_is_a_row_that_says_so_and_the_rest_is_scored(job, tmp_path):
    truth, masks = tmp_path / "truth", tmp_path / "masks"
    for name in ("good", "no_prediction", "other_grid", "moved", "unknown", "image", "damaged"):
        write_mask(truth / f"{name}.nii.gz", cube(), GRID)
    write_mask(masks / "good.nii.gz", cube(), GRID)
    write_mask(masks / "no_truth.nii.gz", cube(), GRID)
    small = Geometry(shape_zyx=(5, 7, 8), spacing_zyx_mm=GRID.spacing_zyx_mm, origin_xyz_mm=GRID.origin_xyz_mm, direction=GRID.direction)
    write_mask(masks / "other_grid.nii.gz", cube()[:5], small)
    write_mask(masks / "moved.nii.gz", cube(), MOVED)
    write_mask(masks / "unknown.nii.gz", cube(7), GRID)
    write_image(masks / "image.nii.gz", cube()[None].astype(np.float32) * 0.4, GRID)
    (masks / "damaged.nii.gz").write_bytes(b"nothing")
    scores = evaluate(masks, truth, tmp_path / "out", job)
    said = {case.case: case.problem for case in scores.problems}
    assert [case.case for case in scores.scored] == ["good"]
    assert "no prediction" in said["no_prediction"]
    assert "no truth" in said["no_truth"]
    assert "voxels" in said["other_grid"]
    assert "mm apart" in said["moved"]
    assert "the value 7" in said["unknown"]
    assert "whole numbers" in said["image"]
    assert said["damaged"]
    assert scores.mean("1") == 1.0


def test_folders_without_masks_are_one_clear_error(job, tmp_path):
    (tmp_path / "empty").mkdir()
    write_mask(tmp_path / "truth" / "a.nii.gz", cube(), GRID)
    for predictions in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UserError):
            evaluate(predictions, tmp_path / "truth", None, job)


def test_voxels_that_nobody_annotated_count_nowhere(job, tmp_path):
    truth = cube()
    truth[4] = 9
    write_mask(tmp_path / "truth" / "a.nii.gz", truth, GRID)
    write_mask(tmp_path / "masks" / "a.nii.gz", cube(), GRID)
    labels = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="cube", value=1)), ignore=9)
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, labels=labels, wanted=Wanted(lesions=True))
    assert scores.values("cube") == (1.0,)
    assert scores.values("cube", "nsd") == (1.0,)
    assert scores.values("cube", "lesion_f1") == (1.0,)


def test_compare_tells_a_difference_from_noise(job, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        write_mask(tmp_path / "truth" / f"c{number}.nii.gz", cube(), GRID)
        write_mask(tmp_path / "good" / f"c{number}.nii.gz", cube(), GRID)
        worse = cube()
        worse[1, 1, 1 : 2 + int(rng.integers(1, 3))] = 0
        write_mask(tmp_path / "worse" / f"c{number}.nii.gz", worse, GRID)
    for name in ("good", "worse"):
        evaluate(tmp_path / name, tmp_path / "truth", tmp_path / f"{name}_scores", job, wanted=Wanted(surfaces=False))
    verdict = compare([tmp_path / "worse_scores", tmp_path / "good_scores"], job)
    assert verdict.cases == 12
    assert verdict.rows[0].comparison.difference.mean > 0
    assert not verdict.rows[0].is_noise
    assert "good_scores is better" in verdict.lines()[1]
    same = compare([tmp_path / "good_scores", tmp_path / "good_scores" / "scores.json"], job)
    assert all(row.is_noise for row in same.rows)
    with pytest.raises(UserError, match=r"no scores\.json"):
        compare([tmp_path / "truth", tmp_path / "good_scores"], job)


def test_a_metric_that_was_not_scored_is_refused_and_the_known_ones_are_named(job, tmp_path):
    scores = {"cases": [{"case": "a", "metrics": {"liver": {"dice": 0.9, "iou": 0.8}}}]}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(UserError, match=r"holds no nope\. Choose one of dice, iou|holds no nope.*choose one of dice, iou"):
        compare([tmp_path / "scores.json", tmp_path / "scores.json"], job, metric="nope")


def test_tolerances_and_lesions_are_asked_for_in_words(job, tmp_path):
    write_mask(tmp_path / "truth" / "a.nii.gz", cube(), GRID)
    write_mask(tmp_path / "masks" / "a.nii.gz", cube(shift=2), GRID)
    asked = wanted_of(("2", "1=0.5"), lesions=True)
    assert asked.tolerances((("1", (1,)), ("2", (2,)))) == [0.5, 2.0]
    strict = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, wanted=asked)
    loose = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, wanted=wanted_of(("2",), lesions=False))
    assert strict.mean("1", "nsd_voxel") < loose.mean("1", "nsd_voxel") == 1
    assert strict.mean("1", "lesion_f1") == 1
    with pytest.raises(UserError, match="liver, which is no class"):
        evaluate(tmp_path / "masks", tmp_path / "truth", None, job, wanted=wanted_of(("liver=2",), lesions=False))
    for word in ("much", "-1", "liver=", "inf", "nan"):
        with pytest.raises(UserError, match="no tolerance"):
            wanted_of((word,), lesions=False)


def test_folders_that_share_no_case_are_rows_on_both_sides_and_an_empty_truth_is_one_error(job, tmp_path):
    write_mask(tmp_path / "truth" / "a.nii.gz", cube(), GRID)
    write_mask(tmp_path / "masks" / "b.nii.gz", cube(), GRID)
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "out", job)
    assert [(c.case, c.problem) for c in scores.cases] == [
        ("a", "there is truth, but no prediction"), ("b", "predicted, but there is no truth"),
    ]  # fmt: skip
    assert np.isnan(scores.mean_over_targets())
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["mean_over_targets"] == {}
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError):
        evaluate(tmp_path / "masks", tmp_path / "nothing", None, job)


def test_two_masks_of_one_case_are_refused_by_name(job, tmp_path):
    write_mask(tmp_path / "truth" / "a.nii.gz", cube(), GRID)
    write_mask(tmp_path / "masks" / "a.nii.gz", cube(), GRID)
    write_mask(tmp_path / "masks" / "a.mha", cube(), GRID)
    with pytest.raises(UserError, match=r"a\.mha and a\.nii\.gz"):
        evaluate(tmp_path / "masks", tmp_path / "truth", None, job)


def test_a_prediction_with_a_class_that_only_it_has_is_a_row_that_says_so_while_the_others_count(job, tmp_path):
    for name in ("a", "b"):
        write_mask(tmp_path / "truth" / f"{name}.nii.gz", cube(), GRID)
        write_mask(tmp_path / "masks" / f"{name}.nii.gz", cube(3 if name == "a" else 1), GRID)
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", None, job)
    assert scores.failed_cases == ("a",)
    assert "value 3" in scores.problems[0].problem
    assert scores.values("1") == (1.0,)


def test_lesions_are_counted_in_the_box_of_their_class_as_in_the_whole_image(job, tmp_path):
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((6, 7, 8)) < 0.15, rng.integers(1, 3, (6, 7, 8)), 0).astype(np.uint8)
    predicted = np.where(rng.random((6, 7, 8)) < 0.8, truth, 0).astype(np.uint8)
    predicted[predicted == 2] = 0
    write_mask(tmp_path / "truth" / "a.nii.gz", truth, GRID)
    write_mask(tmp_path / "masks" / "a.nii.gz", predicted, GRID)
    named = Labels(classes=tuple(LabelClass(name=str(v), value=v) for v in range(4)))
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, labels=named, wanted=Wanted(lesions=True))
    for value in (1, 2, 3):
        for metric, _, expected in lesion_scores(truth == value, predicted == value, GRID.spacing_zyx_mm).rows():
            np.testing.assert_equal(scores.values(str(value), metric)[0], expected)


def pictures_of_cells(folder, values):
    """Two discs that touch, each with its value."""
    y, x = np.mgrid[:16, :26]
    mask = np.zeros((1, 16, 26), np.uint8)
    for middle, value in zip((7, 18), values, strict=True):
        mask[0, (y - 8) ** 2 + (x - middle) ** 2 <= 30] = value
    write_mask(folder / "cells.png", mask, picture_geometry((16, 26)))


def test_objects_of_a_mask_are_told_apart_and_matched_with_those_that_the_truth_numbers(job, tmp_path):
    pictures_of_cells(tmp_path / "truth", (5, 9))
    pictures_of_cells(tmp_path / "masks", (1, 1))
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "out", job, wanted=wanted_of((), objects="numbered"))
    assert scores.targets == (("objects", (1,)),)
    assert scores.values("objects") == (1.0,)
    assert scores.values("objects", "objects_true") == (2.0,)
    assert scores.values("objects", "object_f1") == (1.0,)
    assert scores.values("objects", "adapted_rand_error")[0] < 0.1
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["definitions"]["object_ap"] == "instance-ap-v1"
    assert "object F1 1" in scores.lines()[1]


def test_objects_that_the_prediction_numbers_too_are_taken_as_they_are(job, tmp_path):
    pictures_of_cells(tmp_path / "truth", (5, 9))
    pictures_of_cells(tmp_path / "masks", (200, 3))
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, wanted=wanted_of((), objects="numbered"))
    assert scores.values("objects", "object_ap") == (1.0,)


def test_pieces_of_each_class_are_the_objects_of_both_sides(job, tmp_path):
    pictures_of_cells(tmp_path / "truth", (1, 2))
    pictures_of_cells(tmp_path / "masks", (1, 1))
    scores = evaluate(tmp_path / "masks", tmp_path / "truth", None, job, wanted=wanted_of((), objects="pieces"))
    assert scores.values("1", "objects_predicted") == (1.0,)
    assert scores.values("2", "object_f1") == (0.0,)
    assert scores.values("1", "warping_error") == (0.0,), "more of the same is no other topology"
    assert scores.values("2", "warping_error")[0] > 0


def test_wishes_for_objects_that_make_no_sense_are_refused(job, tmp_path):
    with pytest.raises(UserError, match="Add --objects numbered"):
        wanted_of((), border=2)
    with pytest.raises(UserError, match="Choose from pieces, numbered"):
        wanted_of((), objects="cells")
    phantoms.make("cells", tmp_path / "data", cases=2, size=32, seed=0)
    pictures_of_cells(tmp_path / "masks", (1, 1))
    with pytest.raises(UserError, match="folder of masks that number objects"):
        evaluate(tmp_path / "masks", tmp_path / "data", None, job, wanted=wanted_of((), objects="numbered"))
