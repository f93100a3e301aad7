from dataclasses import replace

import numpy as np
import pytest
import torch

from autounet.training.loader import Loader
from autounet.training.sample import Source
from planners.fingerprint import SidePair
from planners.labels import LabelClass, Labels
from planners.plan import Augmentation, ChannelPlan, Loss, LossTerm, Step
from tests.training.tiny import REFERENCE, case, recipe

NOTHING = Augmentation(steps=())
FLIPS = Augmentation(steps=(Step(kind="mirror", probability=0.5),), mirror_axes=(2,))


def cases():
    return {"a": case(1, (40, 40, 40)), "b": case(2, (40, 44, 36))}


def test_without_augmentation_a_sample_is_a_box_of_its_case():
    held = cases()
    source = Source(recipe=recipe(augmentation=NOTHING), cases=held)
    for position in (0, 1):
        sample = source.sample(3, position)
        box = held[sample.case].boxes[-1]
        np.testing.assert_array_equal(sample.image_czyx.numpy(), held[sample.case].image_czyx[(slice(None), *box)])
        np.testing.assert_array_equal(sample.label_zyx.numpy(), held[sample.case].label_zyx[box])


def test_only_what_is_warped_reads_more_than_the_patch():
    held = cases()
    source = Source(recipe=recipe(augmentation=REFERENCE), cases=held)
    for step in range(150):
        source.sample(step, 1)
    read = [np.prod([part.stop - part.start for part in box]) for c in held.values() for box in c.boxes]
    assert np.mean(np.array(read) == 16**3) == pytest.approx(0.64, abs=0.1)
    assert np.mean(read) < 2.0 * 16**3  # the reference reads more than four times the patch, always


def test_the_order_of_asking_changes_nothing():
    first, second = Source(recipe=recipe(), cases=cases()), Source(recipe=recipe(), cases=cases())
    places = [(step, position) for step in range(8) for position in range(2)]
    one = {place: first.sample(*place) for place in places}
    for place in reversed(places):
        other = second.sample(*place)
        assert torch.equal(one[place].image_czyx, other.image_czyx)
        assert torch.equal(one[place].label_zyx, other.label_zyx)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_makes_the_same_batches(workers):
    source = Source(recipe=recipe(), cases=cases())
    with Loader(source, workers, (0, 1)) as loader:
        batches = loader.batches(start=5)
        for step in (5, 6, 7):
            batch = next(batches)
            for position in (0, 1):
                alone = Source(recipe=recipe(), cases=cases()).sample(step, position)
                assert torch.equal(batch.image[position], alone.image_czyx)
                assert torch.equal(batch.targets.classes[position], alone.label_zyx)
        batches.close()


def test_a_two_dimensional_batch_has_no_slice_axis():
    made = recipe(dimensions=2, patch=(1, 16, 16))
    with Loader(Source(recipe=made, cases=cases()), 1, (0, 1)) as loader:
        batches = loader.batches(0)
        batch = next(batches)
        batches.close()
    assert batch.image.shape == (2, 1, 16, 16)
    assert batch.targets.classes.shape == (2, 16, 16)


def test_beyond_a_small_case_the_image_is_zero_and_the_label_background():
    small = case(1, (10, 24, 24))
    small.image_czyx += 5
    source = Source(recipe=recipe(augmentation=NOTHING), cases={"a": small})
    sample = source.sample(0, 0)
    assert sample.image_czyx.shape == (1, 16, 16, 16)
    assert float(sample.image_czyx[:, :3].abs().max()) == 0
    assert float(sample.image_czyx[:, 3:13].min()) > 0
    assert int(sample.label_zyx[:3].max()) == 0


def test_a_flip_across_the_sides_exchanges_left_and_right():
    label = np.zeros((16, 16, 16), np.int8)
    label[:, :, 2:6], label[:, :, 10:14] = 1, 2  # left lies at low x here
    held = case(1, (16, 16, 16))
    held.label_zyx = label
    classes = tuple(LabelClass(name=n, value=i) for i, n in enumerate(("background", "kidney_left", "kidney_right")))
    made = recipe(
        augmentation=replace(FLIPS, swap_sides=True),
        labels=Labels(classes=classes),
        side_pairs=(SidePair(left="kidney_left", right="kidney_right", axis=2),),
    )
    source = Source(recipe=made, cases={"a": held})
    flips = 0
    for step in range(20):
        found = source.sample(step, 0)
        assert int(found.label_zyx[0, 0, 3]) == 1  # whatever happened to the image, left stays where left is
        assert int(found.label_zyx[0, 0, 12]) == 2
        flips += not np.array_equal(found.image_czyx.numpy(), held.image_czyx)
    assert 4 < flips < 16


def test_the_sides_axis_follows_the_working_order_of_axes():
    classes = tuple(LabelClass(name=n, value=i) for i, n in enumerate(("background", "l", "r")))
    made = recipe(
        augmentation=replace(FLIPS, swap_sides=True),
        labels=Labels(classes=classes),
        side_pairs=(SidePair(left="l", right="r"),),
        axis_order=(2, 0, 1),
    )
    assert made.side_swaps == ((0, (0, 2, 1, 3)),)


def test_outside_the_mask_a_masked_channel_is_zero_whatever_noise_was_added():
    held = case(1, (16, 16, 16))
    held.label_zyx[:, :, :4] = -1
    noise = Augmentation(steps=(Step(kind="noise", probability=1.0, low=0.1, high=0.1),))
    made = recipe(augmentation=noise)
    plan = replace(made.plan, channels=(ChannelPlan(name="mr", modality="mr", scheme="zscore", mask_outside=True),))
    sample = Source(recipe=replace(made, plan=plan), cases={"a": held}).sample(0, 0)
    assert float(sample.image_czyx[..., :4].abs().max()) == 0
    assert float(sample.image_czyx[..., 4:].abs().max()) > 0
    assert int(sample.label_zyx.min()) == 0


def test_outside_the_mask_a_masked_channel_is_zero_after_a_turn_too():
    held = case(1, (16, 16, 16))
    held.label_zyx[:, :, :8] = -1
    noise = Step(kind="noise", probability=1.0, low=0.1, high=0.1)
    made = recipe(augmentation=Augmentation(steps=(Step(kind="rotation", probability=1.0, low=0.2, high=0.2), noise), in_plane_only=True))
    plan = replace(made.plan, channels=(ChannelPlan(name="mr", modality="mr", scheme="zscore", mask_outside=True),))
    sample = Source(recipe=replace(made, plan=plan), cases={"a": held}).sample(0, 0)
    assert float(sample.image_czyx[..., :4].abs().max()) == 0
    assert float(sample.image_czyx[:, 5:11, 5:11, 12:15].abs().min()) > 0


def test_a_partly_annotated_case_says_which_classes_were_drawn():
    made = replace(recipe(), annotated=(("a", (1,)),))
    seen = {}
    source = Source(recipe=made, cases=cases())
    for step in range(12):
        sample = source.sample(step, 0)
        seen[sample.case] = sample.annotated_k.tolist()
    assert seen == {"a": [True, True, False], "b": [True, True, True]}


def test_a_cascade_sees_the_first_stage_as_further_channels_on_the_same_voxels():
    held = cases()
    previous = {name: c.label_zyx.astype(np.uint8) for name, c in held.items()}
    source = Source(recipe=recipe(), cases=held, previous=previous)
    agree = []
    for step in range(30):
        sample = source.sample(step, 1)
        assert sample.image_czyx.shape[0] == 3
        maps = sample.image_czyx[1:]
        agree.append(torch.equal(maps.argmax(0) + maps.amax(0).long(), sample.label_zyx.long()))
    assert np.mean(agree) > 0.4  # undisturbed in 48 of 100


def test_maps_for_skeletons_and_borders_come_with_the_sample_when_the_loss_asks():
    terms = (LossTerm(kind="skeleton_recall"), LossTerm(kind="border_cross_entropy"))
    sample = Source(recipe=recipe(loss=Loss(terms=terms)), cases=cases()).sample(0, 1)
    assert sample.skeleton_zyx.shape == sample.border_zyx.shape == (16, 16, 16)
    assert ((sample.skeleton_zyx == 0) | (sample.skeleton_zyx == sample.label_zyx)).all()
    assert float(sample.border_zyx.min()) >= 1
