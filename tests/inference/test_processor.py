"""Networks as a processor runs them say what they say in plain torch, whatever they are made of."""

from dataclasses import replace

import numpy as np
import pytest

from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings
from tests.tiny_models import architecture, configuration, frame_of, member, network_of, plan_of, smooth


@pytest.mark.parametrize("features", [(4, 8, 8), (16, 32, 32)], ids=["narrow", "wide"])  # wide maps have their channels last
@pytest.mark.parametrize("patch", [(8, 16, 16), (1, 16, 24)], ids=["3D", "2D"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_network_in_bfloat16_stays_near_float32_with_shortcuts_and_without(kind, patch, features):
    chosen = configuration(patch, architecture=architecture(2 if patch[0] == 1 else 3, features, kind=kind))
    plan = plan_of(chosen)
    members, image, frame = [member(network_of(plan, chosen.name), chosen)], smooth((1, *patch), 1), frame_of(patch, patch)
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    plain, lower = (
        predict_prepared(members, image, frame, plan, replace(settings, precision=precision), threads=1).probabilities_kzyx
        for precision in ("float32", "bfloat16")
    )
    assert plain is not None
    assert lower is not None
    assert plain.std() > 0.05
    np.testing.assert_allclose(lower, plain, atol=0.02)
