"""No verb opens a socket, and none starts a shell: told by the interpreter call by call, and by the kernel for children and libraries."""

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.tiny_models import configuration, plan_of, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
STRACE = (shutil.which("strace") or "", "-f", "--seccomp-bpf", "-qq")  # the filter stops a process only for what is looked for
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
# The C library asks the name service cache of this machine, if there is one, for the name of the user: torch wants to know
# where temporary files of this user go. It is a file, not a network. Nothing else is allowed.
NAME_SERVICE = re.compile(r'socket\(AF_UNIX, |connect\(\d+, \{sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"\}')


@cache
def strace_works() -> bool:
    if not STRACE[0]:
        return False
    return subprocess.run([*STRACE, "-e", "trace=network", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def network_calls(trace: str) -> list[str]:
    """What a trace tells of sockets, but the name service."""
    calls = [line.partition(" ")[2].strip() for line in trace.splitlines()]
    calls = [call for call in calls if re.match(r"[a-z0-9_]+\(", call)]  # no signals, no ends of processes
    return [call for call in calls if not NAME_SERVICE.match(call)]


def _run(*words: object, program: str = GUARD, limit_seconds: float = 300) -> int:
    with tempfile.NamedTemporaryFile("r", suffix=".trace") as trace:
        tracer = [*STRACE, "-e", "trace=network", "-o", trace.name] if strace_works() else []
        done = subprocess.run(
            [*tracer, sys.executable, "-c", program, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            timeout=limit_seconds,
        )
        assert "SEEN []" in done.stderr, done.stderr[-2000:]
        assert network_calls(trace.read()) == []
    return done.returncode


def test_the_guard_sees_a_socket() -> None:
    code = GUARD.replace("from autounet.cli import main", "import socket; socket.socket().close(); main = lambda words: 0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "socket.__new__" in done.stderr


def test_the_kernel_sees_the_socket_of_a_child_that_the_guard_does_not() -> None:
    if not strace_works():
        pytest.skip("strace is not here or may not trace")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import socket; socket.socket()']); main = lambda words: 0"
    with pytest.raises(AssertionError, match="AF_INET"):
        _run(program=GUARD.replace("from autounet.cli import main", child))


def test_only_the_name_service_may_be_asked() -> None:
    asked = '7 connect(7, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT (No such file or directory)\n'
    assert network_calls(f"7 socket(AF_UNIX, SOCK_STREAM, 0) = 7\n{asked}7 +++ exited with 0 +++\n") == []
    bus = '7 connect(7, {sa_family=AF_UNIX, sun_path="/run/dbus/socket"}, 110) = 0'
    assert network_calls(bus) == [bus.removeprefix("7 ")]
    assert network_calls("7 socket(AF_NETLINK, SOCK_RAW, 0) = 7") != []


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet") / "organs"
    assert _run("demo", "--kind", "organs", "--cases", "6", "--size", "32", "--folder", folder, "--data-only") == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model"), plan_of(configuration((8, 16, 16), spacing_zyx_mm=(11.0, 4.0, 4.0))))


@pytest.mark.parametrize("verb", ["check", "plan", "prepare"])
def test_looking_at_data_opens_no_socket(phantoms: Path, verb: str) -> None:
    assert _run(verb, phantoms) == 0


def test_looking_at_the_machine_opens_no_socket() -> None:
    assert _run("doctor", "--seconds", "0") == 0


def test_looking_at_an_image_opens_no_socket(phantoms: Path) -> None:
    assert _run("info", sorted((phantoms / "images").iterdir())[0]) == 0


def test_a_model_is_looked_at_used_given_out_and_taken_in_without_a_socket(phantoms: Path, model: Path, tmp_path: Path) -> None:
    assert _run("info", model) == 0
    assert _run("verify", model) == 0
    assert _run("predict", model, sorted((phantoms / "images").iterdir())[0], tmp_path / "masks", "--threads", "1") == 0
    assert _run("export", "nnunet", model, tmp_path / "theirs") == 0
    (folder,) = [path.parent for path in (tmp_path / "theirs").rglob("plans.json")]
    assert _run("import", "nnunet", folder, tmp_path / "back.aunet") == 0
    assert (tmp_path / "back.aunet").is_file()


@pytest.mark.skipif(find_spec("openvino") is None, reason="the optional package openvino is not installed")
def test_openvino_predicts_without_a_socket(phantoms: Path, model: Path, tmp_path: Path) -> None:
    image = sorted((phantoms / "images").iterdir())[0]
    assert _run("predict", model, image, tmp_path / "masks", "--threads", "1", "--engine", "openvino") == 0


def test_scoring_and_comparing_open_no_socket(phantoms: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert _run("evaluate", phantoms / "labels", phantoms / "labels", "--out", tmp_path / name) == 0
    assert _run("compare", tmp_path / "one", tmp_path / "other") == 0


@pytest.mark.slow
def test_a_training_alone_with_processes_opens_no_socket(phantoms: Path, tmp_path: Path) -> None:
    short = ("--iterations", "4", "--folds", "0", "--threads", "1", "--worker-processes")
    assert _run("train", phantoms, "--work", tmp_path / "work", *short, limit_seconds=900) == 0


@pytest.mark.slow
def test_a_whole_run_opens_no_socket(phantoms: Path) -> None:
    assert _run("run", phantoms, "--iterations", "4", "--folds", "0", "--threads", "1", limit_seconds=900) == 0
    assert _run("report", phantoms) == 0
    assert _run("verify", phantoms) == 0
    assert _run("info", phantoms.with_name("organs.autounet")) == 0


@pytest.mark.slow
def test_a_demo_opens_no_socket(tmp_path: Path) -> None:
    words = ("--cases", "4", "--size", "24", "--folder", tmp_path / "cells", "--kind", "cells", "--iterations", "4", "--threads", "1")
    assert _run("demo", *words, limit_seconds=900) == 0


def test_every_verb_is_asked() -> None:
    from autounet.cli.app import app

    source = Path(__file__).read_text(encoding="utf-8")
    verbs = {name for name in app if not name.startswith("-")}
    assert {verb for verb in verbs if f'_run("{verb}"' not in source} == {"check", "plan", "prepare"}  # those are asked by a table
