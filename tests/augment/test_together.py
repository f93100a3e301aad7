"""A batch augmented at once on one device, against the same samples one by one on the processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch.utils._python_dispatch import TorchDispatchMode

from autounet.augment.dense import majority, parties
from autounet.augment.draw import Drawn, Effect, Elastic, draw, rotation
from autounet.augment.hashed import mixed, normal
from autounet.augment.intensity import EFFECTS, apply_effects
from autounet.augment.rows import ROUNDS, apply_rounds, rounds
from autounet.augment.spatial import flipped, warp
from autounet.augment.together import Box, warped
from autounet.rng import generator
from planners.plan import Augmentation, Step

CPU, NOWHERE = torch.device("cpu"), torch.device("meta")
SCALE = 2e-4  # of float32 sums in another order, beside values of a few units
RANGES = {
    "noise": (0.02, 0.1),
    "blur": (0.5, 1.0),
    "brightness": (0.75, 1.25),
    "contrast": (0.75, 1.25),
    "low_resolution": (0.5, 1.0),
    "gamma_inverted": (0.7, 1.5),
    "gamma": (0.7, 1.5),
}
SPACE = {"rotation": (-0.5, 0.5), "scaling": (0.7, 1.4), "elastic": (0.5, 3.0)}
KINDS = tuple(RANGES)


def steps(*kinds, probability=1.0):
    spans = {**SPACE, **RANGES, "mirror": (0.0, 0.0)}
    return tuple(Step(kind=kind, probability=probability, low=spans[kind][0], high=spans[kind][1]) for kind in kinds)


def box(seed, drawn, patch, channels=2, maps=1, classes=3, dtype=np.int8):
    """What a sampler would read for that patch: smooth regions of some classes, and no volume behind one corner."""
    rng = np.random.default_rng(seed)
    spans = drawn.box((0, 0, 0), patch)
    shape = tuple(max(1, stop - start - (2 if drawn.warped and axis else 0)) for axis, (start, stop) in enumerate(spans))
    smooth = ndimage.gaussian_filter(rng.standard_normal((classes, *shape)), (0, 1, 1.5, 1.5)).argmax(0).astype(dtype)
    image = torch.from_numpy(rng.normal(1.0, 2.0, (channels, *shape)).astype(np.float32))
    labels = torch.from_numpy(np.stack([np.roll(smooth, 3 * number, -1) for number in range(maps)]))
    middle = tuple((edge - 1) / 2 - start for edge, (start, _) in zip(patch, spans, strict=True))
    return Box(image_czyx=image, labels_nzyx=labels, drawn=drawn, middle_zyx=middle)


def one_by_one(boxes, patch):
    done = [
        warp(b.image_czyx, b.labels_nzyx, b.drawn, patch, b.middle_zyx)
        if b.drawn.warped
        else (flipped(b.image_czyx, b.drawn.flips), flipped(b.labels_nzyx, b.drawn.flips))
        for b in boxes
    ]
    return torch.stack([image for image, _ in done]), torch.stack([labels for _, labels in done])


def at_once(boxes, patch, device=CPU):
    return warped([b.packed(patch, device) for b in boxes], patch, device)


def drawings(plan, count, flat=False, channels=2):
    return [draw(plan, channels, flat, generator(5, "together", index)) for index in range(count)]


MIRRORED = {"mirror_axes": (0, 1, 2)}
SPATIAL = {
    "rotation": Augmentation(steps=steps("rotation"), **MIRRORED),
    "scaling": Augmentation(steps=steps("scaling"), **MIRRORED),
    "elastic": Augmentation(steps=steps("elastic"), **MIRRORED),
    "mirror": Augmentation(steps=steps("mirror", probability=0.5), **MIRRORED),
    "all": Augmentation(steps=steps("rotation", "scaling", "elastic", "mirror", probability=0.5), **MIRRORED),
}
SHAPES = {"volumes": ((9, 12, 11), False, False), "slices": ((1, 24, 20), True, False), "thick slices": ((5, 18, 20), False, True)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SPATIAL)
def test_a_batch_is_warped_as_each_of_its_samples(kind, shape):
    patch, flat, in_plane = SHAPES[shape]
    plan = replace(SPATIAL[kind], in_plane_only=in_plane)
    boxes = [box(index, drawn, patch, maps=2) for index, drawn in enumerate(drawings(plan, 8, flat))]
    assert len({b.image_czyx.shape for b in boxes}) > 1 or kind in ("mirror", "elastic")
    image, labels = at_once(boxes, patch)
    expected = one_by_one(boxes, patch)
    torch.testing.assert_close(image, expected[0], atol=1e-6, rtol=1e-6)
    assert labels.dtype == expected[1].dtype
    assert torch.equal(labels, expected[1])
    assert len(labels.unique()) >= 3
    if kind not in ("mirror", "elastic"):
        assert int(labels.min()) == -1  # the box is smaller than what is asked for: beyond it there is nothing


def test_sixty_classes_and_labels_of_sixteen_bits_are_voted_on_alike():
    patch = (6, 12, 12)
    plan = SPATIAL["all"]
    for dtype in (np.int8, np.int16):
        boxes = [box(index, drawn, patch, classes=60, dtype=dtype) for index, drawn in enumerate(drawings(plan, 4))]
        labels, expected = at_once(boxes, patch)[1], one_by_one(boxes, patch)[1]
        assert torch.equal(labels, expected)
        assert len(labels.unique()) > 30


def test_parties_change_nothing(monkeypatch):
    from autounet.augment import dense

    patch = (7, 9, 10)
    boxes = [box(index, drawn, patch) for index, drawn in enumerate(drawings(SPATIAL["all"], 7))]
    whole = at_once(boxes, patch)
    monkeypatch.setattr(dense, "POINTS", 2 * 630)
    assert [len(party) for party in parties(7, 630)] == [2, 2, 2, 1]
    split = at_once(boxes, patch)
    assert torch.equal(whole[0], split[0])
    assert torch.equal(whole[1], split[1])


def test_the_majority_is_that_of_the_weights_and_a_tie_is_the_nearer_corner_s():
    labels = torch.tensor([[3, 1, 2], [1, 1, 5], [1, 2, 2], [3, 2, 5]], dtype=torch.int8)[:, None]  # 4 corners, 3 points
    weights = torch.tensor([[0.40, 0.30, 0.30], [0.25, 0.15, 0.35], [0.20, 0.40, 0.20], [0.15, 0.15, 0.15]])
    assert majority(labels, weights)[0].tolist() == [3, 2, 5]  # 0.55 to 0.45, 0.55 to 0.45; 0.50 to 0.50 with 0.35 the nearest


def images(count=6, channels=2, shape=(9, 12, 11), seed=0):
    made = np.random.default_rng(seed).normal(1.0, 2.0, (count, channels, *shape))
    return torch.from_numpy((made**2 / 3 + made).astype(np.float32))


def effects_of(plan, image, flat=False):
    return [drawn.effects for drawn in drawings(plan, len(image), flat, image.shape[1])]


@pytest.mark.parametrize("shape", [(9, 12, 11), (1, 40, 30), (1, 190, 170)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "noise"])
def test_each_step_does_to_a_batch_what_it_does_to_each_channel(kind, shape):
    image = images(4, shape=shape)
    plan = Augmentation(steps=(replace(steps(kind)[0], probability=0.7, channel_probability=0.6),))
    effects = effects_of(plan, image, flat=shape[0] == 1)
    expected, found = image.clone(), image.clone()
    for one, own in zip(expected, effects, strict=True):
        apply_effects(one, own)
    apply_rounds(found, rounds(effects, [kind], 2))
    torch.testing.assert_close(found, expected, atol=SCALE, rtol=SCALE)
    touched = (expected != image).flatten(2).any(2)
    assert 0 < int(touched.sum()) < touched.numel()
    assert torch.equal(found[~touched], image[~touched])


def test_the_whole_list_is_done_in_the_order_of_each_sample():
    image = images(12)
    plan = Augmentation(steps=steps(*(kind for kind in KINDS if kind != "noise"), "gamma", "blur", probability=0.5))
    effects = effects_of(plan, image)
    expected, found = image.clone(), image.clone()
    for one, own in zip(expected, effects, strict=True):
        apply_effects(one, own)
    apply_rounds(found, rounds(effects, [step.kind for step in plan.steps], 2))
    torch.testing.assert_close(found, expected, atol=5 * SCALE, rtol=5 * SCALE)
    assert float((expected - image).abs().max()) > 1


def test_a_step_that_is_twice_in_the_list_is_done_as_often_as_drawn():
    def gamma(value):
        return Effect(kind="gamma", channels=((value,),))

    noise = Effect(kind="noise", channels=((0.1,),), seed=1)
    found = rounds([(gamma(1.1), gamma(1.2)), (noise, gamma(1.3)), ()], ["gamma", "noise", "gamma"], 1)
    assert [(step.kind, step.rows, step.numbers) for step in found] == [
        ("gamma", [0], [(1.1,)]),
        ("noise", [1], [(0.1,)]),
        ("gamma", [0, 1], [(1.2,), (1.3,)]),
    ]


def test_both_know_the_same_steps():
    assert ROUNDS.keys() == EFFECTS.keys()


def test_a_constant_channel_survives_every_step_of_a_batch():
    for kind, numbers in (
        ("gamma", (1.3,)),
        ("gamma_inverted", (0.8,)),
        ("contrast", (0.8,)),
        ("blur", (1.0,) * 3),
        ("low_resolution", (0.5,) * 3),
    ):
        flat = torch.full((2, 1, 8, 8, 8), 3.0)
        apply_rounds(flat, rounds([(Effect(kind=kind, channels=(numbers,)),), ()], [kind], 1))
        torch.testing.assert_close(flat, torch.full_like(flat, 3.0), atol=1e-4, rtol=1e-4)


def split_mix(state):
    """SplitMix64 as published, in Python's own numbers."""
    word = 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & word
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & word
    return state ^ (state >> 31)


def test_the_hash_is_split_mix():
    words = [1, 2, 2**63 - 1, -1, -(2**63), 0x9E3779B97F4A7C15 - 2**64]
    found = mixed(torch.tensor(words))
    assert [int(word) % 2**64 for word in found] == [split_mix(word % 2**64) for word in words]


def test_noise_from_a_hash_is_normal_independent_and_a_function_of_its_seed():
    seeds = torch.tensor([5, 6, 2**62 + 1])  # neighbours, as the channels of one sample are
    made = normal(seeds, 40000)
    for row in made.numpy():
        assert stats.kstest(row, "norm").pvalue > 0.01
    between = np.corrcoef(made.numpy())
    assert np.abs(between[~np.eye(3, dtype=bool)]).max() < 0.015
    lagged = [abs(np.corrcoef(row[lag:], row[:-lag])[0, 1]) for row in made.numpy() for lag in (1, 2, 200)]
    assert max(lagged) < 0.02
    assert torch.equal(normal(seeds[1:2], 500)[0], made[1, :500])


def test_the_noise_of_a_batch_has_the_deviations_drawn():
    image = torch.zeros(3, 2, 20, 20, 20)
    effects = [(Effect(kind="noise", channels=((0.08,), ()), seed=seed),) for seed in (3, 3, 4)]
    apply_rounds(image, rounds(effects, ["noise"], 2))
    assert float(image[0, 0].std()) == pytest.approx(0.08, rel=0.03)
    assert float(image[:, 1].abs().max()) == 0
    assert torch.equal(image[0], image[1])
    assert abs(float(np.corrcoef(image[0, 0].flatten(), image[2, 0].flatten())[0, 1])) < 0.05


class Watched(TorchDispatchMode):
    """Fails when the device is asked for a value, or a tensor comes back from it; counts what is sent there."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.sent = 0
        self.done = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name.startswith(word) for word in self.ASKING), f"{func} waits for the device"
        self.done += 1
        came = [a.device.type for a in args if isinstance(a, torch.Tensor)]
        done = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            left = done.device.type
            assert not ("meta" in came[-1:] and left != "meta"), f"{func} copies from the device"
            self.sent += came[-1] == "cpu" and left == "meta"
        return done


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_waits_for_the_device(shape):
    """On a device without memory there are no values, so whatever depends on one fails; and each array is sent once."""
    patch, flat, in_plane = SHAPES[shape]
    plan = Augmentation(
        steps=steps("rotation", "scaling", "elastic", *KINDS, "mirror", probability=0.6), in_plane_only=in_plane, **MIRRORED
    )
    drawn = drawings(plan, 6, flat)
    boxes = [box(index, each, patch).packed(patch, NOWHERE) for index, each in enumerate(drawn)]
    with Watched() as watched:
        image, labels = warped(boxes, patch, NOWHERE)
        apply_rounds(image, rounds([each.effects for each in drawn], [step.kind for step in plan.steps], 2))
    assert image.device == labels.device == NOWHERE
    assert {effect.kind for each in drawn for effect in each.effects} == set(KINDS)
    elastic = sum(each.elastic is not None for each in drawn)
    assert watched.sent <= 2 * len(boxes) + 4 * elastic + 10 * len(KINDS)


def test_the_watch_notices_a_question():
    with Watched(), pytest.raises(AssertionError, match="waits for the device"):
        float(torch.ones(1))


def test_a_turn_by_a_quarter_is_one_in_a_batch_too():
    image = torch.arange(2 * 5 * 6 * 6, dtype=torch.float32).view(2, 5, 6, 6)
    labels = (torch.arange(5 * 6 * 6).view(1, 5, 6, 6) % 7).to(torch.int8)
    rows = tuple(tuple(float(v) for v in row) for row in rotation(np.array([np.pi / 2, 0, 0]), in_plane=True))
    turned = Box(image_czyx=image, labels_nzyx=labels, drawn=Drawn(matrix=rows), middle_zyx=(2.0, 2.5, 2.5))
    bent = replace(turned, drawn=Drawn(elastic=Elastic(voxels=1e-6, seed=1)))
    found = at_once([turned, bent], (5, 6, 6))
    torch.testing.assert_close(found[0][0], torch.rot90(image, -1, (2, 3)), atol=1e-3, rtol=0)
    assert torch.equal(found[1][0], torch.rot90(labels, -1, (2, 3)))
    torch.testing.assert_close(found[0][1], image, atol=1e-2, rtol=0)
    assert torch.equal(found[1][1], labels)
