"""How long a case takes is foreseen from a tile that was timed, before any case told."""

import time
from dataclasses import replace

import pytest
import torch

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.inference.ensemble import Ensemble, Options
from autounet.inference.outlook import Outlook, outlook
from autounet.inference.pace import CASE_SECONDS, VOXEL_SECONDS, Pace, half_patch, timed_rate
from autounet.store.selection import Chosen
from planners.parameters import step_flops
from tests.tiny_models import architecture, configuration, member, network_of, plan_of

SECONDS_A_VOXEL = 1e-5


class Slow(torch.nn.Module):
    """Takes its time, in proportion to the voxels; says what it is shown, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(image.shape))
        time.sleep(SECONDS_A_VOXEL * image.shape[2:].numel())
        return image.expand(-1, 3, *image.shape[2:])


def slow_ensemble(folds=1):
    chosen = configuration((16, 32, 32), architecture=architecture(3, (4, 8)))
    slow = Slow()
    return Ensemble(plan_of(chosen), {chosen.name: [member(slow, chosen)] * folds}, [Chosen(configuration=chosen.name, folds=(0,))]), slow


def grid(shape):
    return Geometry(shape_zyx=shape, spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0, 0), direction=STRAIGHT)


@pytest.mark.processor
def test_the_first_case_is_foreseen_from_a_tile_of_noise():
    ensemble, slow = slow_ensemble(folds=2)
    options = Options(threads=1)
    case = outlook(ensemble, grid((24, 32, 48)), options, voxel_bytes=10**6, base_bytes=0, limit_bytes=10**10)
    pace = Pace(ensemble, options)
    assert slow.shown == [], "nothing is computed before somebody asks"
    tiles, mirrors, folds = 2 * 1 * 2, 8, 2
    expected = tiles * mirrors * folds * 16 * 32 * 32 * SECONDS_A_VOXEL  # ten seconds
    assert 0.9 * expected < pace.seconds(case, 1) < 3 * expected  # sleeping may take longer, never shorter
    asked = len(slow.shown)
    assert set(slow.shown) == {(1, 1, 8, 16, 16)}
    assert pace.seconds(case, 2) < 0.6 * pace.seconds(case, 1), "on two threads two tiles are computed at once"
    assert len(slow.shown) == asked, "a tile is timed once"


def test_what_cases_took_is_believed_more_than_the_tile():
    ensemble, _ = slow_ensemble()
    pace, case = Pace(ensemble, Options()), Outlook(10**9, 10, 1e9, asked=10, voxels=10**6, heaviest="3d_fullres")
    first = pace.seconds(case, 1)
    pace.learn(case, 1, 50.0)
    assert pace.seconds(case, 1) == pytest.approx(50.0)
    assert first != pytest.approx(50.0)
    pace.learn(case, 1, 70.0)
    assert pace.seconds(case, 1) == pytest.approx(60.0)
    assert pace.seconds(replace(case, operations=2e9, voxels=2 * 10**6), 1) == pytest.approx(120.0, rel=0.1)


def test_a_case_of_little_network_still_has_to_be_prepared_and_written():
    ensemble, _ = slow_ensemble()
    nothing = Outlook(10**9, 1, 0.0, voxels=10**8, heaviest="3d_fullres")
    assert Pace(ensemble, Options()).seconds(nothing, 2) == pytest.approx(CASE_SECONDS + VOXEL_SECONDS * 10**8 / 2)


def test_a_rate_is_that_of_the_small_tile_and_not_of_a_whole_one():
    ensemble, _ = slow_ensemble()
    plan = ensemble.plan
    once = step_flops(plan.configurations[0].architecture, (8, 16, 16), 1, 3) / 3
    rate = timed_rate(ensemble, "3d_fullres", Options())
    assert once / (8 * 16 * 16 * SECONDS_A_VOXEL) / 3 < rate <= once / (8 * 16 * 16 * SECONDS_A_VOXEL)


@pytest.mark.parametrize(
    ("patch", "stages", "half"),
    [
        ((40, 56, 40), 4, (24, 32, 24)),
        ((64, 96, 96), 5, (32, 48, 48)),
        ((16, 32, 32), 4, (16, 16, 16)),  # two voxels at the lowest stage are not halved
        ((1, 64, 80), 4, (1, 32, 40)),
    ],
)
def test_half_a_patch_is_one_that_the_network_can_be_shown(patch, stages, half):
    chosen = configuration(patch, name="x", architecture=architecture(2 if patch[0] == 1 else 3, (2,) * stages))
    assert half_patch(chosen) == half
    plan = plan_of(chosen)
    ensemble = Ensemble(plan, {"x": [member(network_of(plan, "x"), chosen)]}, [Chosen(configuration="x", folds=(0,))])
    assert timed_rate(ensemble, "x", Options()) > 0
