from dataclasses import replace

import numpy as np

from autounet.data.dataset import Case, ChannelSpec, Dataset, ImageFile
from autounet.data.voxels import read_case
from autounet.report.gather import Material
from autounet.report.groups import failure_groups
from autounet.report.intensities import medians
from autounet.store.selection import Chosen, Selection
from autounet.store.strict import read_value
from tests.report.worked import worked

NOBODY = Material(name="m", fingerprint=None, plan=None, selection=None, scores={}, curves={})
CHOSEN = Selection(members=(Chosen(configuration="3d", folds=(0,)),), why="3d")


class Known:
    """As much of a dataset as is looked at."""

    channels = ()

    def __init__(self, cases):
        self.cases = cases


def case(name, *, stratum="", group="", spacing=(1.0, 1.0, 1.0)):
    return Case(id=name, images=(ImageFile(path=f"{name}.nii"),), group=group or name, stratum=stratum, spacing_zyx_mm=spacing)


def material(dice, *, tp=None, fp=None, fn=None, cases=()):
    rows = []
    for number, value in enumerate(dice):
        counts = {key: 100 if given is None else given[number] for key, given in (("tp", tp), ("fp", fp), ("fn", fn))}
        rows.append({"case": f"c{number}", "metrics": {"liver": {"dice": value, **counts}}})
    return replace(
        NOBODY, selection=CHOSEN, scores={"3d": {"targets": {"liver": [1]}, "cases": rows}}, dataset=Known(cases) if cases else None
    )


def test_a_hospital_whose_cases_are_bad_is_named_with_its_cases_the_worst_first():
    dice = [0.9, 0.91, 0.89, 0.9, 0.92, 0.9, 0.5, 0.4, 0.45, 0.91]
    cases = [case(f"c{i}", stratum="north" if 6 <= i <= 8 else "south") for i in range(10)]
    (group,) = failure_groups(material(dice, cases=cases))
    assert (group.trait, group.cases) == ("stratum north", ("c7", "c8", "c6"))
    np.testing.assert_allclose([group.dice, group.elsewhere], [0.45, np.mean([0.9, 0.91, 0.89, 0.9, 0.92, 0.9, 0.91])])
    assert group.verdict == "more than chance"


def test_small_structures_and_missed_ones_are_traits_of_their_class():
    size = [1000, 1100, 1200, 1300, 40, 50, 900, 950]
    dice = [0.9, 0.9, 0.9, 0.9, 0.3, 0.0, 0.9, 0.9]
    tp = [s if d else 0 for s, d in zip(size, dice, strict=True)]
    fn = [s - t for s, t in zip(size, tp, strict=True)]
    fp = [0] * 8
    found = {g.trait: g for g in failure_groups(material(dice, tp=tp, fp=fp, fn=fn))}
    assert found["liver missed altogether"].cases == ("c5",)
    small = next(g for t, g in found.items() if t.startswith("liver is small"))
    assert small.cases == ("c5", "c4")


def test_coarse_voxels_are_a_trait():
    cases = [case(f"c{i}", spacing=(1.0, 1.0, 5.0) if i < 2 else (1.0, 1.0, 1.0)) for i in range(8)]
    (group,) = failure_groups(material([0.2, 0.3, *[0.9] * 6], cases=cases))
    assert group.trait == "voxels coarser than usual"
    assert group.cases == ("c0", "c1")


def test_noise_is_rarely_called_more_than_chance():
    called = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cases = [case(f"c{i}", stratum=str(i % 4)) for i in range(24)]
        called += any(g.verdict == "more than chance" for g in failure_groups(material(list(rng.normal(0.8, 0.1, 24)), cases=cases)))
    assert called <= 6  # one in twenty by design


def test_few_cases_have_nothing_in_common():
    assert failure_groups(material([0.1, 0.9, 0.9])) == ()
    assert failure_groups(NOBODY) == ()


def test_a_case_from_another_scanner_is_named_by_its_gray_values(tmp_path):
    rng = np.random.default_rng(0)
    middles = {f"c{i}": (float(rng.normal(100, 5)) + 900 * (i in (2, 5)),) for i in range(12)}
    dice = [0.3 if i in (2, 5) else 0.9 for i in range(12)]
    known = Known([case(f"c{i}") for i in range(12)])
    known.channels = (ChannelSpec(name="T2"),)
    (group,) = failure_groups(replace(material(dice), dataset=known, medians=middles))
    assert group.trait == "gray values of T2 unlike the others"
    assert set(group.cases) == {"c2", "c5"}


def test_the_gray_values_come_from_the_records_that_check_kept(tmp_path):
    work = worked(tmp_path, cases=4, size=24)
    dataset = read_value(work / "index.json", Dataset)
    found = medians(work, dataset)
    assert sorted(found) == [c.id for c in dataset.cases]
    image = read_case(dataset, dataset.cases[0]).image_czyx
    inside = image[0][image[0] != 0]
    assert np.quantile(inside, 0.3) <= found[dataset.cases[0].id][0] <= np.quantile(inside, 0.7)
    assert medians(tmp_path, dataset) == {}
