"""`select` from files to selection.json, with networks whose answers are known by hand."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from autounet.data.voxels import read_case
from autounet.images.read import read_image
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.held_out import ask_together, masks_of_team, score_masks
from autounet.inference.presets import Tried, Way, presets_of, ways_of
from autounet.inference.settings import label_values
from autounet.metrics.choice import Team
from autounet.stages.select import select
from autounet.store.selection import Chosen, Selection
from autounet.store.strict import read_value
from tests.stages.simulated import COARSE, FINE, FLAT, use, world
from tests.tiny_models import plan_of

PLAN = plan_of(FINE)
PAIR = ("2d", "3d_fullres")


@pytest.fixture(scope="module")
def independent(tmp_path_factory):
    """Two configurations that are equally good and err apart from each other."""
    with pytest.MonkeyPatch.context() as patch:
        made = use(world(tmp_path_factory.mktemp("pair"), (FLAT, FINE), {"2d": 1.2, "3d_fullres": 1.2}), patch)
        yield made, select(made.dataset, made.plan, made.job)


@pytest.mark.parametrize(
    ("configurations", "noise", "best"),
    [
        ((FLAT, FINE), {"2d": 0.4, "3d_fullres": 2.0}, "2d"),
        ((FLAT, FINE), {"2d": 2.0, "3d_fullres": 0.4}, "3d_fullres"),
        ((FINE, COARSE), {"3d_fullres": 3.0, "3d_lowres": 0.2}, "3d_lowres"),
    ],
)
def test_the_configuration_that_is_better_is_chosen(tmp_path, monkeypatch, configurations, noise, best):
    made = use(world(tmp_path, configurations, noise, cases=10), monkeypatch)
    chosen = select(made.dataset, made.plan, made.job)
    assert [m.configuration for m in chosen.members] == [best], chosen.candidates
    assert read_value(made.job.work / "selection.json", Selection) == chosen


def test_errors_that_are_independent_make_the_ensemble_best(independent):
    _, chosen = independent
    assert tuple(m.configuration for m in chosen.members) == PAIR, chosen.candidates
    assert {c.configurations for c in chosen.candidates} == {("2d",), ("3d_fullres",), PAIR}
    assert len(chosen.candidates) == 5  # alone, together, and leaning to either


def test_without_a_difference_the_simplest_is_chosen(tmp_path, monkeypatch):
    made = use(world(tmp_path, (FLAT, FINE), {"2d": 1.0, "3d_fullres": 1.0}, cases=10, shared=True), monkeypatch)
    chosen = select(made.dataset, made.plan, made.job)
    assert [m.configuration for m in chosen.members] == ["2d"]
    assert all(c.within_noise for c in chosen.candidates)
    assert not masks_of_team(made.job.work, Team(PAIR)).exists()


@pytest.mark.parametrize("weights", [(), (2.0, 1.0), (1.0, 2.0)])
def test_what_a_team_is_judged_by_is_what_predict_gives_with_its_weights(independent, monkeypatch, weights):
    made, _ = independent
    use(made, monkeypatch)
    team = Team(PAIR, weights)
    asked = ask_together(made.dataset, made.plan, [team], {0: ["c0", "c5"]}, replace(made.job, work=made.job.work))
    chosen = [Chosen(configuration=n, folds=(0,), weight=w) for n, w in zip(PAIR, weights or (1.0, 1.0), strict=True)]
    ensemble = Ensemble(made.plan, made.members(made.plan, PAIR, (0,), made.job), chosen)
    masks = {case: masks_of_team(made.job.work, team) / f"{case}.nii.gz" for case in ("c0", "c5")}
    for case, path in masks.items():
        voxels = read_case(made.dataset, made.dataset.case(case))
        found = predict_case(ensemble, voxels.image_czyx, voxels.geometry, Options(threads=1)).label_zyx
        assert_array_equal(read_image(path).voxels_czyx[0], label_values(found, made.plan.labels))
    assert_allclose(
        asked.scores(team, made.dataset, made.plan.labels).mean_over_targets(),
        score_masks(made.dataset, made.plan.labels, masks, made.job).mean_over_targets(),
    )


def test_typed_again_nobody_is_asked_again_and_the_choice_is_the_same(tmp_path, monkeypatch):
    made = use(world(tmp_path, (FLAT, FINE), {"2d": 1.2, "3d_fullres": 1.2}, cases=10), monkeypatch)
    first = select(made.dataset, made.plan, made.job)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr("autounet.inference.held_out.predict_case", refuse)
        again = select(made.dataset, made.plan, made.job)
    assert again == first  # the seconds of the presets too: they are measured once
    folder = masks_of_team(made.job.work, Team(PAIR))  # as when a first choice, of fewer folds, was another
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "c3.nii.gz").unlink()
    select(made.dataset, made.plan, made.job)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_networks_that_are_too_sure_get_a_temperature(tmp_path, monkeypatch):
    plain = use(world(tmp_path / "plain", (FINE,), {"3d_fullres": 1.0}, cases=10), monkeypatch)
    honest = select(plain.dataset, plain.plan, plain.job)
    sharp = use(world(tmp_path / "sharp", (FINE,), {"3d_fullres": 1.0}, cases=10, sharpness=8.0), monkeypatch)
    found = select(sharp.dataset, sharp.plan, sharp.job)
    assert_allclose(found.temperature, 8 * honest.temperature, rtol=0.15)  # the sharpest are cut off at 1e-7
    assert found.calibration is not None
    assert found.calibration.nll_after < found.calibration.nll_before
    assert found.calibration.voxels == 10 * 256


def test_islands_of_the_networks_are_repaired_and_the_score_is_that_of_rules_without_a_say(tmp_path, monkeypatch):
    made = use(world(tmp_path, (FINE,), {"3d_fullres": 0.4}, cases=15, islands=True), monkeypatch)
    found = select(made.dataset, made.plan, made.job)
    step = found.post_steps[0]
    assert step.target == "class_1"
    assert step.kind in ("keep_largest", "drop_small")
    gains = {s.target: s.gain for s in found.post_steps}
    before, after = found.candidates[0].dice, found.mean_dice
    assert after is not None
    assert_allclose(after - before, sum(gains.values()) / 2, atol=5e-3)  # two classes
    assert step.words in found.lines("model.aunet")[1]


def test_ways_to_predict_are_measured(independent):
    _, chosen = independent
    assert [p.name for p in chosen.presets] == ["fast", "balanced", "best"]
    for preset in chosen.presets:
        assert preset.dice is not None
        assert preset.seconds_per_case is not None
        assert preset.cases == 3
    fast, balanced, best = chosen.presets
    assert (best.step_fraction, best.mirror, best.folds) == (0.5, True, 0)
    assert fast.folds == 1
    assert balanced.dice >= best.dice - 0.003
    assert fast.dice >= best.dice - 0.02


def test_presets_are_the_cheapest_ways_that_lose_little():
    ways = [Way(0.75, False), Way(0.5, False), Way(0.75, True), Way(0.5, True)]
    measured = zip(ways, (0.885, 0.895, 0.8985, 0.9), (1.0, 3.0, 8.0, 24.0), strict=True)
    tried = [Tried(way=w, dice=d, seconds=s, voxels=100 * s) for w, d, s in measured]
    fast, balanced, best = presets_of(tried, folds=5, dearer=4.0, cases=3)
    assert (fast.step_fraction, fast.mirror, fast.folds, fast.dice, fast.seconds_per_case) == (0.75, False, 1, 0.885, 1.0)
    assert (balanced.step_fraction, balanced.mirror, balanced.folds, balanced.dice, balanced.seconds_per_case) == (
        0.75,
        True,
        0,
        0.8985,
        32.0,
    )
    assert (best.step_fraction, best.mirror, best.folds, best.dice, best.seconds_per_case) == (0.5, True, 0, 0.9, 96.0)
    assert "Dice 0.8985 by one fold on 3 cases" in balanced.words


def test_ways_end_with_the_plan_s_own():
    assert ways_of(PLAN, ["3d_fullres"]) == (Way(0.75, False), Way(0.5, False), Way(0.75, True), Way(0.5, True))
    still = replace(FINE, inference=replace(FINE.inference, mirror_axes=(), step_fraction=1.0))
    assert ways_of(plan_of(still), ["3d_fullres"]) == (Way(1.0, False),)


def test_the_dice_of_held_out_cases_is_foreseen(independent):
    _, chosen = independent
    known = chosen.expectation
    assert known is not None
    assert known.cases == 15
    assert np.all(np.diff(known.dice) >= 0)
    assert known.dice[-1] - known.dice[0] > 0.2  # hard cases are known to be hard
    assert known.below < 0 < known.above


def test_the_last_lines_say_how_good_how_sure_and_what_to_type(independent):
    _, chosen = independent
    good, sure, following = chosen.lines("my model.aunet")
    assert f"mean {chosen.mean_dice:.3f}" in good
    assert f"Sure to {chosen.mean_low:.3f} to {chosen.mean_high:.3f}" in sure
    assert "folds from" in sure
    assert "autounet predict 'my model.aunet' IMAGES MASKS" in following
