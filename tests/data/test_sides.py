import numpy as np
import pytest

from autounet.data.record import CaseRecord
from autounet.data.shapes import ClassShape
from autounet.data.sides import side_pairs
from planners.labels import LabelClass, Labels


def labels(*names: str) -> Labels:
    return Labels(classes=(LabelClass(name="background", value=0), *(LabelClass(name=n, value=v) for v, n in enumerate(names, 1))))


def record(*centres: tuple[float, float, float], volumes: tuple[int, ...] | None = None, seed: int = 0, turned: bool = False) -> CaseRecord:
    """A case whose classes lie at these centres (x right, y front, z up), with some noise."""
    rng = np.random.default_rng(seed)
    shapes = tuple(
        ClassShape(
            value=value,
            voxels=(volumes or (1000,) * len(centres))[value - 1],
            components=1,
            smallest_component_voxels=1000,
            extent_zyx_mm=(20.0, 20.0, 20.0),
            elongation=1.2,
            centre_xyz_mm=tuple(np.array(c) + rng.normal(0, 1, 3)),  # type: ignore[arg-type]
            spread_mm=8.0,
        )
        for value, c in enumerate(centres, 1)
    )
    return CaseRecord(
        shape_zyx=(10, 10, 10),
        spacing_zyx_mm=(1, 1, 1),
        orientation="2D" if turned else "RAS",
        canonical_shape_zyx=(10, 10, 10),
        canonical_spacing_zyx_mm=(1, 1, 1),
        stored_axes=(0, 1, 2),
        relative_size=1.0,
        shapes=shapes,
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("kidney_left", "kidney_right"),
        ("Left Lung", "Right Lung"),
        ("L_hippocampus", "R_hippocampus"),
        ("hippocampus-lh", "hippocampus-rh"),
        ("LeftKidney", "RightKidney"),
        ("rib_left_3", "rib_right_3"),
        ("Niere links", "Niere rechts"),
        ("Lt Lung", "Rt Lung"),
    ],
)
def test_b110_sides_are_found_by_their_names(left: str, right: str) -> None:
    (pair,) = side_pairs(labels("spine", right, left), [])
    assert (pair.left, pair.right, pair.found_by, pair.axis) == (left, right, "name", 2)


@pytest.mark.parametrize("names", [("vertebrae_L1", "vertebrae_R1x"), ("right_atrium", "left_lung"), ("bright", "leftover"), ("l", "a")])
def test_names_that_only_look_like_sides_are_none(names: tuple[str, str]) -> None:
    assert side_pairs(labels(*names), []) == ()


def test_lumbar_vertebrae_are_no_left_sides() -> None:
    assert side_pairs(labels(*(f"vertebrae_L{n}" for n in range(1, 6))), []) == ()


def test_mirrored_organs_without_names_are_found_by_symmetry() -> None:
    cases = [record((0, 0, 0), (45, 10, 5), (-45, 12, 4), seed=s) for s in range(6)]
    (pair,) = side_pairs(labels("class_1", "class_2", "class_3"), cases)
    assert (pair.left, pair.right, pair.found_by) == ("class_3", "class_2", "symmetry")


def test_both_ways_agree() -> None:
    cases = [record((45, 10, 5), (-45, 12, 4), seed=s) for s in range(6)]
    (pair,) = side_pairs(labels("kidney_right", "kidney_left"), cases)
    assert (pair.left, pair.right, pair.found_by) == ("kidney_left", "kidney_right", "both")


def test_organs_side_by_side_of_other_sizes_or_heights_are_no_pair() -> None:
    sizes = [record((45, 10, 5), (-45, 12, 4), volumes=(1000, 4000), seed=s) for s in range(6)]
    heights = [record((20, 10, 5), (-20, 12, 60), seed=s) for s in range(6)]
    assert side_pairs(labels("a", "b"), sizes) == ()
    assert side_pairs(labels("a", "b"), heights) == ()


def test_two_cases_prove_no_symmetry() -> None:
    assert side_pairs(labels("a", "b"), [record((45, 0, 0), (-45, 0, 0), seed=s) for s in range(2)]) == ()


def test_lesions_that_are_now_left_now_right_are_no_pair() -> None:
    cases = [record((45, 0, 0), (-45, 0, 0), seed=s) if s % 2 else record((-45, 0, 0), (45, 0, 0), seed=s) for s in range(8)]
    assert side_pairs(labels("a", "b"), cases) == ()


def test_pictures_have_no_sides_by_symmetry() -> None:
    assert side_pairs(labels("a", "b"), [record((45, 0, 0), (-45, 0, 0), seed=s, turned=True) for s in range(5)]) == ()
