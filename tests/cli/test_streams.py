"""The command line under the streams that schedulers, pipes and old terminals give it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import REPOSITORY

Shell = Callable[..., subprocess.CompletedProcess[str]]
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith(("LANG", "LC_", "PYTHON"))}


def _sh(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable!r} -m autounet"
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("AUTOUNET", command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=PLAIN | environment,
        timeout=120,
        errors="surrogateescape",
    )


@pytest.mark.parametrize("words", ["--version", "--help", "run --help"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_nothing(words: str, closed: str) -> None:
    done = _sh(f"AUTOUNET {words} {closed}")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_without_any_stream_keeps_its_exit_code() -> None:
    assert _sh("AUTOUNET check /nowhere/at/all <&- >&- 2>&-").returncode == 4


def test_a_file_opened_later_never_takes_the_place_of_a_closed_stream(tmp_path: Path, plan_file: Path) -> None:
    before = plan_file.read_bytes()
    assert _sh(f"AUTOUNET info '{plan_file}' >&- 2>&-").returncode == 0
    assert plan_file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [plan_file]


@pytest.mark.parametrize("words", ["--help", "info PLAN --json", "info PLAN"])
def test_a_pipe_whose_reader_ended_is_no_error(words: str, plan_file: Path) -> None:
    line = words.replace("PLAN", f"'{plan_file}'")
    done = _sh(f"(AUTOUNET {line}; echo code $? >&2) | true")
    assert done.stderr == "code 0\n"


@pytest.mark.parametrize("environment", [{"LANG": "C"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
@pytest.mark.parametrize("words", ["--help", "doctor --help", "run --help"])
def test_help_speaks_ascii_where_it_must(environment: dict[str, str], words: str) -> None:
    done = _sh(f"AUTOUNET {words}", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "autounet" in done.stdout


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_an_error_about_a_foreign_name_is_still_the_last_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Länder ☃").mkdir()
    done = _sh(f"AUTOUNET check '{tmp_path}/Länder ☃s'", **environment)
    assert done.returncode == 4
    assert "does not exist. Did you mean" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_name_that_is_no_text_is_shown_as_escapes(tmp_path: Path) -> None:
    done = _sh(f"AUTOUNET check '{tmp_path}'/$(printf 'a\\377b')")
    assert done.returncode == 4
    assert "a\\udcffb does not exist" in done.stderr


def test_json_is_pure_ascii_and_alone_on_standard_output(shell: Shell, plan_file: Path) -> None:
    done = shell("info", plan_file, "--json", "--verbose")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["result"]["kind"] == "plan"


def test_help_fits_eighty_columns() -> None:
    done = _sh("AUTOUNET run --help", COLUMNS="80")
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
