"""One patient, stored in every way a header can: the same anatomy inside, the same geometry bytes outside."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.typing import NDArray

from autounet.images.geometry import STRAIGHT, Geometry, geometry_from_affine
from autounet.images.image import Image
from autounet.images.orientation import orient, orient_geometry, orientation_of, restore
from autounet.images.read import read_header, read_image
from autounet.images.write import write_image, write_mask

SIGNED_PERMUTATIONS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(angles_degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_degrees)):
        one = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        one[[first, first, second, second], [first, second, first, second]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ one
    return matrix


def patient(oblique: tuple[float, float, float]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """A ball to the right (1), a cube to the back (2) and a bar upwards (3), indexed (x, y, z), and its affine."""
    shape, spacing = (22, 19, 15), np.array([1.0, 1.2, 2.0])
    affine = np.eye(4)
    affine[:3, :3] = rotation(oblique) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + [3, -5, 7]
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij")
    array = np.zeros(shape, np.int16)
    array[(x - 6) ** 2 + y**2 + z**2 < 9] = 1
    array[(abs(x) < 2) & (abs(y + 7) < 2) & (abs(z) < 3)] = 2
    array[(abs(x + 4) < 2) & (abs(y - 3) < 1.5) & (z > 2)] = 3
    return array, affine


def stored_as(
    array: NDArray[Any], affine: NDArray[np.float64], axes: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same volume with its array axes exchanged and reversed, by nibabel."""
    ornt = np.array(list(zip(axes, signs, strict=True)), float)
    return apply_orientation(array, ornt), affine @ inv_ornt_aff(ornt, array.shape)


def centres_mm(array_xyz: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """World centre of each of the three shapes."""
    return np.array([(affine @ [*np.argwhere(array_xyz == value).mean(axis=0), 1])[:3] for value in (1, 2, 3)])


@pytest.mark.parametrize("oblique", [(0, 0, 0), (0, 0, 12), (17, -9, 30), (-40, 3, 5)])
@pytest.mark.parametrize(("axes", "signs"), SIGNED_PERMUTATIONS)
def test_48_ways_to_store_a_patient_are_one_patient(tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...], oblique: Any) -> None:
    array, affine = patient(oblique)
    stored, stored_affine = stored_as(array, affine, axes, signs)
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(stored, stored_affine), path)

    image = read_image(path)
    orientation = orientation_of(image.geometry)
    turned = orient(image.voxels_czyx[0], orientation)
    assert np.array_equal(turned, array.T), "canonical arrays are equal"
    canonical = orient_geometry(image.geometry, orientation)
    np.testing.assert_allclose(canonical.affine_ras, affine, atol=1e-4)
    assert orientation_of(canonical).code == "RAS"

    mask = restore(turned, orientation)
    assert np.array_equal(mask, image.voxels_czyx[0])
    write_mask(tmp_path / "mask.nii", mask, image.header)
    header_in, header_out = nib.load(path).header.binaryblock, (tmp_path / "mask.nii").read_bytes()
    for start, stop in ((76, 108), (123, 124), (252, 328)):
        assert header_in[start:stop] == header_out[start:stop], "geometry bytes are equal"
    by_nibabel, by_sitk = nib.load(tmp_path / "mask.nii"), sitk.ReadImage(str(tmp_path / "mask.nii"))
    expected = centres_mm(array, affine)
    np.testing.assert_allclose(centres_mm(np.asarray(by_nibabel.dataobj), by_nibabel.affine), expected, atol=1e-3)
    np.testing.assert_allclose(centres_mm(sitk.GetArrayFromImage(by_sitk).T, LPS @ affine_of(by_sitk)), expected, atol=1e-3)


def affine_of(image: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def test_a_flipped_array_under_the_same_header_is_another_patient(tmp_path: Path) -> None:
    """Guards the tests above against a phantom so symmetric that everything passes."""
    array, affine = patient((5, 6, 7))
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(array[::-1], affine), tmp_path / "b.nii")
    a, b = (read_image(tmp_path / name) for name in ("a.nii", "b.nii"))
    assert a.geometry == b.geometry
    assert not np.array_equal(a.voxels_czyx, b.voxels_czyx)
    right = [centres_mm(one.voxels_czyx[0].T, one.geometry.affine_ras)[0] @ affine[:3, 0] for one in (a, b)]
    assert right[0] > 0 > right[1]


def test_noise_at_45_degrees_does_not_choose_the_axes() -> None:
    for axis in range(3):
        codes = set()
        for noise in (-1e-6, -1e-9, 0.0, 1e-9, 1e-6):
            angles = [0.0, 0.0, 0.0]
            angles[axis] = 45.0 + np.degrees(noise)
            affine = np.eye(4)
            affine[:3, :3] = rotation((angles[0], angles[1], angles[2]))
            codes.add(orientation_of(geometry_from_affine((4, 5, 6), affine)))
        assert len(codes) == 1


finite = st.floats(-300, 300)
affines = st.builds(
    lambda angles, spacing, flip, origin: np.block(
        [[rotation(angles) * np.array(spacing) * np.array([flip, 1, 1]), np.array(origin)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]
    ),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.sampled_from([1, -1]),
    st.tuples(finite, finite, finite),
)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=60)
@given(
    affine=affines,
    shape=shapes,
    dtype=st.sampled_from(["u1", "i2", "f4"]),
    suffix=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
    seed=st.integers(0, 99),
)
def test_what_is_written_reads_the_same_here_in_nibabel_and_in_simpleitk(
    tmp_path_factory: pytest.TempPathFactory, affine: NDArray[np.float64], shape: tuple[int, int, int], dtype: str, suffix: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("written")
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    geometry = geometry_from_affine((shape[0], shape[1], shape[2]), affine)
    path = folder / f"case{suffix}"
    write_image(path, voxels[None], geometry)

    back = read_image(path)
    assert back.voxels_czyx.dtype == voxels.dtype
    assert np.array_equal(back.voxels_czyx[0], voxels)
    assert (
        back.geometry.corner_distance_mm(geometry) < 1e-3
        if suffix.startswith(".nii")
        else back.geometry.corner_distance_mm(geometry) < 1e-9
    )
    by_sitk = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(by_sitk), voxels)
    index = np.array([(x, y, z) for x in (0, shape[2] - 1) for y in (0, shape[1] - 1) for z in (0, shape[0] - 1)])
    theirs = np.array([by_sitk.TransformIndexToPhysicalPoint([int(i) for i in one]) for one in index]) * [-1, -1, 1]
    np.testing.assert_allclose(geometry.world_mm(index), theirs, atol=1e-3)
    np.testing.assert_allclose(back.geometry.world_mm(index), theirs, atol=1e-3)
    if suffix.startswith(".nii"):
        by_nibabel = nib.load(path)
        assert np.array_equal(np.asarray(by_nibabel.dataobj).T, voxels)
        np.testing.assert_allclose(by_nibabel.affine, affine, atol=1e-3)
        np.testing.assert_allclose(by_nibabel.get_qform(), by_nibabel.get_sform(), atol=1e-3)


@settings(max_examples=40)
@given(affine=affines, shape=shapes, suffix=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd", ".gipl"]))
def test_a_mask_has_the_geometry_of_its_image_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, affine: NDArray[np.float64], shape: tuple[int, int, int], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16))
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    path, mask_path = folder / f"case{suffix}", folder / f"mask{suffix}"
    sitk.WriteImage(image, str(path))
    read = read_image(path)
    write_mask(mask_path, (np.arange(np.prod(shape)).reshape(shape) % 3).astype(np.int64), read.header)
    assert read_header(mask_path).geometry == read.geometry
    assert read_header(mask_path).header.stored == read.header.stored
    theirs_in, theirs_out = sitk.ReadImage(str(path)), sitk.ReadImage(str(mask_path))
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(theirs_in, get)() == getattr(theirs_out, get)()


@settings(max_examples=60)
@given(affine=affines, shape=shapes)
def test_orienting_and_restoring_is_the_identity(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> None:
    geometry = geometry_from_affine((shape[0], shape[1], shape[2]), affine)
    orientation = orientation_of(geometry)
    array = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    turned = orient(array, orientation)
    assert np.shares_memory(turned, array)
    assert np.array_equal(restore(turned, orientation), array)
    canonical = orient_geometry(geometry, orientation)
    assert canonical.shape_zyx == turned.shape[1:]
    assert orientation_of(canonical).axes_zyx == (0, 1, 2)
    assert not any(orientation_of(canonical).flips_zyx)
    position = np.unravel_index(int(array[0].argmax()), shape)
    moved = np.unravel_index(int(turned[0].argmax()), turned.shape[1:])
    np.testing.assert_allclose(geometry.world_mm(np.array(position[::-1])), canonical.world_mm(np.array(moved[::-1])), atol=1e-9)
    assert sorted(geometry.spacing_zyx_mm) == sorted(canonical.spacing_zyx_mm), "no arithmetic on spacings"


@settings(max_examples=25)
@given(affine=affines)
def test_moving_the_patient_changes_no_voxel_and_the_same_scan_in_other_units_no_millimetre(
    tmp_path_factory: pytest.TempPathFactory, affine: NDArray[np.float64]
) -> None:
    folder = tmp_path_factory.mktemp("units")
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    images: dict[str, Image] = {}
    for unit, factor in (("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)):
        scaled = affine.copy()
        scaled[:3] *= factor
        one = nib.Nifti1Image(array, scaled)
        one.header.set_xyzt_units(unit)
        nib.save(one, folder / f"{unit}.nii")
        images[unit] = read_image(folder / f"{unit}.nii")
    for image in images.values():
        assert np.array_equal(image.voxels_czyx[0], array.T)
        assert image.geometry.corner_distance_mm(images["mm"].geometry) < 1e-3


@settings(max_examples=25)
@given(slope=st.floats(0.001, 100), intercept=st.floats(-2000, 2000), seed=st.integers(0, 99))
def test_scaled_integers_are_the_floats_they_stand_for(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("scaled")
    stored = np.random.default_rng(seed).integers(-3000, 3000, (3, 4, 5)).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, folder / "case.nii.gz")
    np.testing.assert_allclose(
        read_image(folder / "case.nii.gz").voxels_czyx[0].T, nib.load(folder / "case.nii.gz").get_fdata(), rtol=1e-6, atol=1e-4
    )


def test_the_same_image_in_every_container_holds_the_same_bits(tmp_path: Path) -> None:
    array, affine = patient((10, 20, 30))
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "one.nii")
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "packed.nii.gz")
    nib.save(nib.Nifti2Image(array, affine), tmp_path / "two.nii")
    nib.save(nib.Nifti1Pair(array, affine), tmp_path / "pair.img")
    nib.save(nib.Nifti1Image(array, affine, header=nib.Nifti1Header(endianness=">"), dtype=">i2"), tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(array, affine, header=nib.Nifti2Header(endianness=">"), dtype=">i2"), tmp_path / "big2.nii.gz")
    for name in ("one.nii", "packed.nii.gz", "two.nii", "pair.hdr", "big.nii", "big2.nii.gz"):
        image = read_image(tmp_path / name)
        assert np.array_equal(image.voxels_czyx[0], array.T), name
        np.testing.assert_allclose(image.geometry.affine_ras, affine, atol=1e-4)
        write_mask(tmp_path / f"mask{image.header.suffix}", image.voxels_czyx[0], image.header)
        back = nib.load(tmp_path / f"mask{image.header.suffix}")
        assert np.array_equal(np.asarray(back.dataobj), array), name
        assert np.array_equal(back.affine, nib.load(tmp_path / name).affine), name


def test_corners_see_the_thickness_of_a_single_slice() -> None:
    thin, thick = (
        Geometry(shape_zyx=(1, 5, 5), spacing_zyx_mm=(mm, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT) for mm in (1.0, 5.0)
    )
    assert thin.corner_distance_mm(thick) == pytest.approx(2.0)
