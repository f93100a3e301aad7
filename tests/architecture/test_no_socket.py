"""No verb opens a socket, and none starts a shell: told by the interpreter itself, call by call."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GUARD = """
import sys
seen = []
def guard(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "os.system"):
        seen.append((event, repr(arguments)[:200]))
sys.addaudithook(guard)
from autounet.cli import main
code = main(sys.argv[1:])
print("SEEN", seen, file=sys.stderr)
sys.exit(code)
"""


def _run(*words: object, limit_seconds: float = 300) -> int:
    done = subprocess.run(
        [sys.executable, "-c", GUARD, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=limit_seconds,
    )
    assert "SEEN []" in done.stderr, done.stderr[-2000:]
    return done.returncode


def test_the_guard_sees_a_socket() -> None:
    code = GUARD.replace("from autounet.cli import main", "import socket; socket.socket().close(); main = lambda words: 0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "socket.__new__" in done.stderr


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet") / "organs"
    assert _run("demo", "--kind", "organs", "--cases", "6", "--size", "32", "--folder", folder, "--data-only") == 0
    return folder


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_looking_at_data_opens_no_socket(phantoms: Path, verb: str) -> None:
    assert _run(verb, phantoms) == 0


def test_looking_at_the_machine_opens_no_socket() -> None:
    assert _run("doctor", "--seconds", "0") == 0


def test_looking_at_an_image_opens_no_socket(phantoms: Path) -> None:
    assert _run("info", sorted((phantoms / "images").iterdir())[0]) == 0


def test_scoring_opens_no_socket(phantoms: Path, tmp_path: Path) -> None:
    assert _run("evaluate", phantoms / "labels", phantoms / "labels", "--out", tmp_path / "scores") == 0


@pytest.mark.slow
def test_a_whole_run_and_a_prediction_open_no_socket(phantoms: Path, tmp_path: Path) -> None:
    assert _run("run", phantoms, "--iterations", "4", "--folds", "0", "--threads", "1", limit_seconds=900) == 0
    (model,) = phantoms.with_name("organs.autounet").glob("*.aunet")
    assert _run("predict", model, phantoms / "images", tmp_path / "masks") == 0
    assert _run("report", phantoms) == 0
    assert _run("verify", phantoms) == 0
    assert _run("info", model) == 0
