import numpy as np
import pytest

from autounet import machine
from autounet.inference.budget import Sizes, estimate, fitted
from autounet.inference.predict import predict_prepared
from planners.errors import UserError
from tests.tiny_models import Identity, configuration, frame_of, member, plan_of, smooth


def sizes(length):
    return Sizes(configuration=configuration((128, 128, 128)), shape_zyx=(length, 273, 273), order=(0, 1, 2), channels=60, in_flight=4)


def test_the_accumulator_does_not_grow_with_the_length_of_the_scan():
    assert sizes(400).ring_bytes == sizes(1200).ring_bytes
    assert sizes(1200).ring_bytes == 60 * 131 * 273 * 273 * 4


def test_less_memory_means_fewer_patches_then_less_precision_then_no():
    whole = [sizes(1200)]
    plenty = estimate(whole, (1200, 512, 512), 0, 0)
    assert fitted(whole, (1200, 512, 512), 0, base_bytes=0, limit_bytes=plenty) == whole
    fewer = fitted(whole, (1200, 512, 512), 0, base_bytes=0, limit_bytes=plenty - 1)
    assert fewer[0].in_flight < 4
    assert fewer[0].accumulator_bytes == 4
    least = estimate(
        [Sizes(configuration=whole[0].configuration, shape_zyx=whole[0].shape_zyx, order=(0, 1, 2), channels=60, in_flight=1)],
        (1200, 512, 512),
        0,
        0,
    )
    halved = fitted(whole, (1200, 512, 512), 0, base_bytes=0, limit_bytes=least - 1)
    assert halved[0].accumulator_bytes == 2
    with pytest.raises(UserError, match="GB of memory"):
        fitted(whole, (1200, 512, 512), 0, base_bytes=0, limit_bytes=10**8)


@pytest.mark.processor
def test_an_accumulator_of_half_the_precision_gives_the_same_labels_but_where_two_classes_tie():
    chosen = configuration((8, 32, 32))
    image = smooth((3, 40, 60, 60), 1)
    frame, plan = frame_of((40, 60, 60), (40, 60, 60)), plan_of(chosen)
    exact = predict_prepared([member(Identity(), chosen)], image, frame, plan).label_zyx
    from autounet.inference import predict as module

    found = []

    def halve(sizes, *_, **__):
        found.extend(sizes)
        return [type(s)(**{f: getattr(s, f) for f in s.__slots__ if f != "accumulator_bytes"}, accumulator_bytes=2) for s in sizes]

    original = module.fitted
    module.fitted = halve
    try:
        half = predict_prepared(
            [member(Identity(), chosen)], image, frame, plan, max_ram_bytes=machine.process_tree_bytes() + 10**9
        ).label_zyx
    finally:
        module.fitted = original
    assert found
    best = np.sort(image, 0)
    close = best[-1] - best[-2] < 0.02
    assert (half == exact)[~close].all()
