"""The same faults put under the process by the kernel, below Python and every library; needs strace."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STRACE = shutil.which("strace")
PROGRAM = """
import sys
from pathlib import Path
from autounet.store.files import publish_bytes
from autounet.store.manifest import Manifest
from autounet.store.sweep import sweep
from planners.errors import UserError
folder = Path(sys.argv[1])
try:
    sweep(folder)
    manifest = Manifest.open(folder)
    for name in ("a", "b"):
        if not manifest.has(name, check="hash"):
            manifest.add(name, publish_bytes(folder / name, name.encode() * 5000))
except UserError as error:
    print(error)
    sys.exit(4)
"""


def strace_works() -> bool:
    if STRACE is None:
        return False
    return subprocess.run([STRACE, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not strace_works(), reason="strace is not here or may not trace")


@pytest.fixture
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def run(folder: Path, *options: str) -> int:
    folder.mkdir(exist_ok=True)
    tracer = [str(STRACE), "-f", "-qq", "-o", str(folder.parent / "trace"), *options] if options else []
    return subprocess.run([*tracer, sys.executable, "-S", "-c", PROGRAM, folder], cwd=ROOT, capture_output=True, check=False).returncode


def sound(folder: Path) -> bool:
    from autounet.store.manifest import Manifest

    manifest = Manifest.open(folder)
    whole = all((folder / name).read_bytes() == name.encode() * 5000 for name in ("a", "b") if (folder / name).exists())
    return whole and manifest.damaged() == ()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("rename,renameat,renameat2", "signal=SIGKILL"),
        pytest.param("fsync", "signal=SIGKILL", marks=pytest.mark.slow),
        pytest.param("link,linkat", "signal=SIGKILL", marks=pytest.mark.slow),
        pytest.param("unlink,unlinkat", "signal=SIGKILL", marks=pytest.mark.slow),
        pytest.param("write", "signal=SIGKILL", marks=pytest.mark.slow),
        pytest.param("fsync", "error=EIO", marks=pytest.mark.slow),
        pytest.param("write", "error=ENOSPC", marks=pytest.mark.slow),
        pytest.param("rename,renameat,renameat2", "error=EDQUOT", marks=pytest.mark.slow),
    ],
)
def test_a_program_survives_the_fault_at_every_such_call(call: str, fault: str, place: Path) -> None:
    assert run(place / "undisturbed") == 0
    wanted = contents(place / "undisturbed")
    for at in range(1, 100):
        folder = place / str(at)
        code = run(folder, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={at}")
        assert sound(folder), (call, fault, at)
        if code == 0:
            break
        assert code == (4 if "error" in fault else -9), (call, fault, at)
        assert run(folder) == 0
        assert contents(folder) == wanted
    assert at > 2, "the fault never came"
    assert code == 0, "the faults never ended"


def test_every_rename_is_between_the_sync_of_the_file_and_the_sync_of_its_folder(place: Path) -> None:
    folder = place / "f"
    assert run(folder, "-y", "-e", "trace=write,fsync,rename,renameat,renameat2") == 0
    lines = [line for line in (place / "trace").read_text().splitlines() if str(folder) in line]
    synced: set[str] = set()
    waiting: str | None = None
    renames = 0
    for line in lines:
        call, _, rest = line.split(maxsplit=1)[1].partition("(")
        if call == "write":
            synced.discard(rest.partition("<")[2].partition(">")[0])
        elif call == "fsync":
            name = rest.partition("<")[2].partition(">")[0]
            synced.add(name)
            waiting = None if name == waiting else waiting
        else:
            assert waiting is None, "the rename before was not made to last"
            source, target = [part for part in rest.split('"') if part.startswith(str(folder))]
            assert source in synced, f"{target} was renamed before its bytes were safe"
            assert Path(source).parent == Path(target).parent
            waiting = str(Path(target).parent)
            renames += 1
    assert waiting is None
    assert renames == 4
