"""Plans, manifests and models that are wrong, met by the verbs that use them: one clear error, and nothing is lost or written over."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autounet.cli import main
from autounet.store.manifest import Manifest
from tests.cli.conftest import Call
from tests.cli.test_bad_input import _cut, _deep, _is_one_clear_error, _with
from tests.tiny_models import configuration, plan_of, tiny_bundle

BROKEN: dict[str, Callable[[dict[str, object]], str]] = {
    "a wrong key": _with("trainer", "nnUNetTrainer"),
    "of another version": _with("schema", 99),
    "cut in half": _cut,
    "10 MB deep": _deep,
}
SHORT = ("--iterations", "1", "--folds", "0", "--configurations", "2d", "--threads", "1")
MAKING = {"plan": (), "prepare": (), "train": SHORT, "run": SHORT, "report": ()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with everything a run makes beside it."""
    data = tmp_path_factory.mktemp("trained") / "organs"
    assert main(["demo", "--cases", "6", "--size", "24", "--folder", str(data), "--data-only", "--quiet"]) == 0
    assert main(["run", str(data), *SHORT, "--quiet"]) == 0
    return data


@pytest.fixture
def dataset(trained: Path) -> Iterator[Path]:
    """The same; what a test breaks is mended behind it."""
    work = trained.with_name("organs.autounet")
    kept = {path: path.read_bytes() for path in (work / "plan.json", Manifest.open(work).path)}
    yield trained
    for path, content in kept.items():
        path.write_bytes(content)


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file by its bytes, but the log of events, which only grows."""
    files = [f for folder in folders for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "events.jsonl"]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("verb", MAKING)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plan_stops_the_verb_and_costs_nothing(call: Call, dataset: Path, verb: str, fault: str) -> None:
    work = dataset.with_name("organs.autounet")
    plan = work / "plan.json"
    plan.write_text(BROKEN[fault](json.loads(plan.read_text())))
    before = snapshot(dataset, work)
    said = call(verb, dataset, *MAKING[verb], "--quiet")
    _is_one_clear_error(said)
    assert "plan.json" in said.last
    assert snapshot(dataset, work) == before


@pytest.mark.parametrize("verb", ["train", "run"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_manifest_stops_the_verb_and_costs_nothing(call: Call, dataset: Path, verb: str, fault: str) -> None:
    work = dataset.with_name("organs.autounet")
    path = Manifest.open(work).path
    path.write_text(BROKEN[fault](json.loads(path.read_text())))
    before = snapshot(dataset, work)
    said = call(verb, dataset, *SHORT, "--quiet")
    _is_one_clear_error(said)
    assert "manifest.json" in said.last
    assert snapshot(dataset, work) == before


@pytest.fixture(scope="module")
def sound_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model"), plan_of(configuration((1, 16, 16), "2d", spacing_zyx_mm=(11.0, 4.0, 4.0))))


def with_plan(model: Path, path: Path, text: str) -> Path:
    """The same model with another plan, and hashes that fit."""
    with zipfile.ZipFile(model) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    parts["plan.json"] = text.encode()
    del parts["hashes.json"]
    hashes = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**parts, "hashes.json": json.dumps(hashes).encode()}.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("verb", ["predict", "info", "verify", "export"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_model_with_a_broken_plan_is_refused(call: Call, trained: Path, sound_model: Path, tmp_path: Path, fault: str, verb: str) -> None:
    with zipfile.ZipFile(sound_model) as archive:
        plain = json.loads(archive.read("plan.json"))
    model = with_plan(sound_model, tmp_path / "odd.aunet", BROKEN[fault](plain))
    before = snapshot(tmp_path)
    words = {"predict": ["predict", model, trained / "images", tmp_path / "masks"], "export": ["export", "nnunet", model, tmp_path / "out"]}
    said = call(*words.get(verb, [verb, model]), "--quiet")
    _is_one_clear_error(said)
    assert "plan.json" in said.last
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_manifest_of_masks_stops_a_prediction_and_costs_no_mask(
    call: Call, trained: Path, sound_model: Path, tmp_path: Path, fault: str
) -> None:
    image = sorted((trained / "images").iterdir())[0]
    assert call("predict", sound_model, image, tmp_path / "masks", "--quiet").code == 0
    path = Manifest.open(tmp_path / "masks").path
    path.write_text(BROKEN[fault](json.loads(path.read_text())))
    before = snapshot(tmp_path)
    said = call("predict", sound_model, image, tmp_path / "masks", "--quiet")
    _is_one_clear_error(said)
    assert "manifest.json" in said.last
    assert snapshot(tmp_path) == before
