"""The optional engine: OpenVINO says what torch says, opens nothing, and is never taken by itself where it disagrees."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.write import write_image
from autounet.inference import engines
from autounet.inference.forward import Voters
from autounet.inference.heads import split_heads
from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings
from autounet.job import Job
from autounet.model import Wish, load
from autounet.progress import Progress
from autounet.stages.predict import PredictOptions, predict
from planners.errors import UserError
from tests.tiny_models import Identity, architecture, configuration, frame_of, member, network_of, plan_of, smooth, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the optional package openvino is not installed")


def engine(threads=1):
    from autounet.inference.openvino_engine import OpenVino

    return OpenVino(threads)


def shaken(network, seed=5):
    """Biases and scales that are not zeros and ones, so that a layer left out is seen."""
    rng = torch.Generator().manual_seed(seed)
    for values in network.parameters():
        values.requires_grad_(False)
        if values.ndim == 1:
            values += 0.5 * torch.randn(values.shape, generator=rng)
    return network


NETWORKS = {
    "3D plain": configuration((8, 16, 16), architecture=architecture(3, (4, 8, 8))),
    "3D residual": configuration((8, 16, 16), architecture=architecture(3, (4, 8, 8), kind="residual")),
    "2D plain": configuration((1, 16, 24), name="2d", architecture=architecture(2, (4, 8))),
    "2D residual": configuration((1, 16, 24), name="2d", architecture=architecture(2, (4, 8), kind="residual")),
}


@installed
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_layer_of_a_network_says_what_it_says_in_torch(kind):
    chosen = NETWORKS[kind]
    network = shaken(network_of(plan_of(chosen, channels=2), chosen.name))
    image = torch.from_numpy(np.stack([smooth((2, *chosen.patch_zyx), seed) for seed in (1, 2)])) / 10
    image = image[:, :, 0] if chosen.dimensions == 2 else image
    with torch.no_grad():
        expected = network(image)
    twin = engine().twin(network, "float32")
    assert expected.std() > 0.1
    torch.testing.assert_close(twin(image), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twin(image[:1]), expected[:1], atol=1e-4, rtol=1e-4)


@installed
def test_a_network_without_its_last_layer_is_another_network():
    chosen = NETWORKS["3D plain"]
    network = shaken(network_of(plan_of(chosen, classes=30), chosen.name))
    split = split_heads([network], 30)
    assert split is not None
    runs, image = engine(), torch.from_numpy(smooth((1, *chosen.patch_zyx), 3))[None]
    logits, maps = runs.twin(network, "float32")(image), runs.twin(split[0][0], "float32")(image)
    assert (logits.shape[1], maps.shape[1]) == (30, 4)
    torch.testing.assert_close(split[1].logits(maps[0]), logits[0], atol=1e-3, rtol=1e-4)


@installed
@pytest.mark.parametrize(("kind", "classes"), [("3D plain", 3), ("3D plain", 30), ("2D plain", 3)])
def test_a_mirrored_ensemble_of_two_folds_is_predicted_as_by_torch_with_any_number_of_threads(kind, classes):
    chosen = NETWORKS[kind]
    plan = plan_of(chosen, classes=classes)
    members = [member(shaken(network_of(plan, chosen.name, fold), fold), chosen) for fold in (0, 1)]
    shape, native = ((12, 24, 20), (9, 30, 20)) if chosen.dimensions == 3 else ((3, 24, 30), (3, 24, 30))
    image, frame = smooth((1, *shape), 4), frame_of(shape, native)
    settings = replace(InferenceSettings.of(chosen), probabilities=True, uncertainty=classes == 3)
    assert settings.mirror_axes

    def predicted(**changes):
        threads = changes.pop("threads", 1)
        return predict_prepared(members, image, frame, plan, replace(settings, **changes), threads=threads)

    plain = predicted()
    for found in (predicted(engine=engine()), predicted(engine=engine(3), threads=3)):
        np.testing.assert_allclose(found.probabilities_kzyx, plain.probabilities_kzyx, atol=1e-3)
        assert (found.label_zyx == plain.label_zyx).mean() > 0.998
        if classes == 3:
            np.testing.assert_allclose(found.disagreement_zyx, plain.disagreement_zyx, atol=1e-3)


@installed
def test_bfloat16_is_a_hint_that_stays_near_float32():
    chosen = NETWORKS["3D plain"]
    network = shaken(network_of(plan_of(chosen), chosen.name))
    image = torch.from_numpy(smooth((1, *chosen.patch_zyx), 6))[None]
    with torch.no_grad():
        expected = network(image)
    apart = engine().twin(network, "bfloat16")(image) - expected
    assert apart.std() < 0.05 * expected.std()


@installed
def test_a_network_is_compiled_once_however_often_and_by_whomever_it_is_asked(monkeypatch):
    from autounet.inference import openvino_engine

    built = []
    whole = openvino_engine.graph_of
    monkeypatch.setattr(openvino_engine, "graph_of", lambda *told: built.append(told[2]) or whole(*told))
    chosen = NETWORKS["3D plain"]
    plan, runs = plan_of(chosen), engine()
    voters = [member(network_of(plan, chosen.name), chosen)]
    settings = replace(InferenceSettings.of(chosen), engine=runs)
    tiles = torch.from_numpy(smooth((1, *chosen.patch_zyx), 1))[None]
    answers = []
    for _ in range(3):
        answers.append(Voters(voters, settings, 1, 3).vote(tiles).mean(0))
        runs.release()  # of memory; the next tile takes it again
    assert built == [(1, 1, 8, 16, 16)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@installed
def test_a_network_that_is_not_ours_is_left_to_torch():
    chosen = NETWORKS["3D plain"]
    image = smooth((3, 12, 20, 20), 7)
    settings = replace(InferenceSettings.of(chosen), engine=engine())
    found = predict_prepared([member(Identity(), chosen)], image, frame_of((12, 20, 20), (12, 20, 20)), plan_of(chosen), settings)
    assert np.array_equal(found.label_zyx, image.argmax(0))


class Listener(Progress):
    def __init__(self):
        super().__init__()
        self.heard = []

    def note(self, text):
        self.heard.append(text)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    return tiny_bundle(folder, plan_of(configuration((8, 16, 16))), folds=(0, 1))


@pytest.fixture
def image(tmp_path):
    grid = Geometry(shape_zyx=(9, 20, 18), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0, 0), direction=STRAIGHT)
    write_image(tmp_path / "in" / "case.nii.gz", smooth((1, 9, 20, 18), 1), grid)
    return tmp_path / "in"


def predicted(model, image, output, **options):
    voice = Listener()
    job = Job(work=output, progress=voice, device="cpu", threads=1)
    report = predict(model, image, output, job, PredictOptions(**options))
    return report, [said for said in voice.heard if "runs the networks" in said]


@installed
def test_a_prediction_says_who_ran_the_networks_and_a_mask_of_another_engine_is_not_taken_for_it(model, image, tmp_path):
    report, said = predicted(model, image, tmp_path / "out", engine="openvino")
    assert not report.failed_cases
    assert len(said) == 1
    assert said[0].startswith("OpenVINO 20")
    assert predicted(model, image, tmp_path / "out", engine="openvino")[0].cases[0].found
    again, silent = predicted(model, image, tmp_path / "out")
    assert not again.cases[0].found
    assert silent == []


@installed
@pytest.mark.parametrize(("slope", "why"), [(0.3, "differs from torch"), (float("nan"), "the network's answer is not finite")])
def test_an_engine_that_disagrees_is_never_taken_by_itself_and_refused_when_it_is_asked_for(
    model, image, tmp_path, monkeypatch, slope, why
):
    monkeypatch.setattr("autounet.inference.openvino_graph.SLOPE", slope)  # one layer is wrong
    report, said = predicted(model, image, tmp_path / "auto", engine="auto")
    assert not report.failed_cases
    assert len(said) == 1
    assert said[0].startswith("Torch runs the networks: OpenVINO 20")
    assert why in said[0]
    predicted(model, image, tmp_path / "torch")
    assert (tmp_path / "auto" / "case.nii.gz").read_bytes() == (tmp_path / "torch" / "case.nii.gz").read_bytes()
    with pytest.raises(UserError, match=why) as error:
        load(model, device="cpu").engine(Wish(engine="openvino", threads=1))
    assert error.value.fix == "leave out --engine"


@installed
def test_what_the_library_cannot_compile_is_said_in_one_line(model, monkeypatch):
    def broken(*_):
        raise RuntimeError("Check 'false' failed at src/frontends:12:\nno kernel for this\nat more places")

    monkeypatch.setattr("autounet.inference.openvino_engine.graph_of", broken)
    found = load(model, device="cpu").engine(Wish(engine="auto", threads=1))
    assert found.engine is None
    assert "cannot run this model here: Check 'false' failed" in found.line
    assert "\n" not in found.line


def test_without_the_package_its_name_is_what_to_type(model, image, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("autounet.inference.openvino_engine.find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(UserError, match="openvino is not installed") as error:
        predicted(model, image, tmp_path / "out", engine="openvino")
    assert "pip install 'autounet[openvino]'" in error.value.fix
    report, said = predicted(model, image, tmp_path / "out", engine="auto")
    assert not report.failed_cases
    assert said == ["Torch runs the networks: the package openvino is not installed."]


def test_a_model_on_an_accelerator_is_not_for_openvino(model, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines, "device_of", lambda member: torch.device("cuda"))
    with pytest.raises(UserError, match="this model is on cuda") as error:
        load(model, device="cpu").engine(Wish(engine="openvino"))
    assert "--device cpu" in error.value.fix


def test_whoever_does_not_ask_for_it_imports_nothing_of_it(model, image, tmp_path):
    before = "openvino" in sys.modules
    predicted(model, image, tmp_path / "out")
    assert ("openvino" in sys.modules) == before


@pytest.mark.skipif(importlib.util.find_spec("openvino_telemetry") is None, reason="the package that openvino reports through is not there")
@pytest.mark.parametrize(
    ("way", "left"),
    [("from autounet.inference.openvino_engine import OpenVino; OpenVino(1)", []), ("import openvino", ["intel"])],
)
def test_importing_openvino_reports_to_its_maker_and_leaves_a_number_in_the_home_folder_but_not_from_here(way, left, tmp_path):
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-c", way], cwd=REPOSITORY, env=home, check=True, capture_output=True, timeout=300)
    assert [path.name for path in tmp_path.iterdir()] == left


@installed
def test_importing_it_leaves_the_modules_as_they_were():
    from autounet.inference import openvino_engine

    with openvino_engine._absent("json"):
        with pytest.raises(ImportError):
            importlib.import_module("json")
        with pytest.raises(ImportError):
            importlib.import_module("json.decoder")
    assert sys.modules["json"] is json


@installed
def test_memory_counts_the_maps_that_every_compiled_member_keeps():
    runs = engine()
    one, five = (replace(InferenceSettings(), engine=runs, precision="float32").maps_share(members) for members in (1, 5))
    assert five == pytest.approx(5 * one)
    assert InferenceSettings().maps_share(5) == 1.0
