"""The two commands of the README as a stranger types them: a fresh clone, nothing but Python, an awkward path, twice.

What is not tried here: the demo at its full length (it is given few iterations), and of scripts/test all but one file of
fast tests (lint, types, import rules, documentation: they are what runs this test).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL_SECONDS = 3600  # torch is large, and the machine may be busy
CHEAP_DEMO = ("--iterations", "20", "--cases", "4", "--size", "24")
CHEAP_TESTS = ("-k", "test_quantities")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX shell scripts")]


@dataclass(frozen=True)
class Stranger:
    """Somebody with a home, a Python, and a clone of the project."""

    home: Path
    project: Path

    def types(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        python = Path(sys.base_prefix) / "bin"
        return subprocess.run(
            ["env", "-i", f"PATH={python}:/usr/bin:/bin", f"HOME={self.home}", str(self.project / "scripts" / script), *words],
            cwd="/",
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=INSTALL_SECONDS,
        )


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    root = tmp_path_factory.mktemp("stranger")
    home = root / "home"
    _copy_pip_settings(home)
    _skip_without_index(root, home)
    project = root / "Größe & mehr" / "mein Projekt"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(project)], check=True, timeout=300)
    yield Stranger(home, project)
    shutil.rmtree(root)  # two gigabytes


def _copy_pip_settings(home: Path) -> None:
    """The mirror of this machine; everything else of its environment stays away."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    (home / ".config" / "pip").mkdir(parents=True)
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    (home / ".config" / "pip" / "pip.conf").write_text(text, encoding="utf-8")


def _skip_without_index(root: Path, home: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", str(root / "wheel"), "hatchling"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if asked.returncode:
        pytest.skip("pip reaches no package index from here")


def _versions(stranger: Stranger) -> str:
    python = stranger.project / ".venv" / "bin" / "python"
    return subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout


def test_the_demo_makes_a_model_and_typed_again_finds_it(stranger: Stranger) -> None:
    first = stranger.types("demo", *CHEAP_DEMO)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "Making .venv" in first.stderr
    (model,) = (stranger.project / "demo").rglob("*.aunet")
    assert f"Model:  {model}" in first.stdout
    page = Path(first.stdout.split("Report: ")[1].strip())
    assert page.is_file()
    versions, weights = _versions(stranger), next(model.parent.rglob("weights.safetensors")).stat().st_mtime_ns
    second = stranger.types("demo", *CHEAP_DEMO)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "Making .venv" not in second.stderr
    assert "Installing" not in second.stderr
    assert _versions(stranger) == versions
    assert next(model.parent.rglob("weights.safetensors")).stat().st_mtime_ns == weights, "nothing is trained twice"


def test_the_tests_run_twice_in_the_same_environment(stranger: Stranger) -> None:
    torch = next((line for line in _versions(stranger).splitlines() if line.startswith("torch==")), "torch==2.13.0")
    first = stranger.types("test", *CHEAP_TESTS)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert " passed" in first.stdout
    second = stranger.types("test", *CHEAP_TESTS)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "Installing" not in second.stderr
    assert torch in _versions(stranger), "the torch that was there was replaced"


def test_the_checkout_stays_as_it_was_cloned(stranger: Stranger) -> None:
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=stranger.project, capture_output=True, text=True, check=True).stdout
    assert changed == ""
