import gc
import weakref
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from autounet.arrays.spline import axis_matrix
from autounet.images.geometry import Geometry
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.forward import AtOnce, Voters
from autounet.inference.predict import Panel, predict_panels, predict_prepared
from autounet.inference.settings import InferenceSettings
from autounet.inference.sweep import ArraySource, Sweep, is_air, sweep_order
from autounet.inference.tiles import gaussian, tile_axis, tile_starts
from autounet.inference.votes_to_labels import Decision
from autounet.store.selection import Chosen
from planners.errors import UserError
from tests.tiny_models import Identity, Recorder, configuration, frame_of, member, plan_of, regions, smooth

SHAPES = [
    ((16, 16, 16), (40, 33, 29)),  # larger than the patch
    ((16, 16, 16), (7, 20, 9)),  # smaller on two axes
    ((16, 16, 16), (16, 16, 16)),  # equal
    ((16, 16, 16), (17, 15, 16)),  # one more, one less
    ((8, 16, 16), (3, 5, 2)),  # smaller on all
    ((1, 16, 16), (5, 30, 31)),  # slices
    ((1, 16, 16), (1, 7, 61)),  # a flat picture
    ((8, 8, 8), (9, 90, 11)),  # longest along y, so it is swept along y
]


def resampled(logits_kzyx, native_zyx):
    """The whole volume at once, in float64."""
    z, y, x = (axis_matrix(a, b, 1) for a, b in zip(logits_kzyx.shape[1:], native_zyx, strict=True))
    return np.einsum("az,by,cx,kzyx->kabc", z, y, x, logits_kzyx.astype(np.float64), optimize=True)


def clear(logits_knzyx, margin=1e-4):
    """Voxels whose winner is no tie."""
    best = np.sort(logits_knzyx, axis=0)
    return best[-1] - best[-2] > margin


@pytest.mark.parametrize(("patch", "shape"), SHAPES)
def test_an_identity_network_returns_its_input_through_tiles_and_mirrors(patch, shape):
    chosen = configuration(patch)
    image = smooth((4, *shape), seed=1)
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    found = predict_prepared([member(Identity(), chosen)], image, frame_of(shape, shape), plan_of(chosen, classes=4), settings)
    expected = np.exp(image - image.max(0))
    assert_allclose(found.probabilities_kzyx, expected / expected.sum(0), atol=1e-5)
    assert_array_equal(found.label_zyx, image.argmax(0))


@pytest.mark.parametrize(("patch", "shape"), SHAPES)
@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_export_equals_resampling_everything_and_then_choosing(patch, shape, scale):
    native = tuple(max(1, round(n * scale)) if n > 1 else 1 for n in shape)
    chosen = configuration(patch)
    image = smooth((9, *shape), seed=2, sigma=1.0)
    found = predict_prepared([member(Identity(), chosen)], image, frame_of(shape, native), plan_of(chosen, classes=9)).label_zyx
    whole = resampled(image, native)
    sure = clear(whole)
    assert sure.mean() > 0.99
    assert_array_equal(found[sure], whole.argmax(0)[sure])


@pytest.mark.parametrize("native", [(9, 24, 26), (3, 45, 40), (1, 40, 50)])
def test_thick_slices_leave_out_more_rows_than_the_ring_holds(native):
    shape = (100, 48, 50)
    chosen = configuration((8, 8, 8))
    image = smooth((5, *shape), seed=5, sigma=3.0)
    found = predict_prepared([member(Identity(), chosen)], image, frame_of(shape, native), plan_of(chosen, classes=5)).label_zyx
    whole = resampled(image, native)
    sure = clear(whole, 1e-3)
    assert sure.mean() > 0.99
    assert_array_equal(found[sure], whole.argmax(0)[sure])


@pytest.mark.processor  # where it also computes the truth
def test_streaming_equals_the_whole_volume_to_a_hundred_thousandth():
    chosen = configuration((8, 16, 16))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 6, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv3d(6, 3, 3, padding=1))
    image = smooth((2, 37, 41, 33), seed=3)
    plan = plan_of(chosen, classes=3, channels=2)
    settings = InferenceSettings.of(chosen)
    sweep = Sweep(ArraySource(image), Voters([member(network, chosen)], settings, 4, 3), settings, Decision.of(plan.labels), (0, 1, 2))
    sweep.make_room(1)
    rows, done = [], 0
    for finished in sweep:
        rows += [piece.clone() for piece, _ in sweep.ring.rows(done, finished)]
        sweep.ring.release(finished)
        done = finished
    streamed = torch.cat(rows, 1).cpu().numpy()

    total, weights = np.zeros((3, 37, 41, 33)), np.zeros((37, 41, 33))
    curves = [gaussian(edge, 0.125) for edge in (8, 16, 16)]
    weight = np.einsum("z,y,x->zyx", *curves)
    starts = [tile_starts(n, p, 0.5) for n, p in zip((37, 41, 33), (8, 16, 16), strict=True)]
    for z, y, x in product(*starts):
        box = (slice(z, z + 8), slice(y, y + 16), slice(x, x + 16))
        tile = torch.from_numpy(image[(slice(None), *box)])[None]
        votes = []
        for axes in [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]:
            with torch.inference_mode():
                votes.append(torch.flip(network(torch.flip(tile, axes)), axes)[0].numpy())
        total[(slice(None), *box)] += np.mean(votes, 0) * weight
        weights[box] += weight
    assert_allclose(streamed, total / weights, atol=1e-5)
    assert sweep.ring.sums_krowyx.shape[1] <= 8 + 1, "the accumulator is no deeper than a patch"


def test_the_weights_of_all_tiles_sum_to_one_in_every_voxel():
    for size, patch in ((40, 16), (17, 16), (16, 16), (5, 16), (101, 7), (9, 1)):
        total = np.zeros(size)
        for tile in tile_axis(size, patch, 0.5, 0.125):
            total[tile.inside] += tile.weights
        assert_allclose(total, 1, atol=1e-6)


def test_importance_is_the_same_read_from_either_end():
    for edge in (1, 2, 15, 16, 128):
        assert_array_equal(gaussian(edge, 0.125), gaussian(edge, 0.125)[::-1])
        assert gaussian(edge, 0.125).min() > 0


def test_tiles_start_where_the_reference_starts_them():
    assert tile_starts(110, 64, 0.5) == (0, 23, 46)
    assert tile_starts(128, 128, 0.5) == (0,)
    assert tile_starts(5, 1, 0.5) == (0, 1, 2, 3, 4)


def test_mirroring_a_mirror_image_mirrors_the_answer():
    chosen = configuration((8, 8, 8))
    torch.manual_seed(1)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = smooth((1, 12, 13, 14), seed=4)
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    frame, plan = frame_of((12, 13, 14), (12, 13, 14)), plan_of(chosen)
    straight = predict_prepared([member(network, chosen)], image, frame, plan, settings).probabilities_kzyx
    turned = predict_prepared([member(network, chosen)], image[:, ::-1, :, ::-1].copy(), frame, plan, settings).probabilities_kzyx
    assert_allclose(turned[:, ::-1, :, ::-1], straight, atol=1e-5)


def test_the_number_of_tiles_in_flight_changes_nothing():
    chosen = configuration((8, 8, 8))
    torch.manual_seed(1)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = smooth((1, 20, 21, 22), seed=4)
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    frame, plan = frame_of((20, 21, 22), (20, 21, 22)), plan_of(chosen)
    one = predict_prepared([member(network, chosen)], image, frame, plan, replace(settings, batch_tiles=1)).probabilities_kzyx
    five = predict_prepared([member(network, chosen)], image, frame, plan, replace(settings, batch_tiles=5)).probabilities_kzyx
    assert_allclose(one, five, atol=1e-6)


def test_an_ensemble_of_copies_is_the_network_itself_and_agrees_with_itself():
    chosen = configuration((8, 8, 8))
    image = smooth((3, 12, 13, 14), seed=5)
    settings = replace(InferenceSettings.of(chosen), probabilities=True, uncertainty=True)
    frame, plan = frame_of((12, 13, 14), (12, 13, 14)), plan_of(chosen)
    alone = predict_prepared([member(Identity(), chosen)], image, frame, plan, settings)
    three = predict_prepared([member(Identity(), chosen)] * 3, image, frame, plan, settings)
    assert_allclose(three.probabilities_kzyx, alone.probabilities_kzyx, atol=1e-6)
    assert alone.disagreement_zyx is None
    assert_allclose(three.disagreement_zyx, 0, atol=1e-6)


def test_two_members_that_contradict_each_other_disagree_by_the_logarithm_of_two():
    class Sure(torch.nn.Module):
        def __init__(self, winner: int) -> None:
            super().__init__()
            self.winner = winner

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = torch.full((len(image), 3, *image.shape[2:]), -40.0)
            logits[:, self.winner] = 40.0
            return logits

    chosen = configuration((8, 8, 8))
    settings = replace(InferenceSettings.of(chosen), uncertainty=True)
    image = np.zeros((1, 9, 9, 9), np.float32)
    members = [member(Sure(1), chosen), member(Sure(2), chosen)]
    found = predict_prepared(members, image, frame_of((9, 9, 9), (9, 9, 9)), plan_of(chosen), settings)
    assert_allclose(found.disagreement_zyx, np.log(2), atol=1e-5)
    assert_allclose(found.entropy_zyx, np.log(2), atol=1e-5)


def test_regions_are_painted_in_order_where_they_are_on():
    chosen = configuration((8, 8, 8))
    image = smooth((2, 12, 20, 14), seed=6)
    native = (18, 31, 20)
    found = predict_prepared(
        [member(Identity(), chosen)], image, frame_of((12, 20, 14), native), plan_of(chosen, labels=regions())
    ).label_zyx
    whole, inner = resampled(image, native)
    expected = np.where(inner > 0, 2, np.where(whole > 0, 1, 0))
    sure = (np.abs(whole) > 1e-4) & (np.abs(inner) > 1e-4)
    assert_array_equal(found[sure], expected[sure])
    assert set(np.unique(found)) == {0, 1, 2}


def test_configurations_on_different_grids_vote_with_their_probabilities():
    first, second = configuration((8, 8, 8), "fine"), configuration((8, 8, 8), "coarse")
    native = (16, 18, 20)
    fine, coarse = smooth((3, *native), seed=7), smooth((3, 8, 9, 10), seed=8)
    plan = plan_of(first, second)
    quiet = replace(InferenceSettings.of(first), mirror_axes=())
    panels = [
        Panel([member(Identity(), first)], ArraySource(fine), frame_of(native, native), replace(quiet, probabilities=True), 3.0),
        Panel([member(Identity(), second)], ArraySource(coarse), frame_of((8, 9, 10), native), quiet, 1.0),
    ]
    found = predict_panels(panels, plan)

    def softmax(logits):
        powers = np.exp(logits - logits.max(0))
        return powers / powers.sum(0)

    expected = 0.75 * softmax(fine.astype(np.float64)) + 0.25 * softmax(resampled(coarse, native))
    assert_allclose(found.probabilities_kzyx, expected, atol=1e-5)
    sure = clear(expected)
    assert_array_equal(found.label_zyx[sure], expected.argmax(0)[sure])


def test_what_lies_outside_the_crop_is_background():
    chosen = configuration((8, 8, 8))
    image = np.stack([np.zeros((9, 9, 9)), np.ones((9, 9, 9))]).astype(np.float32)
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    frame = frame_of((9, 9, 9), (9, 9, 9), stored_zyx=(12, 10, 9))
    found = predict_prepared([member(Identity(), chosen)], image, frame, plan_of(chosen, classes=2), settings)
    assert found.label_zyx[:9, :9].all()
    assert not found.label_zyx[9:].any()
    assert not found.label_zyx[:, 9:].any()
    assert (found.probabilities_kzyx[0, 9:] == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_network_that_does_not_answer_with_numbers_fails_the_case(bad):
    class Broken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer = image.clone()
            answer[..., 3] = bad
            return answer

    chosen = configuration((8, 8, 8))
    with pytest.raises(UserError, match="not finite"):
        predict_prepared([member(Broken(), chosen)], smooth((3, 9, 9, 9), 0), frame_of((9, 9, 9), (9, 9, 9)), plan_of(chosen))


def test_when_memory_runs_out_what_was_in_flight_is_halved_and_no_tile_is_lost():
    class Greedy(Recorder):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if len(image) > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            return super().forward(image)

    chosen = configuration((8, 8, 8))
    image = smooth((3, 20, 9, 9), seed=9)
    network = Greedy()
    found = predict_prepared([member(network, chosen)], image, frame_of((20, 9, 9), (20, 9, 9)), plan_of(chosen)).label_zyx
    assert_array_equal(found, image.argmax(0))
    assert network.asked == 4 * 2 * 2 * 8, "every tile and mirror once"


@pytest.mark.parametrize("in_flight", [4, 1])  # one: beside the answers that wait to be taken there was no room, alone there is
def test_an_accelerator_that_has_no_room_is_asked_for_less_with_nothing_of_the_failed_attempt_left(in_flight):
    chosen, held = configuration((8, 8, 8)), []

    class Full(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            left = [one() for one in held if one() is not None]
            maps = image.clone()
            held.append(weakref.ref(maps))
            if len(image) > 1 or (in_flight == 1 and len(held) == 1):
                raise torch.OutOfMemoryError("CUDA out of memory")
            assert left == []
            return maps.clone()

    settings = replace(InferenceSettings.of(chosen), mirror_axes=())
    voters = Voters([member(Full(), chosen)], settings, in_flight, 3)
    voters.employ(AtOnce(), 1)
    tiles = torch.from_numpy(smooth((3, 4, 8, 8, 8), seed=1)).movedim(1, 0).contiguous()
    gc.collect()
    gc.disable()
    try:
        votes = voters.votes(voters.ask(tiles))
    finally:
        gc.enable()
    for number in range(4):
        assert_array_equal(votes.mean(number).cpu().numpy(), tiles[number].numpy())
    assert voters.in_flight == 1

    class Never(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    voters = Voters([member(Never(), chosen)], settings, 1, 3)
    voters.employ(AtOnce(), 1)
    with pytest.raises(UserError, match="not even one patch"):
        voters.votes(voters.ask(tiles))


def test_no_other_failure_is_called_memory():
    class Wrong(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    chosen = configuration((8, 8, 8))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        predict_prepared([member(Wrong(), chosen)], smooth((3, 9, 9, 9), 0), frame_of((9, 9, 9), (9, 9, 9)), plan_of(chosen))


def test_tiles_of_air_are_not_shown_to_the_network():
    chosen = configuration((8, 8, 8))
    image = np.full((2, 40, 8, 8), -1.0, np.float32)
    image[1, :6] = 5.0
    network, plan = Recorder(), plan_of(chosen, classes=2)
    settings = replace(InferenceSettings.of(chosen), mirror_axes=(), skip_air=True)
    found = predict_prepared([member(network, chosen)], image, frame_of((40, 8, 8), (40, 8, 8)), plan, settings).label_zyx
    assert network.asked == 2
    assert found[:5].all()
    assert not found[12:].any()
    assert is_air(image[:, 20:28])


def test_a_long_image_is_swept_along_its_length_a_flat_one_along_its_rows():
    assert sweep_order((400, 90, 90), (96, 96, 96)) == (0, 1, 2)
    assert sweep_order((1, 30000, 30000), (1, 512, 512)) == (1, 0, 2)
    assert sweep_order((100, 30, 30), (1, 32, 32)) == (0, 1, 2)


def geometries():
    """All 48 ways to store one patient: every order of axes and every choice of directions."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            yield order, signs


def test_all_48_orientations_give_the_same_physical_mask():
    chosen = configuration((8, 8, 8))
    canonical = smooth((3, 14, 12, 10), seed=10)
    plan = plan_of(chosen, channels=3)
    ensemble = Ensemble(plan, {"3d_fullres": [member(Identity(), chosen)]}, [Chosen(configuration="3d_fullres", folds=(0,))])
    for order, signs in geometries():
        # Stored axis i (x, y, z order) runs along the world axis order[i], in the direction signs[i].
        stored = canonical.transpose(0, *(1 + 2 - order[2 - axis] for axis in range(3)))
        for axis in range(3):
            if signs[2 - axis] < 0:
                stored = np.flip(stored, axis + 1)
        direction = np.zeros((3, 3))
        direction[list(order), range(3)] = signs
        geometry = Geometry(
            shape_zyx=stored.shape[1:], spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=tuple(direction.ravel())
        )
        found = predict_case(ensemble, np.ascontiguousarray(stored), geometry, Options()).label_zyx
        assert_array_equal(found, stored.argmax(0))


def test_no_slice_is_doubled_when_thick_slices_are_made_thin():
    chosen = configuration((8, 16, 16), spacing_zyx_mm=(5.0, 1.0, 1.0))
    z, y, x = np.mgrid[:20, :16, :16]
    slanted = (x - z * 0.8 > 0).astype(np.float32)  # an edge that moves on from slice to slice
    image = np.stack([1 - slanted, slanted]) + 0.0 * y
    found = predict_prepared(
        [member(Identity(), chosen)], image.astype(np.float32), frame_of((20, 16, 16), (60, 16, 16)), plan_of(chosen, classes=2)
    ).label_zyx
    inner = found[6:-6, 8]
    edges = (inner == 0).sum(1)
    assert len(np.unique(edges)) >= 11, "one position of the edge a voxel column"
    assert (np.diff(edges) >= 0).all()
