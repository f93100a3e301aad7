"""Files that are wrong: each is one clear error with exit 4, and nothing of the user's is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autounet import pipeline
from autounet.store.files import publish_text
from autounet.store.manifest import Manifest
from planners.plan import PLAN_SCHEMA
from tests.cli.conftest import Call, Said

Break = Callable[[dict[str, Any]], str]


def _with(key: str, value: object) -> Break:
    return lambda plain: json.dumps(plain | {key: value})


def _without(key: str) -> Break:
    return lambda plain: json.dumps({k: v for k, v in plain.items() if k != key})


def _cut(plain: dict[str, Any]) -> str:
    text = json.dumps(plain)
    return text[: len(text) // 2]


def _deep(plain: dict[str, Any]) -> str:
    return "[" * 5_000_000 + "]" * 5_000_000


def _deep_below_a_key(plain: dict[str, Any]) -> str:
    return json.dumps(plain)[:-1] + ', "reasons": ' + "[" * 5_000_000 + "]" * 5_000_000 + "}"


def _twice(plain: dict[str, Any]) -> str:
    return json.dumps(plain)[:-1] + ', "planner": "other"}'


BROKEN_PLANS: dict[str, tuple[Break, str]] = {
    "a wrong key": (_with("trainer", "nnUNetTrainer"), "trainer"),
    "a missing key": (_without("labels"), "labels"),
    "a newer version": (_with("schema", PLAN_SCHEMA + 1), f"has schema {PLAN_SCHEMA + 1}, this version reads {PLAN_SCHEMA}"),
    "an older version": (_with("schema", 0), "0"),
    "cut in half": (_cut, "plan.json"),
    "10 MB deep": (_deep, "plan.json"),
    "10 MB deep below a key": (_deep_below_a_key, "plan.json"),
    "a key twice": (_twice, "planner"),
    "empty": (lambda _: "", "empty"),
    "not JSON": (lambda _: "plan: {}", "no JSON"),
    "a list": (lambda _: "[]", "plan.json"),
    "a number that is infinite": (lambda p: json.dumps(p).replace('"batch_size": 2', '"batch_size": Infinity'), "Infinity"),
    "a text for a number": (lambda p: json.dumps(p).replace('"batch_size": 2', '"batch_size": "2"'), "batch_size"),
    "a patch that does not divide": (lambda p: json.dumps(p).replace("[16, 16, 16]", "[15, 16, 16]"), "patch"),
}


def _is_one_clear_error(said: Said, code: int = 4) -> None:
    assert said.code == code, said
    assert said.last.startswith("error: ")
    assert len(said.err.strip().splitlines()) == 1
    assert len(said.last) < 600
    assert said.last.rstrip(".?").count(". ") >= 1  # two sentences


@pytest.mark.parametrize("name", BROKEN_PLANS)
def test_a_broken_plan_is_refused_by_name_and_kept(call: Call, plan_file: Path, name: str) -> None:
    broken, word = BROKEN_PLANS[name]
    plan_file.write_text(broken(json.loads(plan_file.read_text())))
    before = plan_file.read_bytes()
    said = call("info", plan_file)
    _is_one_clear_error(said)
    assert word in said.last
    assert "plan.json" in said.last or "plan" in said.last
    assert plan_file.read_bytes() == before


def test_a_whole_plan_is_read(call: Call, plan_file: Path) -> None:
    assert call("info", plan_file).code == 0


def _manifest(folder: Path) -> Path:
    manifest = Manifest.open(folder)
    manifest.add("report.txt", publish_text(folder / "report.txt", "all is well"))
    return manifest.path


BROKEN_MANIFESTS: dict[str, Break] = {
    "a wrong key": _with("extra", 1),
    "a missing key": _without("entries"),
    "a newer version": _with("schema", 99),
    "cut in half": _cut,
    "10 MB deep": _deep,
    "empty": lambda _: "",
}


@pytest.mark.parametrize("name", BROKEN_MANIFESTS)
def test_a_broken_manifest_is_refused_and_nothing_is_lost(call: Call, tmp_path: Path, name: str) -> None:
    path = _manifest(tmp_path)
    path.write_text(BROKEN_MANIFESTS[name](json.loads(path.read_text())))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    said = call("verify", tmp_path)
    _is_one_clear_error(said)
    assert "manifest.json" in said.last
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_verify_finds_a_changed_byte(call: Call, tmp_path: Path) -> None:
    _manifest(tmp_path)
    assert call("verify", tmp_path).code == 0
    (tmp_path / "report.txt").write_text("all is w3ll")
    said = call("verify", tmp_path)
    assert said.code == 3
    assert said.last == "error: 1 artefact failed: report.txt. Mend what is explained above, then type the same command again."


def _unwritable(tmp_path: Path) -> Path:
    if os.geteuid() == 0:  # root may write anywhere but here
        return Path("/proc/autounet-test/work")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    return folder / "work"


def test_a_work_folder_that_cannot_be_written_is_named(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "livers"
    data.mkdir()

    def check(_: Path, job: Any, __: object) -> object:
        publish_text(job.work / "index.json", "{}")
        raise AssertionError

    monkeypatch.setattr(pipeline, "check", check)
    said = call("check", data, "--work", _unwritable(tmp_path))
    _is_one_clear_error(said)
    assert "work" in said.last


@pytest.mark.parametrize("words", [["run"], ["check"], ["plan"], ["prepare"], ["train"], ["report"], ["info"], ["verify"]])
def test_a_missing_folder_is_one_error_for_every_verb(call: Call, tmp_path: Path, words: list[str]) -> None:
    _is_one_clear_error(call(*words, tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["evaluate", "A", "B"], ["compare", "A", "B"], ["predict", "A", "B", "C"]])
def test_missing_inputs_are_one_error_for_verbs_with_several(call: Call, tmp_path: Path, words: list[str]) -> None:
    _is_one_clear_error(call(*(str(tmp_path / w) if len(w) == 1 else w for w in words)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["run", "check", "plan", "prepare", "train", "report"])
def test_a_file_instead_of_a_folder_is_one_error_for_every_verb(call: Call, tmp_path: Path, verb: str) -> None:
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"not an image")
    _is_one_clear_error(call(verb, file))
    assert file.read_bytes() == b"not an image"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle", os.urandom(4096)], ids=["empty", "zip", "pickle", "noise"])
def test_a_file_that_is_no_model_is_refused(call: Call, tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "m.aunet"
    model.write_bytes(content)
    for words in (["info", model], ["verify", model]):
        said = call(*words)
        _is_one_clear_error(said)
        assert "m.aunet" in said.last
