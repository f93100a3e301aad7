"""Prediction on a device that is none (`pytest --far`; tests/test_far.py asks for it): what travels, and who waits for whom."""

import sys

import numpy as np
import pytest
import torch

from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings
from planners.plan import Inference
from tests.tiny_models import configuration, frame_of, member, network_of, plan_of, smooth

pytestmark = pytest.mark.skipif("tests.far_device" not in sys.modules, reason="only with --far")


def asked_for(classes, chosen, shape=(40, 64, 64), native=(60, 80, 80), **settings):
    from tests.far_device import counted

    plan = plan_of(chosen, classes=classes)
    made = InferenceSettings.of(chosen, **settings)
    network = member(network_of(plan, chosen.name), chosen)
    counted.clear()
    found = predict_prepared([network], smooth((1, *shape), 0), frame_of(shape, native), plan, made)
    return found, dict(counted)


@pytest.mark.parametrize("classes", [4, 60])
def test_the_device_is_waited_for_once_for_some_rows_and_gets_each_tile_once(classes):
    from autounet.inference import predict as module

    chosen = configuration((16, 32, 32), inference=Inference(mirror_axes=(0, 1, 2)))
    rows, columns = 4, 3  # of tiles
    for in_flight, batches in ((8, rows * columns * columns), (10**6, 1)):
        module.GPU_VOXELS_IN_FLIGHT, before = in_flight * 16 * 32 * 32, module.GPU_VOXELS_IN_FLIGHT
        try:
            found, asked = asked_for(classes, chosen)
        finally:
            module.GPU_VOXELS_IN_FLIGHT = before
        assert found.label_zyx.shape == (60, 80, 80)
        assert len(np.unique(found.label_zyx)) > 1
        assert asked["wait"] <= rows
        # Beside tiles and the weights of three axes, a few matrices and blocks of labels: 60 planes are decided some at a time.
        assert asked["copy"] <= batches + rows + 2 * columns + 20


def test_what_is_not_finite_is_found_before_a_row_is_written():
    chosen = configuration((16, 32, 32))
    plan = plan_of(chosen, classes=3)
    network = network_of(plan, chosen.name)
    with torch.no_grad():
        next(network.parameters())[:] = float("nan")
    from planners.errors import UserError

    with pytest.raises(UserError, match="not finite"):
        predict_prepared([member(network, chosen)], smooth((1, 40, 64, 64), 0), frame_of((40, 64, 64), (40, 64, 64)), plan)
