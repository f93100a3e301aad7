"""What may be handed to predict: every layout, tables, series, single files; and what has to be decided first."""

import struct
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.testing import assert_array_equal

from autounet import phantoms
from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from autounet.inference.inputs import InputOptions, list_inputs
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.predict import PredictOptions, PredictReport, predict
from planners.errors import UserError
from planners.plan import Plan
from tests.images.badinputs.dicom_seeds import series
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

GRID = Geometry(
    shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)
TURNED = replace(GRID, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def model_of(folder: Path, *channels: str, orientation: str = "canonical", millimetres: float = 1.0) -> tuple[Path, Plan]:
    """A model of random weights whose channels are called so."""
    plan = plan_of(configuration((8, 8, 8), spacing_zyx_mm=(millimetres,) * 3), channels=len(channels))
    named = tuple(replace(c, name=name) for c, name in zip(plan.channels, channels, strict=True))
    plan = replace(plan, channels=named, orientation=orientation)
    folder.mkdir()
    return tiny_bundle(folder, plan), plan


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return model_of(tmp_path / "model", "mr")[0]


def run(model: Path, source: Path, out: Path, **options: object) -> PredictReport:
    job = Job(work=out, progress=Progress.silent(), device="cpu", threads=1)
    return predict(model, source, out, job, PredictOptions(**options))  # type: ignore[arg-type]


def voxels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / name))))


LAYOUTS = ("pairs", "nnunet", "decathlon", "case_folders", "table")


def test_a_case_gets_the_same_mask_in_every_layout_whatever_the_order_of_its_channels(tmp_path: Path) -> None:
    model, _ = model_of(tmp_path / "model", "t1c", "flair", millimetres=6.25)
    masks = {}
    for layout in LAYOUTS:
        source = phantoms.make("multichannel", tmp_path / layout / "in", cases=2, size=16, seed=1, layout=layout)
        before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
        report = run(model, source, tmp_path / layout / "out")
        assert report.failed_cases == (), layout
        assert len(report.cases) == 2, f"{layout}: masks that lie there are no images"
        masks[layout] = [voxels(tmp_path / layout / "out", case.mask) for case in report.cases]
        assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before, "the input is only read"
    assert len(np.unique(masks["pairs"][0])) > 1
    for layout in LAYOUTS:
        for mask, expected in zip(masks[layout], masks["nnunet"], strict=True):
            assert_array_equal(mask, expected, err_msg=layout)


def test_images_without_masks_are_grouped_by_the_names_of_their_channels_or_by_folders(tmp_path: Path) -> None:
    model, _ = model_of(tmp_path / "model", "t1c", "flair")
    t1c, flair = smooth((1, 9, 10, 11), 1), smooth((1, 9, 10, 11), 2)
    for name in ("named/a_t1c", "named/a_flair", "folders/a/flair", "folders/a/t1c", "folders/b/t1c", "folders/b/flair"):
        write_image(tmp_path / f"{name}.nii.gz", t1c if name.endswith("t1c") else flair, GRID)
    write_image(tmp_path / "whole" / "a.nii.gz", np.concatenate([t1c, flair]), GRID)
    reports = {name: run(model, tmp_path / name, tmp_path / f"{name}.out") for name in ("named", "folders", "whole")}
    assert [[c.case for c in r.cases] for r in reports.values()] == [["a"], ["a", "b"], ["a"]]
    assert all(r.failed_cases == () for r in reports.values())
    first = voxels(tmp_path / "whole.out", "a.nii.gz")
    assert len(np.unique(first)) > 1
    for name in ("named", "folders"):
        assert_array_equal(voxels(tmp_path / f"{name}.out", "a.nii.gz"), first)


def test_channels_of_other_names_are_taken_in_their_order_and_that_is_said(tmp_path: Path) -> None:
    model, _ = model_of(tmp_path / "model", "t1c", "flair", millimetres=6.25)
    source = phantoms.make("multichannel", tmp_path / "in", cases=1, size=16, layout="bids")
    report = run(model, source, tmp_path / "out")
    assert any("are taken for t1c, flair, in this order" in note for note in report.cases[0].notes)


def test_a_missing_channel_is_named_and_the_other_cases_go_on(tmp_path: Path) -> None:
    model, _ = model_of(tmp_path / "model", "t1c", "flair")
    for name in ("a_t1c", "a_flair", "b_flair"):
        write_image(tmp_path / "in" / f"{name}.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    report = run(model, tmp_path / "in", tmp_path / "out")
    assert report.failed_cases == ("b",)
    assert "has no t1c" in report.cases[1].problem


def test_numbers_that_are_years_are_no_channels(one: Path, tmp_path: Path) -> None:
    for name in ("scan_2023", "scan_2024"):
        write_image(tmp_path / "in" / f"{name}.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    assert [c.mask for c in run(one, tmp_path / "in", tmp_path / "out").cases] == ["scan_2023.nii.gz", "scan_2024.nii.gz"]


def test_a_table_may_lie_among_others_and_needs_no_labels(one: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("x", "y", "z"):
        write_image(source / f"{name}.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    (source / "monday.csv").write_text("case,image\nfirst,x.nii.gz\nsecond,y.nii.gz\n")
    (source / "tuesday.csv").write_text("case,image\nthird,z.nii.gz\nfourth,gone.nii.gz\n")
    assert [c.mask for c in run(one, source / "monday.csv", tmp_path / "out").cases] == ["first.nii.gz", "second.nii.gz"]
    other = run(one, source / "tuesday.csv", tmp_path / "other")
    assert [c.case for c in other.cases] == ["third", "fourth"]
    assert other.failed_cases == ("fourth",)
    assert "gone.nii.gz is not there" in other.cases[1].problem


def test_a_dicom_series_a_folder_of_series_and_one_slice_are_predicted(one: Path, tmp_path: Path) -> None:
    series(tmp_path / "single")
    series(tmp_path / "many" / "p1")
    for number, name in enumerate(("p2", "p3")):
        series(tmp_path / "many" / name, SeriesInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.4.{number}", PatientID=name)
    alone = run(one, tmp_path / "single", tmp_path / "a")
    assert alone.failed_cases == ()
    assert voxels(tmp_path / "a", alone.cases[0].mask).shape == (6, 8, 10)
    assert SimpleITK.ReadImage(str(tmp_path / "a" / alone.cases[0].mask)).GetSpacing() == pytest.approx((0.9, 0.7, 2.0))
    several = run(one, tmp_path / "many", tmp_path / "b")
    assert several.failed_cases == ()
    assert len(several.cases) == 3
    for case in several.cases:
        assert_array_equal(voxels(tmp_path / "b", case.mask), voxels(tmp_path / "a", alone.cases[0].mask))
    slice_alone = run(one, tmp_path / "single" / "slice_00.dcm", tmp_path / "c")
    assert voxels(tmp_path / "c", slice_alone.cases[0].mask).shape == (1, 8, 10)


def test_a_damaged_series_is_listed_with_its_reason_beside_the_good_ones(one: Path, tmp_path: Path) -> None:
    series(tmp_path / "in" / "good")
    series(tmp_path / "in" / "bad", SeriesInstanceUID="1.2.3.1", StudyInstanceUID="1.2.4.1", PatientID="other")
    (tmp_path / "in" / "bad" / "slice_02.dcm").unlink()
    report = run(one, tmp_path / "in", tmp_path / "out")
    assert len(report.cases) == 2
    assert len(report.failed_cases) == 1
    bad = next(c for c in report.cases if c.problem)
    assert "slice" in bad.problem
    assert bad.fix


def nifti(path: Path, *, edits: dict[int, tuple[str, float]] | None = None, turned: bool = False) -> Path:
    """A good file, some header fields of which are overwritten at their offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(smooth((1, 9, 10, 11), 1)[0].transpose(2, 1, 0), np.diag([-1.0 if turned else 1.0, 1.0, 1.0, 1.0]))
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    for offset, (kind, value) in (edits or {}).items():
        struct.pack_into(f"<{kind}", data, offset, value)
    path.write_bytes(data)
    return path


PIXDIM, SFORM_CODE, QFORM_CODE, FIRST_VOXEL = 76, 254, 252, 352

UNDECIDED = {
    "no spacing": ({80: ("f", 0.0), 84: ("f", 0.0), 88: ("f", 0.0), SFORM_CODE: ("h", 0)}, False, "spacing_zyx_mm = [1.0, 1.0, 1.0]"),
    "not a number": ({FIRST_VOXEL: ("f", float("nan"))}, False, "fill_nonfinite = 0.0"),
    "two orientations": ({}, True, "trust = 'sform'"),
    "no orientation": ({SFORM_CODE: ("h", 0), QFORM_CODE: ("h", 0)}, False, "trust = 'stored'"),
}


@pytest.mark.parametrize("what", UNDECIDED)
@pytest.mark.parametrize("place", ["in the output", "in the input", "beside the input"])
def test_what_has_to_be_decided_is_asked_and_decided_as_for_training(one: Path, tmp_path: Path, what: str, place: str) -> None:
    edits, turned, decision = UNDECIDED[what]
    source, out = tmp_path / "in", tmp_path / "out"
    nifti(source / "odd.nii", edits=edits, turned=turned)
    nifti(source / "good.nii")
    report = run(one, source, out)
    key = decision.split(" ")[0]
    assert report.failed_cases == ("odd",)
    assert key in report.cases[1].fix
    assert "autounet.toml" in report.cases[1].fix
    toml = {"in the output": out, "in the input": source, "beside the input": tmp_path}[place] / (
        "in.autounet.toml" if place == "beside the input" else "autounet.toml"
    )
    toml.write_text(f"[dataset]\n{decision}\n")
    again = run(one, source, out)
    assert again.failed_cases == (), again.cases
    assert voxels(out, "odd.nii").shape == (9, 10, 11)


def test_a_decision_that_changes_makes_the_masks_anew(one: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    nifti(source / "a.nii", edits={FIRST_VOXEL: ("f", float("nan"))})
    out.mkdir()
    (out / "autounet.toml").write_text("[dataset]\nfill_nonfinite = 0.0\n")
    assert not run(one, source, out).cases[0].found
    assert run(one, source, out).cases[0].found
    (out / "autounet.toml").write_text("[dataset]\nfill_nonfinite = 9.0\n")
    assert not run(one, source, out).cases[0].found


def test_a_misspelt_decision_is_an_error_of_the_whole_call(one: Path, tmp_path: Path) -> None:
    nifti(tmp_path / "in" / "a.nii")
    (tmp_path / "in.autounet.toml").write_text("[dataset]\ntrusst = 'sform'\n")
    with pytest.raises(UserError, match="trust"):
        run(one, tmp_path / "in", tmp_path / "out")


def test_b077_an_orientation_never_seen_is_asked_about_by_a_model_that_turns_nothing(tmp_path: Path) -> None:
    model, _ = model_of(tmp_path / "model", "mr", orientation="stored")  # trained on RAS
    source, out = tmp_path / "in", tmp_path / "out"
    write_image(source / "seen.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    write_image(source / "unseen.nii.gz", smooth((1, 9, 10, 11), 1), TURNED)
    report = run(model, source, out)
    assert report.failed_cases == ("unseen",)
    assert "stored as LPS" in report.cases[1].problem
    assert "trained on RAS" in report.cases[1].problem
    assert "unusual_geometry" in report.cases[1].fix
    (tmp_path / "in.autounet.toml").write_text("[dataset]\nunusual_geometry = true\n")
    assert run(model, source, out).failed_cases == ()
    turning, _ = model_of(tmp_path / "turning", "mr")
    assert run(turning, source, tmp_path / "other").failed_cases == (), "a model that turns images has seen them all"


def test_a_layout_that_is_named_is_taken_and_one_that_is_not_known_refused(one: Path, tmp_path: Path) -> None:
    source = phantoms.make("organs", tmp_path / "in", cases=2, size=16, layout="case_folders")
    plan = plan_of(configuration((8, 8, 8)))
    assert len(list_inputs(source, plan, InputOptions(layout="case_folders"))) == 2
    with pytest.raises(UserError, match="no layout 'shoebox'"):
        run(one, source, tmp_path / "out", layout="shoebox")


def test_a_file_that_is_no_image_and_a_link_out_of_the_input_are_one_clear_error_each(one: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(UserError, match="no image that can be read"):
        run(one, tmp_path / "notes.docx", tmp_path / "out")
    write_image(tmp_path / "elsewhere" / "a.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    write_image(tmp_path / "in" / "b.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    (tmp_path / "in" / "a.nii.gz").symlink_to(tmp_path / "elsewhere" / "a.nii.gz")
    report = run(one, tmp_path / "in", tmp_path / "out")
    assert [c.case for c in report.cases if not c.problem] == ["b"]
    assert any("link leads out" in c.problem for c in report.cases)
    (tmp_path / "in.autounet.toml").write_text("[dataset]\nfollow_symlinks = true\n")
    assert run(one, tmp_path / "in", tmp_path / "out").failed_cases == ()


def test_a_series_in_time_and_wrong_channels_are_one_clear_error_each(one: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "time.nii.gz", smooth((5, 9, 10, 11), 1), GRID)
    picture = np.zeros((3, 1, 20, 20), np.uint8)
    write_image(
        tmp_path / "in" / "colour.png",
        picture,
        Geometry(shape_zyx=(1, 20, 20), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=GRID.direction, flat=True),
    )
    report = run(one, tmp_path / "in", tmp_path / "out")
    assert set(report.failed_cases) == {"time", "colour"}
    for case in report.cases:
        assert "channels, the model wants 1: mr" in case.problem
