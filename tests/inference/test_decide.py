from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from autounet.arrays.resample import axis_resize
from autounet.arrays.spline import axis_matrix
from autounet.inference.decide import BlockDecision, HeadArrays, candidates
from autounet.inference.grids import axis_blocks, block_edges
from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings
from autounet.inference.votes_to_labels import Decision, first_of_the_largest
from tests.tiny_models import configuration, frame_of, member, network_of, plan_of, smooth

CPU = torch.device("cpu")


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 60, 255, 256, 300]))
def test_the_largest_wins_and_of_equals_the_first(seed, heads):
    values = np.random.default_rng(seed).integers(-3, 3, (heads, 4, 5)).astype(np.float32)
    assert_array_equal(first_of_the_largest(values, range(heads)), values.argmax(0))
    numbers = list(range(7, 7 + 3 * heads, 3))
    assert_array_equal(first_of_the_largest(values, numbers), np.array(numbers)[values.argmax(0)])


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_who_is_left_out_wins_nowhere_between_the_voxels(seed, softmax):
    rng = np.random.default_rng(seed)
    support = (rng.normal(size=(8, 1, 3, 3)) + rng.normal(scale=3, size=(8, 1, 1, 1))).astype(np.float32)
    kept = candidates(support, softmax)
    shares = rng.dirichlet(np.ones(9), 500)  # any point between them
    between = shares @ support.reshape(8, 9).T.astype(np.float64)
    winners = np.unique(between.argmax(1)) if softmax else np.flatnonzero((between > 0).any(0))
    assert set(winners) <= set(range(8) if kept is None else kept)


@pytest.mark.parametrize("heads", [3, 20])
@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("spread", [0.0, 5.0])  # classes that are near each other, and classes of which most win nowhere
def test_a_block_is_decided_as_if_all_logits_were_interpolated(heads, convex, spread):
    rng = np.random.default_rng(4)
    y, x = axis_resize(1, 20, 33, 1), axis_resize(2, 18, 30, 1)
    sums = smooth((4, 3, 20, 18), 5)
    weight = rng.normal(size=(heads, 4)).astype(np.float32)
    bias = (spread * rng.normal(size=heads)).astype(np.float32)
    ((of_y, of_x),) = [(a, b) for a in axis_blocks(y, 64, CPU) for b in axis_blocks(x, 64, CPU)]
    found = BlockDecision(Decision(heads), HeadArrays(weight, bias), convex).label(sums[:, :, of_y.into, of_x.into], of_y, of_x)
    logits = np.einsum("km,mnyx->knyx", weight.astype(float), sums) + bias[:, None, None, None]
    whole = np.einsum("by,cx,knyx->knbc", axis_matrix(20, 33, 1), axis_matrix(18, 30, 1), logits)
    best = np.sort(whole, 0)
    sure = best[-1] - best[-2] > 1e-4
    assert_array_equal(np.broadcast_to(found, sure.shape)[sure], whole.argmax(0)[sure])


def test_blocks_end_at_the_same_native_voxels_whatever_grid_they_come_from():
    grids = [axis_resize(1, size, 500, order) for size, order in ((500, 1), (123, 1), (700, 1), (90, 0))]
    ends = [[block.out.stop for block in axis_blocks(resize, 64, CPU)] for resize in grids]
    assert all(one == ends[0] for one in ends)
    assert ends[0][-1] == 500


def test_long_rows_of_a_slide_are_one_block():
    row, column = axis_resize(0, 1, 1, 1), axis_resize(1, 20_000, 20_000, 1)
    assert block_edges([(row, column)]) == (64, 4096)
    assert block_edges([(axis_resize(0, 300, 512, 1), axis_resize(1, 300, 512, 1))]) == (64, 64)


def test_maps_before_the_last_layer_give_the_labels_of_its_logits():
    """60 classes after 4 maps: accumulated as maps, decided as logits."""
    chosen = configuration((8, 16, 16))
    plan = plan_of(chosen, classes=60)
    network = network_of(plan, chosen.name)
    image, frame = smooth((1, 20, 40, 37), 6), frame_of((20, 40, 37), (13, 62, 60))
    settings = InferenceSettings.of(chosen)
    late = predict_prepared([member(network, chosen)], image, frame, plan, settings).label_zyx
    # Asking for probabilities takes the way over torch and all logits.
    whole = predict_prepared([member(network, chosen)], image, frame, plan, replace(settings, probabilities=True))
    best = np.sort(whole.probabilities_kzyx, 0)
    sure = best[-1] - best[-2] > 1e-5
    assert sure.mean() > 0.9
    assert_array_equal(late[sure], whole.probabilities_kzyx.argmax(0)[sure])
    assert len(np.unique(late)) > 5
