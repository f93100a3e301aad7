"""Bad inputs B093 to B110: what label maps hold, and what tables say of it."""

import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autounet.data.layouts.label_table import labels_from_ids, labels_from_names, labels_of
from autounet.data.open import open_dataset
from autounet.data.voxels import read_case
from planners.errors import UserError
from tests.data.made import SPACING, checked, found, mask, pairs, picture, save, save_png


def with_values(values: dict[int, int], dtype: type = np.uint8) -> np.ndarray:
    """A block of each value with that many voxels along x."""
    out = np.zeros((12, 11, 10), dtype)
    for row, (value, count) in enumerate(values.items()):
        out[:count, row, 0] = value
    return out


def test_b093_float_labels_that_are_whole_are_labels(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", p0=mask(value=2).astype(np.float32))
    dataset = open_dataset(folder)
    assert [c.value for c in dataset.labels.classes] == [0, 1, 2]
    assert int(read_case(dataset, dataset.case("p0")).label_zyx.max()) == 2


def test_b094_nearly_whole_labels_are_rounded_and_remarked(tmp_path: Path) -> None:
    label = mask().astype(np.float32)
    label[label == 1] = 0.99995
    dataset = checked(pairs(tmp_path / "d", p0=label))
    assert [c.value for c in dataset.labels.classes] == [0, 1]
    assert "rounded" in found(dataset, "remark").found


def test_b095_values_between_labels_drop_the_case_with_counts(tmp_path: Path) -> None:
    label = mask().astype(np.float32)
    label[0, 0, :3] = 0.5
    label[1, 1, 1] = 10.92
    problem = found(checked(pairs(tmp_path / "d", p0=label)), "unreadable", "p0")
    assert "0.5 (3 voxels)" in problem.found
    assert "10.92 (1 voxels)" in problem.found
    assert "nearest" in problem.remedy


def test_b096_a_slope_of_one_255th_is_named_and_undone_when_asked(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    path = folder / "labels" / "p0.nii"
    (folder / "labels" / "p0.nii.gz").unlink()
    nib.save(nib.Nifti1Image(mask(), SPACING), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 112, 1 / 255, 0.0)
    path.write_bytes(data)
    problem = found(checked(folder), "unreadable", "p0")
    assert "scl_slope" in problem.found
    assert "1/255" in problem.found
    assert "0.00392157 (64 voxels)" in problem.found
    assert "scale = 255" in problem.remedy


def test_the_scale_of_labels_can_be_given(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for number in range(5):
        save(folder / "images" / f"p{number}.nii.gz", picture(number))
        save(folder / "labels" / f"p{number}.nii.gz", (mask() / np.float32(255)).astype(np.float32))
    dataset = checked(folder, "[label_values]\nscale = 255\n")
    assert [c.value for c in dataset.labels.classes] == [0, 1]


def test_b097_masks_of_0_and_255_are_one_class_that_is_written_back_as_255(tmp_path: Path) -> None:
    labels = {f"p{n}": mask(value=255) for n in range(6)}
    dataset = checked(pairs(tmp_path / "d", **labels))
    assert [(c.name, c.value) for c in dataset.labels.classes] == [("background", 0), ("foreground", 255)]
    assert "255" in found(dataset, "value_255").found
    assert int(read_case(dataset, dataset.case("p1")).label_zyx.max()) == 1


def test_b098_a_value_that_the_table_lacks_drops_its_case_with_the_count(tmp_path: Path) -> None:
    dataset = checked(pairs(tmp_path / "d", p3=with_values({1: 4, 7: 5})), "[labels]\ntumour = 1\n")
    problem = found(dataset, "unknown_label")
    assert problem.case == "p3"
    assert "7 (5 voxels)" in problem.found
    assert dataset.broken == ("p3",)


def test_b099_a_class_that_no_case_has_is_noted(tmp_path: Path) -> None:
    dataset = checked(pairs(tmp_path / "d"), "[labels]\ntumour = 1\ncyst = 2\n")
    assert "cyst (2)" in found(dataset, "class_absent").found


def test_b100_a_case_without_foreground_is_kept(tmp_path: Path) -> None:
    dataset = checked(pairs(tmp_path / "d", p2=mask(value=0)))
    assert "p2" in found(dataset, "empty_label").found
    assert len(dataset.training) == 6


def test_b101_no_foreground_anywhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 6 label maps are empty"):
        checked(pairs(tmp_path / "d", **{f"p{n}": mask(value=0) for n in range(6)}))


def test_b102_negative_labels_drop_the_case_unless_they_mean_ignore(tmp_path: Path) -> None:
    label = mask().astype(np.int16)
    label[0, 0, :5] = -1
    folder = pairs(tmp_path / "d", p1=label)
    assert "-1 (5 voxels)" in found(checked(folder), "unknown_label").found
    dataset = checked(folder, "[labels]\ntumour = 1\nignore = -1\n")
    assert dataset.broken == ()
    inside = read_case(dataset, dataset.case("p1")).label_zyx
    assert inside is not None
    assert int((inside == 2).sum()) == 5  # behind the two classes


def test_b103_gaps_between_values_vanish_inside(tmp_path: Path) -> None:
    dataset = open_dataset(pairs(tmp_path / "d", p0=with_values({2: 3, 5: 4})))
    assert [c.value for c in dataset.labels.classes] == [0, 1, 2, 5]
    label = read_case(dataset, dataset.case("p0")).label_zyx
    assert label is not None
    assert np.bincount(label.ravel())[2:].tolist() == [3, 4]


@pytest.mark.parametrize(("value", "dtype"), [(300, np.int16), (70_000, np.int32)])
def test_b104_large_values_keep_their_number(tmp_path: Path, value: int, dtype: type) -> None:
    dataset = open_dataset(pairs(tmp_path / "d", p0=with_values({value: 3}, dtype)))
    assert [c.value for c in dataset.labels.classes] == [0, 1, value]
    label = read_case(dataset, dataset.case("p0")).label_zyx
    assert label is not None
    assert np.bincount(label.ravel()).tolist() == [1317, 0, 3]


def test_b105_nan_in_a_label_drops_the_case(tmp_path: Path) -> None:
    label = mask().astype(np.float32)
    label[0, 0, 0] = np.nan
    folder = pairs(tmp_path / "d", p0=label)
    assert "labels/p0.nii.gz" in found(checked(folder), "unreadable", "p0").found
    assert checked(folder, "[dataset]\nfill_nonfinite = 0.0\n").broken == ()


def test_b106_a_label_in_colours_is_refused_and_gray_stored_as_colour_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for number in range(5):
        label = np.zeros((16, 16), np.uint8)
        label[4:8, 4:8] = 1
        save_png(folder / "images" / f"p{number}.png", np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8).astype(np.uint8))
        save_png(folder / "labels" / f"p{number}.png", np.stack([label] * 3, -1))
    red = np.zeros((16, 16, 3), np.uint8)
    red[4:8, 4:8, 0] = 255
    save_png(folder / "labels" / "p1.png", red)
    dataset = checked(folder)
    assert "3 different channels" in found(dataset, "unreadable", "p1").found
    assert dataset.broken == ("p1",)


def test_b106_a_palette_is_a_question_and_its_numbers_are_the_labels_when_asked(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "d"
    for number in range(5):
        save_png(folder / "images" / f"p{number}.png", np.random.default_rng(number).integers(0, 255, (16, 16)).astype(np.uint8))
        label = np.zeros((16, 16), np.uint8)
        label[3:9, 2:5], label[10:, 10:] = 1, 2
        made = Image.new("P", (16, 16))
        made.putdata(label.ravel().tolist())
        made.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        (folder / "labels").mkdir(exist_ok=True)
        made.save(folder / "labels" / f"p{number}.png")
    with pytest.raises(UserError, match="palette"):
        checked(folder)
    dataset = checked(folder, "[dataset]\npalette_indices = true\n")
    found_values = read_case(dataset, dataset.case("p3")).label_zyx
    assert found_values is not None
    assert np.bincount(found_values.ravel()).tolist() == [256 - 18 - 36, 18, 36]


def test_b107_a_label_of_one_voxel_at_the_border_is_a_label(tmp_path: Path) -> None:
    label = np.zeros((12, 11, 10), np.uint8)
    label[0, 0, 9] = 1
    dataset = checked(pairs(tmp_path / "d", p0=label))
    assert len(dataset.training) == 6
    assert not [p for p in dataset.problems if p.severity != "note"]


def test_b108_overlapping_classes_as_volumes_of_one_file_are_a_question(tmp_path: Path) -> None:
    label = np.stack([mask(), mask(low=3)], axis=-1)
    problem = found(checked(pairs(tmp_path / "d", p0=label)), "unreadable", "p0")
    assert "2 different channels" in problem.found
    assert "regions" in problem.remedy


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"background": 0, "a": 1, "b": 1}, "gives the value 1 to two labels"),
        ({"a": 1, "b": 2}, "lists no background"),
        ({"background": 1, "a": 2}, "background another value than 0"),
        ({"background": 0, "a": "one"}, "the value 'one'"),
        ({"background": 0, "a": True}, "the value True"),
        ({"background": 0, "a": [1, 2]}, "no regions_class_order"),
    ],
)
def test_b109_label_tables_that_cannot_be_meant_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        labels_from_names(table, None, "dataset.json")


def test_b109_names_in_any_script_are_names() -> None:
    assert labels_from_ids({"0": "fond", "1": "Schädel", "2": "肝臓"}, "t").foreground[1].name == "肝臓"


def test_equal_names_are_told_apart_by_their_values() -> None:
    assert [c.name for c in labels_of((("lesion", 1), ("lesion", 4))).foreground] == ["lesion_1", "lesion_4"]


def test_regions_keep_the_order_of_the_file_and_their_paint() -> None:
    labels = labels_from_names({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, "ignore": 4}, [1, 2, 3], "dataset.json")
    assert [(r.name, r.values, r.paint) for r in labels.regions] == [("whole", (1, 2, 3), 1), ("core", (2, 3), 2), ("active", (3,), 3)]
    assert [c.value for c in labels.classes] == [0, 1, 2, 3]
    assert labels.ignore == 4


def test_a_region_of_one_value_names_it() -> None:
    labels = labels_from_names({"background": 0, "both": [1, 2], "left": [1], "right": [2]}, [1, 1, 2], "dataset.json")
    assert [c.name for c in labels.classes] == ["background", "left", "right"]
    assert len(labels.regions) == 3


def test_jpeg_masks_are_explained_with_counts_and_snapped_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for number in range(5):
        label = np.zeros((64, 64), np.uint8)
        label[10:40, 12:44] = 255
        save_png(folder / "images" / f"p{number}.png", np.random.default_rng(number).integers(0, 255, (64, 64)).astype(np.uint8))
        save_png(folder / "labels" / f"p{number}.jpg", label)
    with pytest.raises(UserError, match=r"values that its table does not have: \d+ \([\d,]+ voxels\).*nearest = true"):
        checked(folder, "[labels]\npolyp = 255\n")
    dataset = checked(folder, "[labels]\npolyp = 255\n[label_values]\nnearest = true\n")
    label = read_case(dataset, dataset.case("p1")).label_zyx
    assert label is not None
    assert sorted(np.unique(label)) == [0, 1]
    assert abs(int(label.sum()) - 30 * 32) < 30


def test_numbered_objects_are_a_question_and_one_class_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros(4096, np.uint16)
        count = 10 + 9 * number
        label[:count] = np.arange(1, count + 1)
        save_png(folder / "images" / f"p{number}.png", rng.integers(0, 255, (64, 64)).astype(np.uint8))
        save_png(folder / "masks" / f"p{number}.png", label.reshape(64, 64))
    with pytest.raises(UserError, match="number objects, not classes"):
        checked(folder)
    dataset = checked(folder, "[label_values]\nbinary = true\n")
    assert [c.value for c in dataset.labels.classes] == [0, 1]


def test_a_value_that_means_not_annotated_is_ignored_when_named(tmp_path: Path) -> None:
    dataset = checked(pairs(tmp_path / "d", p0=with_values({1: 3, 4: 6})), "[labels]\ntumour = 1\nignore = 4\n")
    label = read_case(dataset, dataset.case("p0")).label_zyx
    assert label is not None
    assert dataset.labels.ignore_index == 2
    assert int((label == 2).sum()) == 6


def test_the_names_of_an_nnunet_table_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset042_Liver"
    for number in range(5):
        save(folder / "imagesTr" / f"c_{number}_0000.nii.gz", picture(number))
        save(folder / "labelsTr" / f"c_{number}.nii.gz", mask())
    record = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(record))
    dataset = checked(folder)
    assert (dataset.name, dataset.layout, dataset.labels.foreground[0].name) == ("Liver", "nnunet", "liver")
    assert (dataset.channels[0].modality, dataset.channels[0].said_by_user) == ("ct", True)
