"""Several configurations really trained, from images to a model that votes with weights."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from autounet import phantoms
from autounet.cli import main
from autounet.data.splits import make_splits, write_splits
from autounet.metrics.opinions import Opinion
from autounet.model import Wish, load
from autounet.stages import prepare, select
from autounet.stages.bundle import make_bundle
from autounet.stages.predict import predict
from autounet.stages.train import train
from autounet.store.bundle import open_bundle
from autounet.store.selection import Chosen
from autounet.store.strict import read_value
from planners.plan import Schedule
from tests.stages.test_train import QUICK, small, world

pytestmark = pytest.mark.slow


def two(plan, long: Schedule, short: Schedule):
    """A three-dimensional network trained for long and a two-dimensional one trained briefly."""
    solid = small(plan, long).configurations[0]
    flat = replace(
        solid,
        name="2d",
        patch_zyx=(1, 16, 16),
        schedule=short,
        architecture=replace(
            solid.architecture, dimensions=2, strides_zyx=((1, 1, 1), (1, 2, 2)), kernels_zyx=((1, 3, 3),) * 2, features=(4, 8)
        ),
    )
    return replace(plan, configurations=(flat, solid), train=("2d", solid.name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    dataset, plan, job = world(tmp_path_factory.mktemp("two"), "organs", 9, 20)
    plan = two(plan, replace(QUICK, iterations=120, iterations_per_epoch=60), replace(QUICK, iterations=2, iterations_per_epoch=2))
    splits = make_splits(dataset, 3, 0)
    write_splits(job.work / "splits.json", splits)
    prepare.prepare(dataset, plan, job)
    train(dataset, plan, splits, job)
    return dataset, plan, job, select.select(dataset, plan, job)


def test_the_network_that_was_trained_for_long_is_chosen_and_everything_is_known_of_it(trained):
    _, plan, job, chosen = trained
    solid = plan.configurations[1].name
    assert [m.configuration for m in chosen.members] == [solid], chosen.candidates
    assert {c.configurations for c in chosen.candidates} == {("2d",), (solid,), ("2d", solid)}
    assert len(chosen.folds) == 3
    assert chosen.calibration is not None
    assert chosen.calibration.voxels > 9 * 200
    assert [p.name for p in chosen.presets] == ["fast", "balanced", "best"]
    assert all(p.dice is not None for p in chosen.presets)
    opinions = sorted((job.work / "runs").glob("*/fold_*/validation/opinions/*.json"))
    assert len(opinions) == 2 * 9
    assert len(read_value(opinions[0], Opinion).expected) == len(plan.labels.foreground)


def test_a_bundle_votes_with_the_weights_of_its_selection(trained, tmp_path):
    dataset, plan, job, chosen = trained
    names = [c.name for c in plan.configurations]

    def model(*members):
        return make_bundle(dataset, plan, replace(chosen, members=members, temperature=1.0, post_steps=(), int8=None), job)

    wish = Wish(probabilities=True, threads=1)
    image = dataset.folder / dataset.cases[0].images[0].path
    alone = [load(model(Chosen(configuration=n, folds=(0, 1))), device="cpu").predict(image, wish=wish) for n in names]
    path = model(*(Chosen(configuration=n, folds=(0, 1), weight=w) for n, w in zip(names, (1.0, 2.0), strict=True)))
    together = load(path, device="cpu").predict(image, wish=wish)
    expected = (alone[0].probabilities_kzyx + 2 * alone[1].probabilities_kzyx) / 3
    np.testing.assert_allclose(together.probabilities_kzyx, expected, atol=1e-5)
    assert [m.weight for m in open_bundle(path).selection.members] == [1.0, 2.0]
    report = predict(path, image, tmp_path / "out", replace(job, work=tmp_path / "out"))
    written = nibabel.load(tmp_path / "out" / report.cases[0].mask)
    assert_array_equal(np.asarray(written.dataobj).T, together.values_zyx)


def test_run_trains_selects_and_packs_several_configurations(tmp_path, capsys):
    data = tmp_path / "organs"
    phantoms.make("organs", data, cases=6, size=24, seed=1)
    words = ["--configurations", "2d,3d_fullres", "--iterations", "3", "--folds", "0,1", "--device", "cpu", "--threads", "1", "--json"]
    assert main(["run", str(data), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    good, sure, following = told["result"]["summary"]
    assert good.startswith("Out-of-fold Dice over")
    assert "Chosen: " in sure
    assert following.startswith("Predict with: autounet predict")
    chosen = open_bundle(tmp_path / "organs.autounet" / "organs.aunet").selection
    assert {c.configurations for c in chosen.candidates} == {("2d",), ("3d_fullres",), ("2d", "3d_fullres")}
    assert all(c.first_share is not None for c in chosen.candidates)
    assert (tmp_path / "organs.autounet" / "scores" / "2d+3d_fullres" / "scores.json").exists()
