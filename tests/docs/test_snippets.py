"""The pages' own code is run: Python as it stands, commands on a small dataset; what would train for hours is rehearsed."""

import contextlib
import io
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from autounet.cli import main
from tests.report.worked import worked
from tests.tiny_models import configuration, plan_of, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *(p for p in sorted((REPOSITORY / "docs").rglob("*.md")) if p.parent.name != "design")]
REHEARSED = {"run", "train", "prepare", "demo"}  # hours of computing
ELSEWHERE = {"tutorial.md", "benchmarks.md"}  # the first has a test of its own, the second needs the reference
FOREIGN = ("import nnunet", "export nnunet", "/archive")  # need files that are not made here; tests/interop has them
OPTIONAL = {"openvino"}  # packages: without one, its command says what to install
SHORTER = {"doctor": ["--seconds", "0.1"]}


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


WITH_PYTHON = [page for page in PAGES if snippets(page, "python")]
WITH_COMMANDS = [page for page in PAGES if snippets(page, "sh") and page.name not in ELSEWHERE]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A folder in which every name that the pages use means something."""
    folder = tmp_path_factory.mktemp("pages")
    work = worked(folder, name="DATASET", cases=6, size=32)
    name = next((work / "scores").iterdir()).name
    model = tiny_bundle(folder, plan_of(configuration((24, 24, 24), spacing_zyx_mm=(4.0, 4.0, 4.0))))
    for copy in ("MODEL.aunet", "model.aunet", "livers.aunet", "DATASET.autounet/NAME.aunet"):
        shutil.copy(model, folder / copy)
    images, masks = folder / "DATASET" / "images", folder / "DATASET" / "labels"
    first = sorted(images.iterdir())[0]
    for scan in ("scan.nii.gz", "image.nii.gz", "case.nii.gz"):
        shutil.copy(first, folder / scan)
    for copy in ("scans", "IMAGES", "/input"):
        (folder / copy.strip("/")).mkdir()
        shutil.copy(first, folder / copy.strip("/") / first.name)
    (folder / "FOLDER").symlink_to("DATASET")
    for copy in ("truth", "masks", "masks_a", "masks_b"):
        shutil.copytree(masks, folder / copy)
    (folder / "OTHER").mkdir()
    shutil.copy(work / "plan.json", folder / "OTHER" / "plan.json")
    for copy in ("scratch.autounet", "baseline", "idea_1", "idea_2"):
        shutil.copytree(work / "scores" / name, folder / copy / "scores" / "3d_fullres")
    held_out = work / "runs" / name / "fold_0" / "validation"
    shutil.copytree(held_out, folder / "nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/validation")
    if name != "3d_fullres":
        shutil.copytree(work / "scores" / name, work / "scores" / "3d_fullres")
        shutil.copytree(held_out, work / "runs" / "3d_fullres" / "fold_0" / "validation")
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_python_on_the_pages_runs_and_prints_what_stands_beside_it(page, stage, monkeypatch):
    monkeypatch.chdir(stage)
    for code in snippets(page, "python"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, page.name, "exec"), {})
        promised = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
        if promised:
            assert said.getvalue().splitlines() == promised


def commands(page: Path) -> list[list[str]]:
    lines = "".join(snippets(page, "sh")).splitlines()
    return [
        shlex.split(line, comments=True)[1:] for line in lines if re.match(r"autounet [a-z]", line) and not any(f in line for f in FOREIGN)
    ]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_commands_on_the_pages_work_when_typed(page, stage, monkeypatch, capfd):
    monkeypatch.chdir(stage)
    for words in commands(page):
        typed = [word.removeprefix("/") if word in ("/input", "/output") else word for word in words] + SHORTER.get(words[0], [])
        if words[0] in REHEARSED:
            typed.append("--dry-run")
        code, said = main(typed), capfd.readouterr().err[-2000:]
        if absent := [word for word in words if word in OPTIONAL and find_spec(word) is None]:
            assert (code, f"pip install 'autounet[{absent[0]}]'" in said) == (4, True), said
        else:
            assert code == 0, f"autounet {' '.join(typed)}\n{said}"


def test_the_pages_have_commands_and_code() -> None:
    assert ["compare", "scores_a", "scores_b"] in commands(REPOSITORY / "docs" / "howto" / "compare.md")
    assert len(WITH_PYTHON) >= 6
    assert len(WITH_COMMANDS) >= 8
