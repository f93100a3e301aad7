import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autounet.data.dataset import Dataset
from autounet.data.layouts.matching import match, split_channel
from autounet.data.open import open_dataset
from autounet.data.voxels import read_case
from autounet.phantoms import make
from planners.errors import UserError
from tests.data.made import checked, found, mask, pairs, picture, save, save_png


def touch(folder: Path, *paths: str) -> Path:
    """Small volumes under these names; what is named like a label holds a mask."""
    for number, path in enumerate(paths):
        is_label = any(w in path.lower() for w in ("label", "mask", "seg", "gt/", "annot", "truth"))
        save(folder / path, mask() if is_label else picture(number))
    return folder


def channels(dataset: Dataset) -> list[str]:
    return [c.name for c in dataset.channels]


def files(dataset: Dataset, case: str) -> list[str]:
    one = dataset.case(case)
    return [f.path for f in one.images] + ([one.label.path] if one.label else [])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("imgs", "masks"),
        ("Images", "Segmentations"),
        ("image", "gt"),
        ("data/scans", "data/annotations"),
        ("raw", "manual"),
        ("train_images", "train_masks"),
        ("train/images", "train/labels"),
        ("imagesTr", "labelsTr"),
    ],
)
def test_folders_for_images_and_labels_are_recognised_by_many_names(tmp_path: Path, images: str, labels: str) -> None:
    for name in "abc":
        touch(tmp_path / "d", f"{images}/{name}.nii.gz")
        save(tmp_path / "d" / labels / f"{name}.nii.gz", mask())
    dataset = open_dataset(tmp_path / "d")
    assert dataset.layout == "pairs"
    assert files(dataset, "b") == [f"{images}/b.nii.gz", f"{labels}/b.nii.gz"]
    assert len(dataset.training) == 3


@pytest.mark.parametrize(
    ("image", "label"), [("a_image", "a_mask"), ("a", "a_seg"), ("a_img", "a-label"), ("img_a", "mask_a"), ("a_t1", "a_gt")]
)
def test_files_side_by_side_are_told_apart_by_their_endings(tmp_path: Path, image: str, label: str) -> None:
    for name in "abc":
        save(tmp_path / "d" / f"{image.replace('a', name, 1) if image[0] == 'a' else image[:-1] + name}.nii.gz", picture(ord(name)))
        save(tmp_path / "d" / f"{label.replace('a', name, 1) if label[0] == 'a' else label[:-1] + name}.nii.gz", mask())
    dataset = open_dataset(tmp_path / "d")
    assert [c.id for c in dataset.training] == ["a", "b", "c"]


def test_channel_endings_come_from_what_the_names_add_to_the_label(tmp_path: Path) -> None:
    names = [f"images/case-{n}_{c}.nii.gz" for n in (1, 2, 3) for c in ("mod7", "b1000")]
    dataset = open_dataset(touch(tmp_path / "d", *names, *(f"labels/case-{n}.nii.gz" for n in (1, 2, 3))))
    assert channels(dataset) == ["b1000", "mod7"]
    assert files(dataset, "case-2") == ["images/case-2_b1000.nii.gz", "images/case-2_mod7.nii.gz", "labels/case-2.nii.gz"]


def test_numbered_channels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"images/p_{n}_{c}.nii.gz" for n in (1, 2, 3) for c in (2, 10, 1)]
    dataset = open_dataset(touch(tmp_path / "d", *names, *(f"labels/p_{n}.nii.gz" for n in (1, 2, 3))))
    assert channels(dataset) == ["1", "2", "10"]


def test_ids_that_look_like_channels_stay_ids_when_labels_are_called_so(tmp_path: Path) -> None:
    names = ("t1", "t2", "t2s", "t2s_uncropped", "mt1")
    dataset = open_dataset(touch(tmp_path / "d", *(f"{k}/{n}.nii.gz" for n in names for k in ("images", "labels"))))
    assert sorted(c.id for c in dataset.training) == sorted(names)
    assert len(dataset.channels) == 1


def test_images_without_labels_in_a_test_folder_are_test_cases_with_the_same_channels(tmp_path: Path) -> None:
    paths = [f"images/{n}_{c}.nii.gz" for n in "ab" for c in ("x7", "y8")] + ["labels/a.nii.gz", "labels/b.nii.gz"]
    dataset = open_dataset(touch(tmp_path / "d", *paths, "images_test/q_x7.nii.gz", "images_test/q_y8.nii.gz"))
    assert dataset.case("q").split == "test"
    assert files(dataset, "q") == ["images_test/q_x7.nii.gz", "images_test/q_y8.nii.gz"]
    assert not [p for p in dataset.problems if p.severity == "error"]


def test_patients_with_folders_of_their_own_keep_their_scans_together(tmp_path: Path) -> None:
    paths = [f"pat{p}/{k}/scan{s}.nii.gz" for p in range(6) for s in (1, 2) for k in ("images", "labels")]
    dataset = open_dataset(touch(tmp_path / "d", *paths))
    assert len(dataset.training) == 12
    assert dataset.case("pat3_scan1").group == dataset.case("pat3_scan2").group == "pat3"


def test_sites_with_folders_of_their_own_are_no_patients(tmp_path: Path) -> None:
    paths = [f"site{p}/{k}/kidney{s}.nii.gz" for p in "AB" for s in range(4) for k in ("images", "labels")]
    dataset = open_dataset(touch(tmp_path / "d", *paths))
    assert len({c.group for c in dataset.training}) == 8
    assert {c.id for c in dataset.training} >= {"siteA_kidney0", "siteB_kidney0"}


def test_of_several_label_folders_the_plainest_is_used_and_the_others_named(tmp_path: Path) -> None:
    kinds = ("images", "labels_original", "labels", "masks")
    dataset = open_dataset(touch(tmp_path / "d", *(f"{k}/{n}.nii.gz" for n in "abc" for k in kinds)))
    assert files(dataset, "a")[-1] == "labels/a.nii.gz"
    assert "labels_original" in found(dataset, "label_set_unused").found


def test_one_folder_for_each_modality_is_a_question(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"{m}/{k}/{n}.nii.gz" for m in ("ct", "mr_t1", "pet") for k in ("images", "labels") for n in "ab"))
    with pytest.raises(UserError, match=r"3 datasets: ct, mr_t1, pet.*for example d/ct"):
        open_dataset(folder)
    assert len(open_dataset(folder / "pet").training) == 2
    assert open_dataset(folder / "ct").channels[0].modality == "ct"


def test_what_is_beside_image_and_label_folders_is_named_and_left(tmp_path: Path) -> None:
    dataset = open_dataset(touch(tmp_path / "d", *(f"{k}/{n}.nii.gz" for n in "abc" for k in ("images", "labels", "brainmasks_x"))))
    assert "brainmasks_x" in found(dataset, "files_unused").found


@pytest.mark.parametrize("kind", ["organs", "multichannel", "cells"])
@pytest.mark.parametrize("layout", ["pairs", "nnunet", "decathlon", "case_folders", "bids", "table"])
def test_every_layout_gives_the_same_voxels(tmp_path: Path, kind: str, layout: str) -> None:
    plain = open_dataset(make(kind, tmp_path / "plain", cases=2, size=24, layout="pairs"))
    other = open_dataset(make(kind, tmp_path / "other", cases=2, size=24, layout=layout))
    assert other.layout == layout
    assert len(other.training) == 2
    names = [c.name.lower().replace("ce_t1w", "t1c") for c in other.channels]
    for ours, theirs in zip(plain.training, other.training, strict=True):
        a, b = read_case(plain, ours), read_case(other, theirs)
        order = [names.index(c.name) for c in plain.channels] if len(names) > 1 else [0]
        assert np.array_equal(a.image_czyx, b.image_czyx[order])
        assert np.array_equal(a.label_zyx, b.label_zyx)


def test_brats_has_one_folder_a_patient(tmp_path: Path) -> None:
    paths = [f"BraTS20_{n:03d}/BraTS20_{n:03d}_{c}.nii.gz" for n in (1, 2, 3) for c in ("flair", "t1", "t1ce", "t2", "seg")]
    dataset = open_dataset(touch(tmp_path / "d", *paths))
    assert (dataset.layout, channels(dataset)) == ("case_folders", ["flair", "t1", "t1ce", "t2"])
    assert [c.modality for c in dataset.channels] == ["mr"] * 4
    assert files(dataset, "BraTS20_002")[-1] == "BraTS20_002/BraTS20_002_seg.nii.gz"


def test_image_and_mask_in_each_folder_are_one_channel(tmp_path: Path) -> None:
    dataset = open_dataset(touch(tmp_path / "d", *(f"patient{n}/{k}.nii.gz" for n in (1, 2, 3) for k in ("image", "mask"))))
    assert [c.id for c in dataset.training] == ["patient1", "patient2", "patient3"]
    assert len(dataset.channels) == 1


def test_one_mask_for_each_organ_is_one_label_map(tmp_path: Path) -> None:
    for case in ("s01", "s02", "s03"):
        save(tmp_path / "d" / case / "ct.nii.gz", picture(int(case[1:])))
        save(tmp_path / "d" / case / "segmentations" / "liver.nii.gz", mask(low=1, high=4))
        save(tmp_path / "d" / case / "segmentations" / "spleen.nii.gz", mask(low=5, high=8))
    dataset = checked(tmp_path / "d")
    assert (dataset.layout, dataset.label_style) == ("case_folders", "masks")
    assert [(c.name, c.value) for c in dataset.labels.classes] == [("background", 0), ("liver", 1), ("spleen", 2)]
    label = read_case(dataset, dataset.case("s02")).label_zyx
    assert label is not None
    assert np.bincount(label.ravel()).tolist() == [12 * 11 * 10 - 54, 27, 27]


def test_one_mask_for_each_nucleus_is_one_class(tmp_path: Path) -> None:
    for case in ("aaa", "bbb", "ccc"):
        save_png(
            tmp_path / "d" / case / "images" / f"{case}.png",
            np.random.default_rng(ord(case[0])).integers(0, 255, (16, 16)).astype(np.uint8),
        )
        for cell in range(3):
            label = np.zeros((16, 16), np.uint8)
            label[4 * cell : 4 * cell + 3, :4] = 255
            save_png(tmp_path / "d" / case / "masks" / f"{case[0]}{cell}f00d.png", label)
    dataset = checked(tmp_path / "d")
    assert [c.name for c in dataset.labels.classes] == ["background", "object"]
    label = read_case(dataset, dataset.case("bbb")).label_zyx
    assert label is not None
    assert int(label.sum()) == 3 * 12


def test_decathlon_files_that_are_listed_and_absent_are_named(tmp_path: Path) -> None:
    folder = make("organs", tmp_path / "d", cases=3, size=24, layout="decathlon")
    (folder / "imagesTr" / "organs_001.nii.gz").unlink()
    (folder / "imagesTr" / "._organs_000.nii.gz").write_bytes(b"x")
    dataset = open_dataset(folder)
    assert found(dataset, "file_missing").case == "organs_001"
    assert len(dataset.training) == 2
    assert found(dataset, "case_count").found == "2 training cases"


def test_nnunet_v1_has_its_channels_in_files(tmp_path: Path) -> None:
    paths = [f"imagesTr/c{n}_{c:04d}.nii.gz" for n in (1, 2) for c in (0, 1)] + ["labelsTr/c1.nii.gz", "labelsTr/c2.nii.gz"]
    folder = touch(tmp_path / "Task005", *paths)
    record = {
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ"},
        "numTraining": 2,
        "training": [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in (1, 2)],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(record))
    dataset = open_dataset(folder)
    assert (dataset.layout, channels(dataset)) == ("decathlon", ["T2", "ADC"])
    assert files(dataset, "c2") == ["imagesTr/c2_0000.nii.gz", "imagesTr/c2_0001.nii.gz", "labelsTr/c2.nii.gz"]


def test_ids_of_four_digits_are_cases_and_not_channels_when_labels_are_called_so(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"{k}/word_{n:04d}.nii.gz" for n in range(3) for k in ("imagesTr", "labelsTr")))
    record = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(record))
    assert [c.id for c in open_dataset(folder).training] == ["word_0000", "word_0001", "word_0002"]


def test_labels_with_the_digits_of_a_channel_are_found(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"{k}/MMs_{n:03d}_0000.nii.gz" for n in (1, 2) for k in ("imagesTr", "labelsTr")))
    folder = touch(folder, "imagesTr/MMs_001_0001.nii.gz", "imagesTr/MMs_002_0001.nii.gz")
    names = {"0": "ED", "1": "ES"}
    record = {"channel_names": names, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(record))
    assert [c.id for c in open_dataset(folder).training] == ["MMs_001", "MMs_002"]


def test_a_decathlon_list_may_name_the_first_channel(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"imagesTr/la_{n:03d}_0000.nii.gz" for n in (1, 2)), *(f"labelsTr/la_{n:03d}.nii.gz" for n in (1, 2)))
    training = [{"image": f"./imagesTr/la_{n:03d}_0000.nii.gz", "label": f"./labelsTr/la_{n:03d}.nii.gz"} for n in (1, 2)]
    record = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "atrium"}, "numTraining": 2, "training": training, "test": []}
    (folder / "dataset.json").write_text(json.dumps(record))
    assert files(open_dataset(folder), "la_002") == ["imagesTr/la_002_0000.nii.gz", "labelsTr/la_002.nii.gz"]


def test_nnunet_splits_and_regions_are_honoured(tmp_path: Path) -> None:
    folder = make("multichannel", tmp_path / "d", cases=4, size=24, layout="nnunet")
    record = json.loads((folder / "dataset.json").read_text())
    record |= {"labels": {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}, "regions_class_order": [2, 1, 3]}
    (folder / "dataset.json").write_text(json.dumps(record))
    ids = [f"multichannel_{n:03d}" for n in range(4)]
    (folder / "splits_final.json").write_text(json.dumps([{"train": ids[:2], "val": ids[2:]}, {"train": ids[2:], "val": ids[:2]}]))
    dataset = open_dataset(folder)
    assert [(r.name, r.values, r.paint) for r in dataset.labels.regions] == [
        ("whole", (1, 2, 3), 2),
        ("core", (1, 3), 1),
        ("enhancing", (3,), 3),
    ]
    assert dataset.given_folds[1].validation == tuple(ids[:2])


def test_several_nnunet_datasets_in_one_folder_are_a_question(tmp_path: Path) -> None:
    make("organs", tmp_path / "raw" / "Dataset001_A", cases=1, size=16, layout="nnunet")
    make("organs", tmp_path / "raw" / "Dataset002_B", cases=1, size=16, layout="nnunet")
    with pytest.raises(UserError, match=r"2 datasets: Dataset001_A, Dataset002_B"):
        open_dataset(tmp_path / "raw")


def test_bids_masks_below_derivatives_belong_to_their_session(tmp_path: Path) -> None:
    paths = [f"sub-0{s}/ses-{v}/anat/sub-0{s}_ses-{v}_{c}.nii.gz" for s in (1, 2, 3) for v in "ab" for c in ("T1w", "FLAIR")]
    paths += [f"derivatives/lesion/sub-0{s}/ses-a/anat/sub-0{s}_ses-a_label-lesion_mask.nii.gz" for s in (1, 2, 3)]
    dataset = open_dataset(touch(tmp_path / "d", *paths))
    assert (dataset.layout, channels(dataset)) == ("bids", ["FLAIR", "T1w"])
    assert [c.id for c in dataset.training] == ["sub-01_ses-a", "sub-02_ses-a", "sub-03_ses-a"]
    assert {c.group for c in dataset.cases} == {"sub-01", "sub-02", "sub-03"}
    assert dataset.case("sub-02_ses-b").split == "test"


def test_bids_masks_named_after_one_image_make_a_case_of_it(tmp_path: Path) -> None:
    paths = [f"sub-0{s}/anat/sub-0{s}_{c}.nii.gz" for s in (1, 2, 3) for c in ("T1w", "T2w")]
    paths += [f"derivatives/labels/sub-0{s}/anat/sub-0{s}_T2w_seg-manual.nii.gz" for s in (1, 2, 3)]
    dataset = open_dataset(touch(tmp_path / "d", *paths))
    assert [c.id for c in dataset.training] == ["sub-01_T2w", "sub-02_T2w", "sub-03_T2w"]
    assert files(dataset, "sub-01_T2w")[0] == "sub-01/anat/sub-01_T2w.nii.gz"


def test_a_table_rules_over_the_names(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"x/{n}.nii.gz" for n in ("k1", "k2", "k3", "k4")), *(f"y/mask_{n}.nii.gz" for n in range(4)))
    rows = "".join(
        f"case{n};pat{n // 2};site{n % 2};x/k{n + 1}.nii.gz;y/mask_{n}.nii.gz;{'test' if n == 3 else 'train'};tumour\n" for n in range(4)
    )
    (folder / "cases.csv").write_text("case;group;stratum;image;label;split;annotated\n" + rows)
    dataset = open_dataset(folder)
    assert dataset.layout == "table"
    one = dataset.case("case2")
    assert (one.group, one.stratum, one.annotated, dataset.case("case3").split) == ("pat1", "site0", ("tumour",), "test")


def test_a_monai_list_brings_its_folds(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", *(f"i/a{n}.nii.gz" for n in range(6)), *(f"l/mask{n}.nii.gz" for n in range(6)), "i/t.nii.gz")
    training = [{"image": f"i/a{n}.nii.gz", "label": f"l/mask{n}.nii.gz", "fold": n % 3} for n in range(6)]
    (folder / "datalist.json").write_text(json.dumps({"training": training, "testing": [{"image": "i/t.nii.gz"}]}))
    dataset = open_dataset(folder)
    assert (dataset.layout, len(dataset.training), dataset.case("t").split) == ("table", 6, "test")
    assert dataset.given_folds[0].validation == ("a0", "a3")


def test_a_table_with_a_wrong_path_names_the_line(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", "a.nii.gz", "mask.nii.gz")
    (folder / "t.tsv").write_text("image\tlabel\na.nii.gz\tmask.nii.gz\nb.nii.gz\tmask.nii.gz\n")
    assert "t.tsv, line 3: b.nii.gz is not there" in found(open_dataset(folder), "file_missing").found


def test_an_ambiguous_folder_gives_the_candidates_and_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autounet.data import open as opening
    from autounet.data.layouts.draft import Candidate

    folder = pairs(tmp_path / "d", cases=2)
    twin = opening.Layout(lambda _: Candidate(layout="twin", sure=0.75, why="it looks alike"), opening.LAYOUTS["pairs"].index)
    monkeypatch.setitem(opening.LAYOUTS, "twin", twin)
    with pytest.raises(UserError, match=r"2 ways: pairs \(images in images, labels in labels\); twin \(it looks alike\).*--layout pairs"):
        open_dataset(folder)
    assert len(open_dataset(folder, layout="twin").training) == 2
    with pytest.raises(UserError, match=r"no layout 'tables'.*Choose one of nnunet"):
        open_dataset(folder, layout="tables")


def test_4d_files_are_channels_when_named_and_a_question_when_many(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for name in "abc":
        save(folder / "images" / f"{name}.nii.gz", np.random.default_rng(ord(name)).integers(0, 9, (8, 8, 8, 3)).astype(np.int16))
        save(folder / "labels" / f"{name}.nii.gz", mask((8, 8, 8)))
    dataset = checked(folder, '[channels]\nT2 = "mr"\nADC = "mr"\nDWI = "mr"\n')
    assert channels(dataset) == ["T2", "ADC", "DWI"]
    voxels = read_case(dataset, dataset.case("b"))
    assert voxels.image_czyx.shape == (3, 8, 8, 8)
    (folder.with_name("d.autounet") / "autounet.toml").unlink()
    assert "taken as 3 channels" in found(checked(folder), "volumes_as_channels").found


def test_b068_a_series_in_time_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=4)
    save(folder / "images" / "p1.nii.gz", np.zeros((12, 11, 10, 40), np.int16))
    problem = found(open_dataset(folder), "four_dimensions")
    assert (problem.case, "holds 40 volumes" in problem.found, "[channels]" in problem.remedy) == ("p1", True, True)


def test_pictures_of_all_kinds_are_one_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    gray = np.random.default_rng(0).integers(0, 255, (20, 24)).astype(np.uint8)
    colour = np.random.default_rng(1).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    opaque = np.concatenate([colour, np.full((20, 24, 1), 255, np.uint8)], axis=2)
    for name, array, suffix in (("a", gray, "png"), ("b", colour, "png"), ("c", opaque, "png"), ("d", colour, "jpg")):
        save_png(folder / "images" / f"{name}.{suffix}", array)
        save_png(folder / "labels" / f"{name}.png", (gray > 128).astype(np.uint8))
    save_png(folder / "images" / "e.png", gray, "LA")
    save_png(folder / "labels" / "e.png", (gray > 128).astype(np.uint8))
    dataset = checked(folder)
    assert (dataset.dimensions, channels(dataset), dataset.broken) == (2, ["red", "green", "blue"], ())
    first = read_case(dataset, dataset.case("a")).image_czyx
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(read_case(dataset, dataset.case("c")).image_czyx[1, 0], colour[..., 1])


def test_gray_stored_as_colour_everywhere_is_one_channel_and_a_coloured_one_is_found_when_read(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for number in range(60):
        gray = np.random.default_rng(number).integers(0, 255, (8, 8)).astype(np.uint8)
        save_png(folder / "images" / f"p{number:02d}.png", np.stack([gray] * 3, -1))
        save_png(folder / "labels" / f"p{number:02d}.png", (gray > 128).astype(np.uint8))
    assert channels(checked(folder)) == ["image"]
    save_png(folder / "images" / "p59.png", np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8))
    dataset = checked(folder)  # whether the sample met it or not, it is told
    assert channels(dataset) == ["red", "green", "blue"] or dataset.broken == ("p59",)


def test_a_stack_of_pictures_is_asked_for_once(tmp_path: Path) -> None:
    import tifffile

    folder = tmp_path / "d"
    rng = np.random.default_rng(0)
    for kind, data in (("images", rng.integers(0, 255, (6, 16, 16))), ("labels", rng.integers(0, 2, (6, 16, 16)))):
        (folder / kind).mkdir(parents=True)
        tifffile.imwrite(folder / kind / "stack.tif", data.astype(np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match=r"holds 6 pictures.*stacks = .slices. .* or .volume."):
        open_dataset(folder)
    dataset = checked(folder, '[dataset]\nstacks = "slices"\n')
    assert (dataset.dimensions, [c.id for c in dataset.training]) == (2, [f"stack_{n}" for n in range(6)])
    voxels = read_case(dataset, dataset.case("stack_4"))
    assert voxels.image_czyx.shape == (1, 1, 16, 16)
    assert np.array_equal(voxels.image_czyx[0, 0], tifffile.imread(folder / "images" / "stack.tif")[4])
    assert np.array_equal(voxels.label_zyx[0], tifffile.imread(folder / "labels" / "stack.tif")[4])  # type: ignore[index]


def test_names_are_matched_longest_first() -> None:
    found = {m.key: [i for _, i in m.images] for m in match(["a_1_t1", "a_t1", "a_1_t2", "a_t2"], ["a", "a_1"])}
    assert found == {"a": [1, 3], "a_1": [0, 2]}


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["volume-0", "volume-1"], ["segmentation-0", "segmentation-1"], {"0": [0], "1": [1]}),
        (["img0001", "img0002"], ["label0001", "label0002"], {"0001": [0], "0002": [1]}),
        (["image_001", "image_002"], ["image_001", "image_002"], {"image_001": [0], "image_002": [1]}),
        (["scan_1_t1", "scan_1_t2"], ["scan_1"], {"scan_1": [0, 1]}),
        (["ISIC_1", "ISIC_2"], ["ISIC_1_segmentation", "ISIC_2_segmentation"], {"ISIC_1": [0], "ISIC_2": [1]}),
        (["a_raw", "b_raw"], ["a_gt", "b_gt"], {"a": [0], "b": [1]}),
        (["example_ct_sm"], ["example_seg"], {"example": [0]}),
    ],
)
def test_names_of_well_known_datasets_find_each_other(images: list[str], labels: list[str], expected: dict[str, list[int]]) -> None:
    assert {m.key: [i for _, i in m.images] for m in match(images, labels)} == expected


@given(
    st.lists(st.text("ab_1", min_size=1, max_size=6), unique=True, max_size=12),
    st.lists(st.text("ab_1", min_size=1, max_size=6), unique=True, max_size=12),
)
def test_no_file_is_in_two_cases(images: list[str], labels: list[str]) -> None:
    found = match(images, labels)
    used = [i for m in found for _, i in m.images]
    assert len(used) == len(set(used))
    assert all(m.images and m.label is not None for m in found)
    main = [m.label for m in found]
    assert len(main) == len(set(main))
    assert {images[i] for i in used} >= set(images) & set(labels)  # equal names are always paired


def test_rawdata_and_derivatives_without_anat_are_bids(tmp_path: Path) -> None:
    paths = [f"rawdata/sub-verse{n}/sub-verse{n}_ct.nii.gz" for n in (1, 2)]
    paths += [f"derivatives/sub-verse{n}/sub-verse{n}_seg-vert_msk.nii.gz" for n in (1, 2)]
    for path in paths:
        save(tmp_path / "d" / path, mask() if "msk" in path else picture(1))
    dataset = open_dataset(tmp_path / "d")
    assert (dataset.layout, [c.id for c in dataset.training]) == ("bids", ["sub-verse1", "sub-verse2"])


def test_frames_with_their_labels_beside_a_cine_are_cases(tmp_path: Path) -> None:
    for patient in ("patient001", "patient002", "patient003"):
        for frame in ("frame01", "frame12"):
            save(tmp_path / "d" / patient / f"{patient}_{frame}.nii.gz", picture(1))
            save(tmp_path / "d" / patient / f"{patient}_{frame}_gt.nii.gz", mask())
        save(tmp_path / "d" / patient / f"{patient}_4d.nii.gz", np.zeros((12, 11, 10, 30), np.int16))
    dataset = open_dataset(tmp_path / "d")
    assert [c.id for c in dataset.training][:2] == ["patient001_frame01", "patient001_frame12"]
    assert len({c.group for c in dataset.training}) == 3
    assert len(dataset.training) == 6


@pytest.mark.parametrize(
    ("name", "split"), [("c_001_0000", ("c_001", "0000")), ("c_001", ("c_001", "")), ("x-flair", ("x", "flair")), ("t1", ("t1", ""))]
)
def test_channels_at_the_end_of_a_name(name: str, split: tuple[str, str]) -> None:
    assert split_channel(name, frozenset()) == split
