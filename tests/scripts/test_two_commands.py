"""scripts/demo and scripts/test make their environment once, anywhere, and never replace a torch.

Python and pip are played by a small shell script that writes down how it was called; the real thing is tried by hand
before a release, on a machine with nothing but Python.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE_PYTHON = """#!/bin/sh
# Plays python: as an interpreter, as venv, as pip and as the program itself.
log="{log}"
case "$*" in
"-c import sys; sys.exit(sys.version_info < (3, 11))") exit {too_old} ;;
"-c import importlib.util as u, sys;"*) exit {no_system_torch} ;;
"-c from importlib.metadata import version;"*) if [ -f "{torch}" ]; then cat "{torch}"; else exit 1; fi ;;
"-c import autounet") exit 0 ;;
"-c import sys, tomllib;"*) echo ruff ;;
"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"; echo "venv $*" >>"$log" ;;
"-m pip --version") exit 0 ;;
"-m pip install"*) echo "pip $*" >>"$log"; case "$*" in *torch==*) echo torch==2.13.0 >"{torch}" ;; esac ;;
"-m autounet"*) echo "ran $PWD $*" >>"$log" ;;
--version) echo Python 3.99 ;;
*) echo "other $*" >>"$log" ;;
esac
"""


class Machine:
    """A fresh machine: a copy of the scripts in a folder with an awkward name, and a played Python."""

    def __init__(self, root: Path) -> None:
        self.project = root / "größe & mehr" / "auto 'unet'"
        self.project.mkdir(parents=True)
        shutil.copytree(REPOSITORY / "scripts", self.project / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", self.project)
        self.bin, self.log, self.torch = root / "bin", root / "log", root / "torch"
        self.bin.mkdir()
        for tool in ("sh", "dirname", "cat", "cksum", "cut", "mkdir", "cp", "rm"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def has_python(self, *, too_old: bool = False, system_torch: bool = False) -> None:
        path = self.bin / "python3"
        path.write_text(
            FAKE_PYTHON.format(log=self.log, torch=self.torch, too_old=int(too_old), no_system_torch=int(not system_torch)),
            encoding="utf-8",
        )
        path.chmod(0o755)

    def call(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            [str(self.project / "scripts" / script), *words],
            cwd="/",
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def fresh(tmp_path: Path) -> Machine:
    if os.name != "posix":
        pytest.skip("POSIX shell scripts")
    machine = Machine(tmp_path)
    machine.has_python()
    return machine


def test_the_first_call_makes_the_environment_and_runs(fresh: Machine) -> None:
    done = fresh.call("demo", "--kind", "cells")
    assert (done.returncode, done.stdout) == (0, "")
    kinds = [call.split()[0] for call in fresh.calls]
    assert kinds == ["venv", "pip", "pip", "ran"]
    assert "torch==2.13.0" in fresh.calls[1]
    assert f"--editable {fresh.project}" in fresh.calls[2]
    assert fresh.calls[3] == f"ran {fresh.project}/demo -m autounet demo --kind cells"


def test_the_second_call_only_runs(fresh: Machine) -> None:
    fresh.call("demo")
    fresh.call("demo")
    assert fresh.calls == [f"ran {fresh.project}/demo -m autounet demo"]


def test_changed_dependencies_are_installed_again_but_nothing_is_made_anew(fresh: Machine) -> None:
    fresh.call("demo")
    (fresh.project / "pyproject.toml").write_text("[project]\n")
    fresh.call("demo")
    assert [call.split()[0] for call in fresh.calls] == ["pip", "ran"]
    assert "torch==" not in fresh.calls[0].replace("constraints", "")


def test_a_torch_that_is_there_is_kept(fresh: Machine) -> None:
    fresh.torch.write_text("torch==2.5.1\n")
    fresh.call("demo")
    assert not any("torch==" in call for call in fresh.calls)
    assert (fresh.project / ".venv" / "constraints.txt").read_text() == "torch==2.5.1\n"
    assert all("--constraint" in call for call in fresh.calls if call.startswith("pip"))


def test_a_torch_of_the_system_is_seen_by_the_environment(fresh: Machine) -> None:
    fresh.has_python(system_torch=True)
    fresh.call("demo")
    assert "--system-site-packages" in fresh.calls[0]


def test_without_a_python_that_is_new_enough_one_line_says_so(fresh: Machine) -> None:
    fresh.has_python(too_old=True)
    done = fresh.call("demo")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("error: there is no Python 3.11 or later.")
    assert not (fresh.project / ".venv").exists()


def test_the_tests_script_installs_the_tools_and_runs_every_step(fresh: Machine) -> None:
    done = fresh.call("test")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "all steps passed"
    steps = [line.removeprefix("== ") for line in done.stderr.splitlines() if line.startswith("== ")]
    assert steps == ["format", "lint", "types", "imports", "docs", "tests"]
    assert any("--requirement" in call for call in fresh.calls)
    assert any("-m pytest -q -n 2 -m not slow" in call for call in fresh.calls)


def test_all_runs_the_slow_tests_too(fresh: Machine) -> None:
    fresh.call("test", "--all")
    (tests,) = (call for call in fresh.calls if "-m pytest" in call)
    assert "not slow" not in tests
    assert "--none-skipped" in tests


def test_tests_may_be_chosen_by_name_and_the_last_line_says_what_was_not_run(fresh: Machine) -> None:
    done = fresh.call("test", "-k", "geometry or flips")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("== ")] == ["== tests"]
    assert "-m not slow -k geometry or flips" in next(call for call in fresh.calls if "-m pytest" in call)
    said = done.stderr.splitlines()[-1]
    assert said == "the tests named geometry or flips passed; format, lint, types, imports, docs and all other tests were not run"


@pytest.mark.parametrize("words", [["--fast"], ["-k"], ["-k", ""], ["--all", "-k", "x"], ["-k", "x", "y"], ["", "y"]])
def test_an_unknown_word_is_refused_before_anything_is_made(fresh: Machine, words: list[str]) -> None:
    done = fresh.call("test", *words)
    assert (done.returncode, fresh.calls) == (2, [])


def test_a_failing_step_is_named_last_and_the_others_still_run(fresh: Machine) -> None:
    fresh.call("test")
    python = fresh.project / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace('*) echo "other', '*mypy*) exit 1 ;;\n*) echo "other'))
    done = fresh.call("test")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: these steps failed: types. Each says why above."
    assert any("-m pytest" in call for call in fresh.calls)


def test_continuous_integration_runs_the_same(fresh: Machine) -> None:
    shutil.copytree(REPOSITORY / ".ci", fresh.project / ".ci")
    done = subprocess.run(
        [str(fresh.project / ".ci" / "run")], cwd="/", env={"PATH": str(fresh.bin)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "all steps passed"
