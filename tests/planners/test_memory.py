"""The closed form of memory, against traces of real training steps and against what must be."""

import json
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest

from planners.memory import Load, inference_bytes, training_bytes
from planners.networks_of import architecture_of
from planners.parameters import parameters, step_flops
from planners.reference_size import Blueprint
from planners.strict_json import from_plain
from planners.topology import topology

TRACES = Path(__file__).parents[1] / "golden" / "memory_traces.json"


def traced() -> list[Any]:
    entries = [(from_plain(Load, {**entry["load"], "cpu": True}, "trace"), entry) for entry in json.loads(TRACES.read_text())]
    return [
        pytest.param(load, entry, id=f"{'x'.join(map(str, load.patch_zyx))}-{load.architecture.kind}-{load.heads}-{number}")
        for number, (load, entry) in enumerate(entries)
    ]


@pytest.mark.parametrize(("load", "entry"), traced())
def test_the_closed_form_is_within_a_tenth_of_the_traced_step(load: Load, entry: dict[str, Any]) -> None:
    assert training_bytes(load) == pytest.approx(entry["training_bytes"], rel=0.1)
    assert inference_bytes(load) == pytest.approx(entry["inference_bytes"], rel=0.1)


def test_enough_kinds_of_steps_were_traced() -> None:
    loads = [param.values[0] for param in traced()]
    assert len(loads) >= 30
    assert {load.architecture.kind for load in loads} == {"plain", "residual"}
    assert {load.architecture.dimensions for load in loads} == {2, 3}
    assert {load.precision for load in loads} == {"float32", "bfloat16", "float16"}
    assert {load.architecture.checkpointed_stages for load in loads} == {0, 1, 2}
    assert min(load.heads for load in loads) <= 2
    assert max(load.heads for load in loads) >= 121


def load(**more: Any) -> Load:
    architecture = architecture_of(topology((1.0,) * 3, (64, 64, 64)), Blueprint("plain", 2))
    return replace(Load(architecture=architecture, patch_zyx=(64, 64, 64), channels=1, heads=2), **more)


def test_a_plain_network_has_the_published_number_of_weights() -> None:
    cube = topology((1.0,) * 3, (128, 128, 128))
    assert parameters(architecture_of(cube, Blueprint("plain", 3)), 1, 3) == pytest.approx(31.19e6, rel=1e-3)
    assert parameters(architecture_of(cube, Blueprint("residual", 3)), 1, 3) == pytest.approx(102.32e6, rel=1e-3)


def test_a_step_costs_the_published_operations_a_voxel() -> None:
    cube = topology((1.0,) * 3, (128, 128, 128))
    plain, residual = (
        step_flops(architecture_of(cube, Blueprint(k, 3)), cube.patch, 1, 3) / prod(cube.patch) for k in ("plain", "residual")
    )
    assert plain == pytest.approx(1.364e6, rel=0.02)
    assert residual == pytest.approx(2.051e6, rel=0.02)


def test_more_of_anything_takes_more_memory() -> None:
    for name, values in (
        ("micro_batch", (1, 2, 8)),
        ("channels", (1, 4, 16)),
        ("heads", (2, 30, 200)),
        ("precision", ("bfloat16", "float32")),
        ("average", (False, True)),
        ("moments", (1, 2)),
    ):
        sizes = [training_bytes(load(**{name: value})) for value in values]
        assert all(less < more for less, more in pairwise(sizes)), name


def test_stages_that_are_computed_again_save_a_quarter_and_more_of_the_memory() -> None:
    one = load(micro_batch=16)
    again = replace(one, architecture=replace(one.architecture, checkpointed_stages=2))
    assert training_bytes(again) < 0.75 * training_bytes(one)


def test_many_regions_cost_the_memory_of_their_sigmoids() -> None:
    softmax, sigmoids = training_bytes(load(heads=60)), training_bytes(load(heads=60, regions=True))
    assert sigmoids - softmax > 2 * 64**3 * 60 * 10  # at least scores, truth and products of each region in float32
