import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from autounet.arrays.prepare import CaseOnGrid, prepare_arrays
from autounet.arrays.threads import single_blas_thread
from autounet.data.prepared import (
    DAMAGED,
    IMAGE,
    LABEL,
    DamageError,
    PreparedCase,
    PreparedTable,
    chunk_shape,
    grain_of,
    open_prepared,
    table_path,
    write_prepared,
)
from autounet.data.prepared_key import plan_key
from autounet.images.geometry import STRAIGHT, Geometry
from autounet.store.cache import Cache
from autounet.store.strict import write_value
from planners.errors import UserError
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan

GRAIN = (16, 16, 16)


@pytest.fixture(scope="module")
def plan():
    architecture = Architecture(
        kind="plain",
        dimensions=3,
        features=(8,),
        strides_zyx=((1, 1, 1),),
        kernels_zyx=((3, 3, 3),),
        encoder_blocks=(2,),
        decoder_convolutions=(),
    )
    configuration = Configuration(
        name="fine",
        spacing_zyx_mm=(0.8, 0.9, 1.1),
        median_shape_zyx=(16, 16, 16),
        patch_zyx=GRAIN,
        batch_size=2,
        architecture=architecture,
        augmentation=Augmentation(steps=()),
    )
    return Plan(
        planner="test",
        dataset="test",
        dimensions=3,
        channels=tuple(ChannelPlan(name=n, modality="mr", scheme="zscore") for n in "ab"),
        labels=Labels(classes=tuple(LabelClass(name=str(v), value=v) for v in range(4))),
        configurations=(configuration,),
        train=("fine",),
    )


@pytest.fixture(scope="module")
def voxels():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 30, 35, 40)).astype(np.float32)
    label = np.zeros((30, 35, 40), np.int64)
    label[5:20, 10:25, 8:30] = 1
    label[22:25, 3:6, 3:6] = label[10:12, 12:14, 10:12] = 3
    return image, label, Geometry(shape_zyx=label.shape, spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)


@pytest.fixture
def folder(tmp_path, plan, voxels):
    write(tmp_path / "case", plan, voxels)
    return tmp_path / "case"


def write(folder, plan, voxels, *, threads=1, label=True):
    image, truth, geometry = voxels
    folder.mkdir(parents=True, exist_ok=True)
    with single_blas_thread(), ThreadPoolExecutor(threads) as pool:
        case = CaseOnGrid(image, truth if label else None, geometry, plan, plan.configurations[0])
        write_prepared(folder, case, grain_of(plan.configurations[0].patch_zyx), np.random.default_rng(7), pool=pool, threads=threads)


def test_what_is_read_is_what_was_prepared(folder, plan, voxels):
    expected = prepare_arrays(*voxels, plan, plan.configurations[0])
    case = PreparedCase("x", folder)
    image, label = case.read_all()
    np.testing.assert_allclose(image, expected.image_czyx, atol=2e-6)
    assert_array_equal(label, expected.label_zyx)
    assert image.dtype == np.float32
    assert label.dtype == np.int8
    assert (case.frame, case.shape_zyx, case.channels) == (expected.frame, expected.frame.shape_zyx, 2)


@given(st.data())
def test_a_box_is_the_same_piece_of_the_whole(tmp_path_factory, plan, voxels, data):
    folder = tmp_path_factory.getbasetemp() / "boxes"
    if not folder.exists():
        write(folder, plan, voxels)
    case = PreparedCase("x", folder)
    whole = case.read_all()
    starts = [data.draw(st.integers(0, size - 1)) for size in case.shape_zyx]
    box = tuple(slice(start, data.draw(st.integers(start + 1, size))) for start, size in zip(starts, case.shape_zyx, strict=True))
    image, label = case.read(box)
    assert_array_equal(image, whole[0][:, *box])
    assert_array_equal(label, whole[1][box])


def test_many_threads_read_at_once(folder):
    case = PreparedCase("x", folder)
    whole = PreparedCase("y", folder).read_all()[0]
    boxes = [tuple(slice(a, a + 9) for a in np.random.default_rng(i).integers(0, 20, 3)) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for box, (image, _) in zip(boxes, pool.map(case.read, boxes), strict=True):
            assert_array_equal(image, whole[:, *box])


def test_a_case_can_be_sent_to_another_process(folder):
    sent = pickle.loads(pickle.dumps(PreparedCase("x", folder)))
    assert sent.id == "x"
    assert_array_equal(sent.read_all()[1], PreparedCase("x", folder).read_all()[1])
    assert copy.copy(sent).shape_zyx == sent.shape_zyx


def test_a_case_without_label_has_none(tmp_path, plan, voxels):
    write(tmp_path / "bare", plan, voxels, label=False)
    case = PreparedCase("x", tmp_path / "bare")
    assert not case.labelled
    assert case.locations.classes_present == ()
    assert case.read_all()[1] is None


def test_locations_lie_in_their_class(folder):
    case, rng = PreparedCase("x", folder), np.random.default_rng(0)
    label = case.read_all()[1]
    assert case.locations.classes_present == (1, 3)
    assert case.locations.count(1) == (label == 1).sum()
    assert case.locations.components(3) == 2
    for value in (1, 3):
        assert {int(label[case.locations.draw(value, rng)]) for _ in range(40)} == {value}


@pytest.mark.parametrize("name", [IMAGE, LABEL])
def test_every_flipped_bit_is_found(folder, name):
    """In a chunk, or in the frame around them: there it could change shape or type unnoticed, or crash the reader."""
    data = (folder / name).read_bytes()
    for at in {*range(0, len(data), len(data) // 60), *range(0, 400, 9), *range(len(data) - 300, len(data), 7)}:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        (folder / name).write_bytes(damaged)
        with pytest.raises(DamageError, match="not what was written") as caught:
            PreparedCase("x", folder).read_all()
        assert "made anew" in caught.value.fix
        assert (folder / DAMAGED).exists()
    (folder / name).write_bytes(data)
    PreparedCase("x", folder).verify()


@pytest.mark.parametrize("name", ["case.json", "locations.npy"])
def test_a_flipped_bit_beside_the_arrays_is_found_too(folder, name):
    data = (folder / name).read_bytes()
    for at in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 7
        (folder / name).write_bytes(damaged)
        with pytest.raises(DamageError, match="not what was written"):
            PreparedCase("x", folder).verify()
    (folder / name).write_bytes(data)
    PreparedCase("x", folder).verify()


def test_a_damaged_chunk_spares_the_others(folder):
    case = PreparedCase("x", folder)
    data = bytearray((folder / IMAGE).read_bytes())
    data[len(data) * 9 // 10] ^= 1
    (folder / IMAGE).write_bytes(data)
    case.read((slice(0, 3), slice(0, 3), slice(0, 3)))
    with pytest.raises(DamageError, match=r"image\.b2nd"):
        case.verify()


def test_threads_write_the_same_bytes(tmp_path, plan, voxels):
    write(tmp_path / "one", plan, voxels, threads=1)
    write(tmp_path / "two", plan, voxels, threads=3)
    for name in (IMAGE, LABEL, "locations.npy", "case.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_chunks_follow_the_patch_and_stay_small():
    assert chunk_shape((500, 273, 273), grain_of((128, 128, 128))) == (72, 137, 137)
    assert chunk_shape((500, 273, 273), grain_of((112, 160, 128))) == (72, 137, 137)
    assert chunk_shape((36, 50, 35), grain_of((40, 56, 40))) == (36, 50, 35)
    assert chunk_shape((1, 20000, 20000), grain_of((1, 512, 512))) == (1, 513, 513)
    assert chunk_shape((900, 2000, 2000), grain_of((128, 128, 128))) == (8, 134, 134)  # slabs of 2000 x 2000 are heavy
    assert chunk_shape((300, 512, 512), grain_of((1, 512, 512))) == (1, 512, 512)


def test_cases_are_opened_by_name(tmp_path, plan, voxels):
    store = Cache(tmp_path / "cache")
    key = "0123456789abcdef"
    store.put(key, lambda made: write(made, plan, voxels))
    table = PreparedTable(
        configuration="fine", plan_key=plan_key(plan, plan.configurations[0]), cache="", cases=(("a", key), ("b", "ff" * 8))
    )
    write_value(table_path(tmp_path, "fine"), table)
    assert open_prepared(tmp_path, plan, "fine", ["a"])["a"].id == "a"
    with pytest.raises(UserError, match="b: "):
        open_prepared(tmp_path, plan, "fine")
    with pytest.raises(UserError, match="c: "):
        open_prepared(tmp_path, plan, "fine", ["c"])


def test_another_plan_is_noticed(tmp_path, plan):
    write_value(table_path(tmp_path, "fine"), PreparedTable(configuration="fine", plan_key="old", cache="", cases=()))
    with pytest.raises(UserError, match="another plan"):
        open_prepared(tmp_path, plan, "fine")


def test_nothing_prepared_says_what_to_type(tmp_path, plan):
    with pytest.raises(UserError, match="autounet prepare"):
        open_prepared(tmp_path, plan, "fine")
