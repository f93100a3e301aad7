"""What was chosen after training is applied by `predict` without being asked, and can be declined."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.cli import main
from autounet.images.geometry import geometry_from_affine
from autounet.images.write import write_image
from autounet.job import Job
from autounet.model import Wish, load
from autounet.progress import Progress
from autounet.stages import info
from autounet.stages.predict import PredictOptions, predict
from autounet.store.bundle import Card, Contents, MemberFile, open_bundle, write_bundle
from autounet.store.selection import Calibration, Chosen, Expectation, PostStep, Preset, Selection
from autounet.store.weights import save_tensors
from planners.errors import UserError
from tests.tiny_models import configuration, fingerprint_of, network_of, plan_of, smooth

GRID = geometry_from_affine((16, 18, 20), np.eye(4))
PLAIN = Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="the only one")
WISE = replace(
    PLAIN,
    post_steps=(PostStep(kind="drop_small", target="class_1", minimum_mm3=1e6, gain=0.01),),
    temperature=2.0,
    calibration=Calibration(nll_before=0.3, nll_after=0.2, ece_before=0.1, ece_after=0.05, voxels=999),
    expectation=Expectation(expected=(0.0, 1.0), dice=(0.0, 1.0), below=-0.05, above=0.04, look_below=0.999, cases=50),
    presets=(Preset(name="fast", step_fraction=1.0, mirror=False, folds=1, dice=0.8, seconds_per_case=1.5, cases=3),),
)


@pytest.fixture
def models(tmp_path):
    plan = plan_of(configuration((8, 8, 8)))
    weights = tmp_path / "weights.safetensors"
    save_tensors(weights, network_of(plan, "3d_fullres", seed=2).state_dict())
    for name, chosen in (("plain", PLAIN), ("wise", WISE)):
        contents = Contents(
            plan=plan,
            fingerprint=fingerprint_of(plan),
            selection=chosen,
            card=Card(name=name),
            members=[MemberFile("3d_fullres", 0, weights)],
        )
        write_bundle(tmp_path / f"{name}.aunet", contents)
    for number in range(2):
        write_image(tmp_path / "in" / f"case_{number}.nii.gz", smooth((1, 16, 18, 20), number), GRID)
    return tmp_path


def job(folder):
    return Job(work=folder, progress=Progress.silent(), device="cpu", threads=1)


def made(folder, model, out, **options):
    report = predict(folder / f"{model}.aunet", folder / "in", folder / out, job(folder / out), PredictOptions(**options))
    return report, [np.asarray(nibabel.load(folder / out / f"case_{n}.nii.gz").dataobj) for n in range(2)]


def test_repairs_are_made_unless_they_are_declined(models):
    _, plain = made(models, "plain", "a")
    _, wise = made(models, "wise", "b")
    _, declined = made(models, "wise", "c", postprocessing=False)
    for before, after, left in zip(plain, wise, declined, strict=True):
        assert (before == 1).any()
        assert (after == np.where(before == 1, 0, before)).all()
        assert (left == before).all()


def test_every_case_says_how_good_its_mask_probably_is(models):
    report, _ = made(models, "wise", "out")
    told = json.loads((models / "out" / "predict.json").read_text())["cases"]
    for case, shown in zip(report.cases, told, strict=True):
        assert 0 < case.dice < 1
        assert_allclose([case.dice_low, case.dice_high], [max(0, case.dice - 0.05), case.dice + 0.04], atol=2e-4)
        assert shown["dice"] == case.dice
        assert "as low as" in case.look[0]
    assert f"Look at {report.cases[0].case}" in " ".join(report.lines())
    again, _ = made(models, "wise", "out")
    assert all(case.found for case in again.cases)
    assert [replace(case, found=False) for case in again.cases] == list(report.cases)
    silent, _ = made(models, "plain", "silent")
    assert all(case.dice is None for case in silent.cases)


def test_probabilities_are_tempered_and_the_mask_stays(models):
    image = models / "in" / "case_0.nii.gz"
    wish = Wish(probabilities=True, post_process=False, threads=1)
    plain, wise = (load(models / f"{name}.aunet", device="cpu").predict(image, wish=wish) for name in ("plain", "wise"))
    roots = np.sqrt(plain.probabilities_kzyx)
    assert_allclose(wise.probabilities_kzyx, roots / roots.sum(0), atol=1e-5)
    assert (plain.values_zyx == wise.values_zyx).all()


def test_a_preset_by_its_short_flag(models, capsys):
    base = ["predict", str(models / "wise.aunet"), str(models / "in")]
    assert main([*base, str(models / "short"), "--fast", "--device", "cpu", "--threads", "1", "-q"]) == 0
    assert main([*base, str(models / "long"), "--preset", "fast", "--device", "cpu", "--threads", "1", "-q"]) == 0
    for n in range(2):
        assert (models / "short" / f"case_{n}.nii.gz").read_bytes() == (models / "long" / f"case_{n}.nii.gz").read_bytes()
    capsys.readouterr()
    assert main([*base, str(models / "both"), "--fast", "--best", "--device", "cpu"]) != 0
    assert "best and fast cannot both be wished" in capsys.readouterr().err
    assert main([*base, str(models / "kept"), "--no-postprocessing", "--device", "cpu", "--threads", "1", "-q"]) == 0
    assert any((np.asarray(nibabel.load(models / "kept" / f"case_{n}.nii.gz").dataobj) == 1).any() for n in range(2))


def test_info_shows_what_was_chosen(models):
    text = "\n".join(info.look(models / "wise.aunet").lines)
    assert "drop pieces of class_1 below 1e+06 mm³ (Dice +0.0100)" in text
    assert "--fast" in text
    assert "1.5 s a case, Dice 0.8000 by one fold on 3 cases" in text
    assert "temperature 2, ECE 0.1000 before, 0.0500 after" in text
    assert "foresees" in text


@pytest.mark.parametrize(
    "broken",
    [
        {"post_steps": (PostStep(kind="sides", target="class_1", partner="nobody"),)},
        {"post_steps": (PostStep(kind="fill_holes", target="class_1", axis=7),)},
        {"post_steps": (PostStep(kind="drop_small", target="class_1", minimum_mm3=-1.0),)},
        {"presets": (Preset(name="fast", step_fraction=0.0, mirror=False, folds=1),)},
        {"presets": (Preset(name="fast", step_fraction=0.5, mirror=False, folds=-1),)},
        {"expectation": Expectation(expected=(0.5, 0.4), dice=(0.1, 0.2), below=0, above=0)},
        {"expectation": Expectation(expected=(), dice=(), below=0, above=0)},
        {"expectation": Expectation(expected=(0.1, 0.2), dice=(0.1,), below=0, above=0)},
    ],
)
def test_a_model_that_lies_about_its_choices_is_refused(models, broken):
    bundle = open_bundle(models / "plain.aunet")
    contents = Contents(
        plan=bundle.plan,
        fingerprint=bundle.fingerprint,
        selection=replace(PLAIN, **broken),
        card=bundle.card,
        members=[MemberFile("3d_fullres", 0, models / "weights.safetensors")],
    )
    with pytest.raises(UserError):
        write_bundle(models / "broken.aunet", contents)
    assert not (models / "broken.aunet").exists()
