import numpy as np
import pytest

from autounet.data.dataset import ChannelSpec
from autounet.data.modality import guess
from autounet.data.names import are_patients, channel_modality, groups_by_name
from autounet.data.record import ChannelRecord
from autounet.data.sketch import sketch


def channel(values: np.ndarray) -> ChannelRecord:
    whole = bool((values == np.rint(values)).all())
    return ChannelRecord(voxels_digest="", whole_numbers=whole, everywhere=sketch(values), foreground=sketch(values[:0]))


def body(seed: int = 0, padding: int = -1000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [np.full(3000, padding), np.full(4000, -1000), rng.normal(-80, 30, 4000), rng.normal(40, 20, 9000), rng.normal(500, 300, 600)]
    return np.concatenate(parts).clip(-3024, 3000).astype(np.int16)


@pytest.mark.parametrize("padding", [-1000, -1024, -2000, -3024])
def test_hounsfield_units_are_a_ct_whatever_the_padding(padding: int) -> None:
    modality, confidence = guess(ChannelSpec(name="image"), [channel(body(s, padding)) for s in range(5)], 3)
    assert (modality, confidence > 0.9) == ("ct", True)


def test_a_ct_stored_as_whole_floats_is_a_ct() -> None:
    assert guess(ChannelSpec(name="image"), [channel(body().astype(np.float32))], 3)[0] == "ct"


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).gamma(3, 100, 20_000).astype(np.int16),  # a magnitude image
        np.random.default_rng(0).normal(0, 1, 20_000).astype(np.float32),  # standardised
        np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8),
        body().astype(np.float32) + 1024.5,
    ],
)
def test_what_is_no_ct_is_not_called_one(values: np.ndarray) -> None:
    assert guess(ChannelSpec(name="image"), [channel(values)] * 3, 3) == ("unknown", 0.0)


def test_the_user_is_right_and_a_name_is_believed_less_against_the_numbers() -> None:
    assert guess(ChannelSpec(name="x", modality="mr", said_by_user=True), [channel(body())], 3) == ("mr", 1.0)
    assert guess(ChannelSpec(name="t1", modality="mr"), [channel(body())], 3) == ("mr", 0.4)
    windowed = channel(np.random.default_rng(0).integers(0, 256, 9000).astype(np.uint8))
    assert guess(ChannelSpec(name="ct", modality="ct"), [windowed], 3) == ("ct", 0.5)
    assert guess(ChannelSpec(name="red", modality="rgb"), [windowed], 2) == ("rgb", 1.0)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("T1w", "mr"),
        ("flair", "mr"),
        ("CE_T1w", "mr"),
        ("CT", "ct"),
        ("SUV", "pet"),
        ("0000", "unknown"),
        ("noNorm", "unknown"),
        ("t1-gd", "mr"),
    ],
)
def test_names_of_channels_say_what_they_are(name: str, modality: str) -> None:
    assert channel_modality(name) == modality


@pytest.mark.parametrize(
    ("folders", "patients"),
    [
        ({"pat1", "pat2", "pat3"}, True),
        ({"patient_01", "patient_02"}, True),
        ({"s0001", "s0002"}, True),
        ({"siteA", "siteB"}, False),
        ({f"site_{n}" for n in range(12)}, False),
        ({"fold1", "fold2", "fold3", "fold4", "fold5"}, False),
        ({"london", "paris"}, False),
        ({f"{n:04x}" for n in range(20)}, True),
        ({"patient_01"}, False),
    ],
)
def test_folders_of_sites_are_no_patients(folders: set[str], patients: bool) -> None:
    assert are_patients(folders) is patients


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (("p01_t0", "p01_t1", "p02_t0"), 2),
        (("patient001_frame01", "patient001_frame12", "patient002_frame01"), 2),
        (("sub-a_ses-1", "sub-a_ses-2", "sub-b_ses-1"), 2),
        (("SC-HF-I-01-IM-0001-0034", "SC-HF-I-01-IM-0001-0044", "SC-N-02-IM-0001-0034"), 2),
        (("BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"), 2),
        (("knee7_left", "knee7_right", "knee8_left"), 2),
        (("vol_slice001", "vol_slice002", "wol_slice001"), 2),
        (("lung_001", "lung_002", "lung_003"), 3),
        (("case_00001", "case_00002"), 2),
        (("t1", "t2", "t2s"), 3),
        (("p1_a", "p1_b", "p1_c"), 3),  # one patient only would leave nothing to divide
    ],
)
def test_patients_in_names(ids: tuple[str, ...], groups: int) -> None:
    assert len(set(groups_by_name(ids)[0].values())) == groups
