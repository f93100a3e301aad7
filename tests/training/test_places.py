import numpy as np
import pytest

from autounet.rng import generator
from autounet.training.places import choose, forced
from planners.labels import LabelClass, Labels, Region
from planners.plan import Sampling
from tests.training.tiny import MemoryCase, case, recipe


def places(made, cases, position, count=200, labels=None):
    plan = made.plan
    return [choose(cases, made.configuration, labels or plan.labels, position, generator(0, "p", i)) for i in range(count)]


@pytest.mark.parametrize(("batch", "count"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 3), (12, 4)])
def test_the_last_third_of_a_batch_has_to_hold_foreground_as_in_the_reference(batch, count):
    made = recipe(batch=batch)
    chosen = [forced(made.configuration, position, generator(0)) for position in range(batch)]
    assert sum(chosen) == count
    assert chosen == sorted(chosen)


def test_forced_patches_hold_the_class_and_free_ones_reach_every_corner():
    cases, made = {"a": case(1, (40, 40, 40))}, recipe()
    for place in places(made, cases, position=1):
        z, y, x = place.lower_zyx
        assert cases["a"].label_zyx[z : z + 16, y : y + 16, x : x + 16].any()
    lows = np.array([p.lower_zyx for p in places(made, cases, position=0)])
    assert lows.min() == 0
    assert lows.max() == 24


def test_a_case_smaller_than_the_patch_is_put_in_its_middle():
    made, cases = recipe(), {"a": case(1, (10, 24, 24))}
    assert {p.lower_zyx[0] for p in places(made, cases, 0)} == {-3}


def test_component_balance_visits_a_speck_as_often_as_a_mass():
    label = np.zeros((40, 40, 40), np.int8)
    label[2:22, 2:22, 2:22], label[35, 35, 35] = 1, 1
    cases = {"a": MemoryCase(np.zeros((1, 40, 40, 40), np.float32), label)}
    made = recipe(sampling=Sampling(balance="component"), patch=(8, 8, 8))
    far = [p.lower_zyx[0] > 25 for p in places(made, cases, 1, 400)]
    assert np.mean(far) == pytest.approx(0.5, abs=0.08)
    plain = recipe(patch=(8, 8, 8))
    assert np.mean([p.lower_zyx[0] > 25 for p in places(plain, cases, 1, 400)]) < 0.02


def test_class_balance_over_cases_goes_to_the_one_case_that_has_the_class():
    common, rare = case(1), case(2)
    common.label_zyx[common.label_zyx == 2] = 0
    cases = {**{f"c{i}": common for i in range(9)}, "rare": rare}
    made = recipe(sampling=Sampling(balance="class_over_cases"))
    share = np.mean([p.case == "rare" for p in places(made, cases, 1, 600)])
    assert share == pytest.approx(0.5 + 0.5 * 0.1, abs=0.06)


def test_with_an_ignore_label_free_patches_are_centred_on_annotated_voxels():
    label = np.full((40, 40, 40), 3, np.int8)
    label[30:34, 30:34, 30:34] = 0
    cases = {"a": MemoryCase(np.zeros((1, 40, 40, 40), np.float32), label, ignore=3)}
    classes = tuple(LabelClass(name=f"c{i}", value=i) for i in range(3))
    made = recipe(labels=Labels(classes=classes, ignore=9))
    for place in places(made, cases, 0, 100):
        z, y, x = place.lower_zyx
        assert (label[z : z + 16, y : y + 16, x : x + 16] == 0).any()


def test_regions_are_drawn_as_unions():
    classes = tuple(LabelClass(name=f"c{i}", value=i) for i in range(3))
    labels = Labels(classes=classes, regions=(Region(name="both", values=(1, 2), paint=1),))
    made, cases = recipe(labels=labels), {"a": case(1, (40, 40, 40))}
    for place in places(made, cases, 1, 50):
        z, y, x = place.lower_zyx
        assert cases["a"].label_zyx[z : z + 16, y : y + 16, x : x + 16].any()
