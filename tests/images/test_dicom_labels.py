"""Contours and DICOM segmentations become the masks that were meant."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from skimage.draw import polygon2mask

from autounet.images.dicom_files import scan_dicom
from autounet.images.dicom_labels import label_names, read_dicom_seg, read_rtstruct
from autounet.images.geometry import Geometry
from autounet.images.image import DEFAULT
from autounet.images.polygon import fill_even_odd
from autounet.images.read import read_image
from planners.errors import UserError
from tests.images.badinputs.dicom_seeds import SERIES, series


def corners(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, np.float64)


def test_a_voxel_is_inside_when_its_centre_is() -> None:
    square = corners((0.6, 0.6), (3.4, 0.6), (3.4, 2.4), (0.6, 2.4))
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(fill_even_odd((5, 6), [square]), expected)
    assert not fill_even_odd((5, 6), [square * 0 + 2.2 + 0.1 * square]).any(), "a contour between centres holds no voxel"


def test_a_contour_in_a_contour_is_a_hole_and_one_in_the_hole_an_island() -> None:
    rings = [corners((a, a), (b, a), (b, b), (a, b)) for a, b in ((0.5, 8.5), (2.5, 6.5), (3.5, 5.5))]
    filled = fill_even_odd((10, 10), rings)
    assert filled.sum() == 64 - 16 + 4
    assert not filled[3, 3]
    assert filled[4, 4]


def test_neighbouring_shapes_share_no_pixel_and_leave_none_out() -> None:
    left, right = corners((0, 0), (3, 0), (3, 4), (0, 4)), corners((3, 0), (6, 0), (6, 4), (3, 4))
    a, b = fill_even_odd((8, 8), [left]), fill_even_odd((8, 8), [right])
    assert not (a & b).any()
    assert np.array_equal(a | b, fill_even_odd((8, 8), [corners((0, 0), (6, 0), (6, 4), (0, 4))]))


@settings(max_examples=80)
@given(points=st.lists(st.tuples(st.floats(-3, 20), st.floats(-3, 20)), min_size=3, max_size=12))
def test_filling_agrees_with_scikit_image_away_from_the_borders(points: list[tuple[float, float]]) -> None:
    contour = np.array(points)
    ours = fill_even_odd((16, 18), [contour])
    theirs = polygon2mask((16, 18), contour[:, ::-1])
    y, x = np.mgrid[:16, :18]
    start, end = contour, np.roll(contour, -1, axis=0)
    nearest = np.full((16, 18), np.inf)
    for (x0, y0), (x1, y1) in zip(start, end, strict=True):
        share = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0)))
    clear = nearest > 1e-3
    assert np.array_equal(ours[clear], theirs[clear])


def dataset(sop_class: str) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = sop_class
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.StudyInstanceUID = generate_uid(), f"{SERIES}.9"
    return made


def item(**fields: object) -> Dataset:
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, Sequence(value) if isinstance(value, list) and value and isinstance(value[0], Dataset) else value)
    return made


def rtstruct(path: Path, structures: dict[str, list[list[float]]], kind: str = "CLOSED_PLANAR") -> Path:
    made = dataset("1.2.840.10008.5.1.4.1.1.481.3")
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence = Sequence([item(ROINumber=n, ROIName=name) for n, name in enumerate(structures, start=1)])
    made.ROIContourSequence = Sequence(
        [
            item(ReferencedROINumber=n, ContourSequence=[item(ContourGeometricType=kind, ContourData=points) for points in contours])
            for n, contours in enumerate(structures.values(), start=1)
            if contours
        ]
    )
    reference = item(SeriesInstanceUID=SERIES)
    made.ReferencedFrameOfReferenceSequence = Sequence([item(RTReferencedStudySequence=[item(RTReferencedSeriesSequence=[reference])])])
    made.save_as(path, enforce_file_format=True)
    return path


def box(z: float, x0: float, x1: float, y0: float, y1: float) -> list[float]:
    return [x0, y0, z, x1, y0, z, x1, y1, z, x0, y1, z]


@pytest.fixture
def geometry(tmp_path: Path) -> Geometry:
    """10 x 8 x 6 voxels of 0.9 x 0.7 x 2 mm from (-10, -20, 0), left and back positive."""
    return read_image(series(tmp_path / "ct")).geometry


def test_contours_fill_their_slices(tmp_path: Path, geometry: Geometry) -> None:
    # Voxel centres x = -10 + 0.9 i and y = -20 + 0.7 j: this box holds i = 2 to 5 and j = 1 to 3.
    contour = [-8.4, -5.4, -19.4, -17.8]
    path = rtstruct(tmp_path / "rs.dcm", {"tumour": [box(4.0, *contour), box(6.0, *contour)], "nothing": []})
    assert label_names(path) == ("tumour", "nothing")
    masks = read_rtstruct(path, geometry)
    expected = np.zeros((6, 8, 10), bool)
    expected[2:4, 1:4, 2:6] = True
    assert np.array_equal(masks["tumour"], expected)
    assert not masks["nothing"].any()
    assert list(read_rtstruct(path, geometry, ["nothing"])) == ["nothing"]


def test_contours_that_were_drawn_on_something_else_are_refused(tmp_path: Path, geometry: Geometry) -> None:
    inside = (-8.4, -5.4, -19.4, -17.8)
    between = rtstruct(tmp_path / "between.dcm", {"a": [box(5.0, *inside)]})
    outside = rtstruct(tmp_path / "outside.dcm", {"a": [box(500.0, *inside)]})
    upright = rtstruct(tmp_path / "upright.dcm", {"a": [[-8, -19, 0, -5, -19, 0, -5, -19, 8, -8, -19, 8]]})
    odd = rtstruct(tmp_path / "odd.dcm", {"a": [[1.0, 2.0, 3.0, 4.0]]})
    for path, reason in ((between, "between two slices"), (outside, "outside the image"), (upright, "not parallel"), (odd, "triples")):
        with pytest.raises(UserError, match=reason):
            read_rtstruct(path, geometry)


def test_equal_names_are_told_apart_and_points_are_no_region(tmp_path: Path, geometry: Geometry) -> None:
    path = rtstruct(tmp_path / "rs.dcm", {"a": [box(4.0, -8.4, -5.4, -19.4, -17.8)]}, kind="POINT")
    assert not read_rtstruct(path, geometry)["a"].any()
    made = pydicom.dcmread(path)
    made.StructureSetROISequence.append(item(ROINumber=7, ROIName="a"))
    made.save_as(path)
    assert label_names(path) == ("a 1", "a 7")


def test_a_folder_says_on_which_series_a_structure_set_was_drawn(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    rtstruct(folder / "rs.dcm", {"a": []})
    found = scan_dicom(folder, DEFAULT)
    assert [one.uid for one in found.series] == [SERIES]
    assert [(one.kind, one.refers_to) for one in found.labels] == [("rtstruct", (SERIES,))]


def segmentation(
    path: Path, frames: NDArray[np.uint8], segments: list[int], kind: str, *, down: int = 1, zs: list[float] | None = None
) -> Path:
    made = dataset("1.2.840.10008.5.1.4.1.1.66.4")
    made.Modality, made.SegmentationType = "SEG", kind
    made.NumberOfFrames, made.Rows, made.Columns = frames.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 1 if kind == "BINARY" else 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    if kind == "FRACTIONAL":
        made.MaximumFractionalValue = 200
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes() if kind == "BINARY" else frames.tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    made.SegmentSequence = Sequence([item(SegmentNumber=n, SegmentLabel=f"organ {n}") for n in sorted({*segments, 1})])
    y0 = -20.0 if down > 0 else -20 + 0.7 * (frames.shape[1] - 1)
    made.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.9], SliceThickness=2)],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, down, 0])],
            )
        ]
    )
    made.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[-10, y0, (zs or [4.0, 6.0, 8.0])[n]])],
                **({} if kind == "LABELMAP" else {"SegmentIdentificationSequence": [item(ReferencedSegmentNumber=segments[n])]}),
            )
            for n in range(len(frames))
        ]
    )
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("down", [1, -1])
def test_frames_of_a_binary_segmentation_are_painted_where_they_lie(tmp_path: Path, geometry: Geometry, down: int) -> None:
    frames = (np.random.default_rng(0).random((3, 8, 10)) > 0.6).astype(np.uint8)
    path = segmentation(tmp_path / "seg.dcm", frames[:, ::down], [1, 2, 1], "BINARY", down=down)
    masks = read_dicom_seg(path, geometry)
    assert label_names(path) == ("organ 1", "organ 2")
    assert np.array_equal(masks["organ 1"][[2, 4]], frames[[0, 2]].astype(bool))
    assert np.array_equal(masks["organ 2"][3], frames[1].astype(bool))
    assert masks["organ 1"].sum() == frames[[0, 2]].sum(), "and nowhere else"


def test_a_fractional_segmentation_counts_from_one_half(tmp_path: Path, geometry: Geometry) -> None:
    frames = np.zeros((1, 8, 10), np.uint8)
    frames[0, 3, 4:7] = 99, 100, 200
    path = segmentation(tmp_path / "seg.dcm", frames, [1], "FRACTIONAL")
    assert np.argwhere(read_dicom_seg(path, geometry)["organ 1"]).tolist() == [[2, 3, 5], [2, 3, 6]]


def test_the_values_of_a_label_map_are_its_segments(tmp_path: Path, geometry: Geometry) -> None:
    frames = np.zeros((2, 8, 10), np.uint8)
    frames[0, 1, 2], frames[1, 5, 6] = 1, 3
    path = segmentation(tmp_path / "seg.dcm", frames, [1, 3], "LABELMAP")
    masks = read_dicom_seg(path, geometry)
    assert np.argwhere(masks["organ 1"]).tolist() == [[2, 1, 2]]
    assert np.argwhere(masks["organ 3"]).tolist() == [[3, 5, 6]]


def test_a_segmentation_on_another_grid_or_cut_is_refused(tmp_path: Path, geometry: Geometry) -> None:
    frames = np.ones((1, 8, 10), np.uint8)
    off = segmentation(tmp_path / "off.dcm", frames, [1], "BINARY", zs=[4.9])
    far = segmentation(tmp_path / "far.dcm", frames, [1], "BINARY", zs=[400.0])
    cut = segmentation(tmp_path / "cut.dcm", frames, [1], "BINARY")
    made = pydicom.dcmread(cut)
    made.PixelData = made.PixelData[:4]
    made.save_as(cut)
    for path, reason in ((off, "another grid"), (far, "outside the image"), (cut, "of 80 pixels")):
        with pytest.raises(UserError, match=reason):
            read_dicom_seg(path, geometry)


@pytest.mark.parametrize("patient", ["STS_002", "STS_003"])
def test_real_contours_rasterise_to_the_published_masks(public_data: Path, patient: str) -> None:
    source = public_data / "sts_sarcoma_dicom" / patient / "MR_T1"
    image = read_image(source / "image")
    published = read_image(public_data / "sts_sarcoma" / "mr_t1" / "images" / f"{patient}.nii.gz")
    assert np.array_equal(image.voxels_czyx, published.voxels_czyx)
    assert image.geometry.corner_distance_mm(published.geometry) < 1e-3
    mask = read_rtstruct(source / "mask" / "RS.dcm", image.geometry)["GTV_Mass_MR_T1"]
    truth = read_image(public_data / "sts_sarcoma" / "mr_t1" / "labels" / f"{patient}.nii.gz").voxels_czyx[0] > 0
    assert np.array_equal(mask, truth), "Dice 1"


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_real_bit_packed_segmentations_equal_their_nrrd_versions(public_data: Path, size: str) -> None:
    source = public_data / "dicom_seg_small" / "dcmqi" / size
    image = read_image(source / "image")
    again = read_image(source / "multiframe")
    assert np.array_equal(image.voxels_czyx, again.voxels_czyx)
    assert image.geometry.corner_distance_mm(again.geometry) < 1e-6
    masks = read_dicom_seg(source / "seg" / "label.seg", image.geometry)
    truth = read_image(source / "nrrd" / "label.nrrd")
    assert np.array_equal(masks["Liver"], truth.voxels_czyx[0] > 0)


def test_real_overlapping_segments_are_each_whole(public_data: Path) -> None:
    source = public_data / "dicom_seg_small" / "dcmqi"
    reference = read_image(source / "partial_overlaps-1.nrrd")
    masks = read_dicom_seg(source / "partial_overlaps.dcm", reference.geometry)
    for name, (number, value) in {"GREEN": (1, 1), "ORANGE": (2, 2), "PURPLE": (3, 3), "LIGHT_BLUE": (1, 4), "DARK_BLUE": (1, 5)}.items():
        truth = read_image(source / f"partial_overlaps-{number}.nrrd").voxels_czyx[0] == value
        assert np.array_equal(masks[name], truth), name
