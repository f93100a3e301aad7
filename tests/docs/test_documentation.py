"""The documentation names only what exists, and its commands run."""

import re
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

from autounet.cli import main
from autounet.cli.app import app

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?<![\w/.-])autounet ([a-z]+)((?: [^\n`|#]*)?)")
NOT_VERBS = {"import", "export"}  # their flags stand behind a second word


def _commands(page: Path) -> list[tuple[str, list[str]]]:
    code = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) + re.findall(
        r"`(autounet [^`\n]+)`", page.read_text(encoding="utf-8")
    )
    return [(m[1], re.findall(r"--[a-z-]+", m[2])) for block in code for m in COMMAND.finditer(block) if m[1] not in NOT_VERBS]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_every_command_named_has_a_verb_and_flags_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, flags in _commands(page):
        assert verb in app, f"{page.name} names the verb {verb}"
        if flags:
            main([verb, "--help"])
            text = capsys.readouterr().out
            assert [flag for flag in flags if flag not in text and flag != "--help"] == [], f"{page.name}: autounet {verb}"


def test_the_search_sees_commands() -> None:
    assert ("demo", ["--kind", "--cases", "--folder", "--data-only"]) in _commands(REPOSITORY / "docs" / "tutorial.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_exit_code_is_on_its_page() -> None:
    from autounet.cli import failure

    page = (REPOSITORY / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    codes = {failure.DONE, failure.BUG, failure.USAGE, failure.SOME_FAILED, failure.USER, failure.STOPPED}
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == codes


@pytest.mark.slow
def test_the_tutorial_works_when_typed(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL)
    quick = {"--cases 10": "--cases 6 --size 32", "--time 5m": "--iterations 4 --folds 0 --threads 1"}
    for line in "".join(blocks).splitlines():
        words = shlex.split(reduce(lambda text, pair: text.replace(*pair), quick.items(), line))
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    assert (tmp_path / "phantoms.autounet" / "report" / "index.html").exists()
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) + len(list((tmp_path / "masks").glob("*.mha"))) == 6


REFERENCE_COMMANDS = (
    "accumulate_crossval_results", "apply_postprocessing", "convert_MSD_dataset", "convert_old_nnUNet_dataset", "determine_postprocessing",
    "download_pretrained_model_by_url", "ensemble", "evaluate_folder", "evaluate_simple", "export_model_to_zip", "extract_fingerprint",
    "find_best_configuration", "install_pretrained_model_from_zip", "move_plans_between_datasets", "plan_and_preprocess", "plan_experiment",
    "plot_overlay_pngs", "predict", "predict_from_modelfolder", "preprocess", "train",
)  # fmt: skip


def test_every_command_of_nnunet_has_its_line_for_those_who_come_from_it() -> None:
    page = (REPOSITORY / "docs" / "coming-from-nnunet.md").read_text(encoding="utf-8")
    assert [name for name in REFERENCE_COMMANDS if not re.search(rf"`nnUNetv2_{name}\b", page)] == []


def test_every_metric_that_is_written_is_defined_on_its_page() -> None:
    from autounet.metrics.lesions import LesionScores
    from autounet.metrics.scores import DEFINITIONS
    from autounet.metrics.surface import SurfaceScores

    page = (REPOSITORY / "docs" / "concepts" / "metrics.md").read_text(encoding="utf-8")
    rows = (*SurfaceScores().rows(), *LesionScores(true=0, predicted=0, found=0, false=0, panoptic=0.0).rows())
    for metric, definition in (*DEFINITIONS.items(), *((metric, definition) for metric, definition, _ in rows)):
        line = next((line for line in page.splitlines() if f"`{metric}`" in line), "")
        assert f"`{definition}`" in line, metric


def test_every_rule_that_a_module_states_is_on_the_page() -> None:
    from autounet.metrics import boundaries, lesions, overlap, statistics, surface

    page = (REPOSITORY / "docs" / "concepts" / "metrics.md").read_text(encoding="utf-8")
    for module in (boundaries, lesions, overlap, statistics, surface):
        stated = set(re.findall(r"`([a-z0-9_-]+-v\d+)`", module.__doc__ or ""))
        assert stated, module.__name__
        assert sorted(name for name in stated - {"f1-v1"} if f"`{name}`" not in page) == [], module.__name__


def test_the_table_of_empty_cases_says_what_the_code_does() -> None:
    from autounet.metrics.overlap import Counts

    page = (REPOSITORY / "docs" / "concepts" / "metrics.md").read_text(encoding="utf-8")
    cases = (Counts(tp=0, fp=0, fn=0, tn=10), Counts(tp=0, fp=4, fn=0, tn=6), Counts(tp=0, fp=0, fn=4, tn=6))
    checked = 0
    for name in ("dice", "iou", "sensitivity", "specificity", "precision", "f2", "relative_volume_error"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        for cell, counts in zip(row.replace("\\|", "/").split("|")[4:7], cases, strict=True):
            stated = cell.strip().replace("−", "-")
            if re.fullmatch(r"NaN|-?\d+", stated):
                assert str(getattr(counts, name)).removesuffix(".0") == stated.lower().replace("nan", "nan"), name
                checked += 1
    assert checked >= 19
