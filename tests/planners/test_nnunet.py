"""The planners that repeat the reference, against what the reference's own code decided."""

import json
from pathlib import Path
from typing import Any

import pytest

from planners import PLANNERS
from planners.hardware import Budget
from planners.nnunet import plan_nnunet
from planners.normalisation import by_name
from planners.plan import Configuration, Plan
from planners.reference_size import Blueprint, feature_map_elements
from planners.topology import Topology, topology
from tests.planners.cases import GPU, alike, fingerprint, labels

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale",
    "RGBTo01Normalization": "rgb",
}


def recorded() -> list[Any]:
    entries = [entry for path in sorted(GOLDEN.glob("reference_*.json")) for entry in json.loads(path.read_text())]
    return [pytest.param(entry, id=f"{entry['input']['name']}-{entry['planner']}") for entry in entries]


@pytest.mark.parametrize("entry", recorded())
def test_a_plan_is_the_one_the_reference_wrote(entry: dict[str, Any]) -> None:
    given = entry["input"]
    repeat = given["cases"] // len(given["shapes"])
    seen = fingerprint(
        given["spacings"] * repeat,
        given["shapes"] * repeat,
        channels=given["channels"],
        table=labels(given["labels"]),
        relative=given["relative"],
    )
    plan = PLANNERS[entry["planner"]](seen, GPU, Budget())
    assert list(plan.axis_order) == entry["plan"]["transpose"]
    written = entry["plan"]["configurations"]
    assert {one.name for one in plan.configurations} == set(written)
    for one in plan.configurations:
        _same(plan, one, written[one.name])


def _same(plan: Plan, one: Configuration, written: dict[str, Any]) -> None:
    if "inherits_from" in written:
        assert one.previous == written["previous_stage"]
        full = plan.configuration(written["inherits_from"])
        assert (one.patch_zyx, one.batch_size, one.architecture) == (full.patch_zyx, full.batch_size, full.architecture)
        return
    axes = len(written["patch"])
    net = one.architecture
    assert list(one.patch_zyx[-axes:]) == written["patch"]
    assert one.batch_size == written["batch"]
    assert list(one.spacing_zyx_mm[-axes:]) == written["spacing"]  # to the last bit
    assert list(net.features) == written["features"]
    assert [list(s[-axes:]) for s in net.strides_zyx] == written["strides"]
    assert [list(k[-axes:]) for k in net.kernels_zyx] == written["kernels"]
    assert list(net.encoder_blocks) == written["blocks"]
    assert list(net.decoder_convolutions) == written["decoder"]
    assert one.loss.batch_dice == written["batch_dice"]
    assert list(one.median_shape_zyx[-axes:]) == [round(v) for v in written["median"]]
    assert [c.scheme for c in plan.channels] == [SCHEMES[name] for name in written["normalisation"]]
    assert [c.mask_outside for c in plan.channels] == written["masked"]


def test_enough_is_recorded_to_trust_the_repetition() -> None:
    names = {entry.values[0]["input"]["name"] for entry in recorded()}
    assert sum(name.startswith("random") for name in names) >= 40
    assert {"hippocampus_msd", "isbi2012_em", "sts_sarcoma_mr_t1"} <= names


def test_the_published_table_of_plans_is_reproduced() -> None:
    liver = plan_nnunet(alike(131, (1, 0.7676, 0.7676), (432, 512, 512), channels=("CT",), table=labels(3)), GPU, Budget())
    assert [(c.name, c.patch_zyx, c.batch_size) for c in liver.configurations] == [
        ("2d", (1, 512, 512), 12),
        ("3d_lowres", (128, 128, 128), 2),
        ("3d_fullres", (128, 128, 128), 2),
        ("3d_cascade_fullres", (128, 128, 128), 2),
    ]
    assert [round(mm, 3) for mm in liver.configuration("3d_lowres").spacing_zyx_mm] == [2.427, 1.863, 1.863]
    assert liver.configuration("3d_lowres").median_shape_zyx == (178, 211, 211)


def test_the_axis_that_is_stored_coarsest_comes_first() -> None:
    plan = plan_nnunet(alike(5, (0.5, 3.0, 0.5), (300, 20, 310)), GPU, Budget())
    assert plan.orientation == "stored"
    assert plan.axis_order == (1, 0, 2)
    assert plan.configuration("3d_fullres").patch_zyx[0] <= 32


@pytest.mark.parametrize(
    ("spacing", "size", "patch", "pools"),
    [
        ((3.6, 0.625, 0.625), (20, 320, 319), (20, 320, 320), (2, 6, 6)),
        ((2.5, 0.8, 0.8), (93, 512, 512), (96, 512, 512), (4, 7, 7)),
    ],
)
def test_a_coarse_axis_waits_and_the_patch_is_padded(
    spacing: tuple[float, ...], size: tuple[int, ...], patch: tuple[int, ...], pools: tuple[int, ...]
) -> None:
    found = topology(spacing, size)
    assert found.patch == patch
    assert found.divisor == tuple(2**p for p in pools)


def test_prostate_has_the_published_strides_and_kernels() -> None:
    found = topology((3.6, 0.625, 0.625), (20, 320, 319))
    assert ["".join(map(str, s)) for s in found.strides] == ["111", "122", "122", "222", "222", "122", "122"]
    assert ["".join(map(str, k)) for k in found.kernels][:3] == ["133", "133", "333"]


@pytest.mark.parametrize(("edge", "stages"), [(16, 3), (12, 2), (6, 1)])
def test_small_cubes_make_shallow_networks(edge: int, stages: int) -> None:
    assert topology((1.0,) * 3, (edge,) * 3).stages == stages


@pytest.mark.parametrize(
    ("kind", "size", "elements"),
    [
        ("plain", (128, 128, 128), 452_796_416),
        ("residual", (128, 128, 128), 557_420_544),
        ("plain", (512, 512), 82_886_656),
        ("residual", (512, 512), 129_703_936),
    ],
)
def test_the_closed_form_counts_what_the_reference_counts(kind: Any, size: tuple[int, ...], elements: int) -> None:
    found: Topology = topology((1.0,) * len(size), size)
    assert feature_map_elements(found, Blueprint(kind, 3)) == elements


@pytest.mark.parametrize(("name", "batches"), [("nnunet", (366, 9)), ("nnunet_resenc_m", (1618, 58)), ("nnunet_resenc_xl", (6711, 183))])
def test_absurd_batches_on_tiny_images_are_kept_here_and_only_here(name: str, batches: tuple[int, int]) -> None:
    tiny = alike(260, (1, 1, 1), (36, 50, 35), table=labels(3))
    plan = PLANNERS[name](tiny, GPU, Budget())
    assert tuple(one.batch_size for one in plan.configurations) == batches
    assert max(one.batch_size for one in PLANNERS["default"](tiny, GPU, Budget()).configurations) <= 32


def test_networks_of_two_stages_lose_their_loss_here_and_only_here() -> None:
    small = alike(10, (1, 1, 1), (12, 12, 12))
    assert plan_nnunet(small, GPU, Budget()).configuration("3d_fullres").loss.level_weights == (0.0,)
    for one in PLANNERS["default"](small, GPU, Budget()).configurations:
        assert sum(one.loss.level_weights) == pytest.approx(1)


def test_the_reference_believes_the_name_of_a_channel() -> None:
    (seen,) = alike(3, (1, 1, 1), (60, 60, 60), channels=("CT scan",), modality="ct").channels
    assert by_name(seen, 1.0).scheme == "zscore"


def test_less_memory_scales_the_reference_linearly() -> None:
    heart = alike(20, (1.37, 1.25, 1.25), (115, 320, 232))
    assert plan_nnunet(heart, GPU, Budget(memory_bytes=8 * 10**9)) == plan_nnunet(heart, GPU, Budget())
    smaller = plan_nnunet(heart, GPU, Budget(memory_bytes=4 * 10**9)).configuration("3d_fullres").patch_zyx
    assert feature_map_elements(topology((1.37, 1.25, 1.25), smaller), Blueprint("plain", 2)) <= 280e6
