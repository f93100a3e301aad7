"""The program itself, traced by the kernel: where it writes, and what is left when it is killed on the way."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autounet.store.manifest import Manifest

STRACE = shutil.which("strace")
PROGRAM = "import sys; from autounet.cli import main; sys.exit(main())"
SMALL = ("--iterations", "2", "--folds", "0", "--configurations", "2d", "--threads", "1")
# They hold seconds, or hashes of seconds; and the numbers of checkpoints tell how often a run was taken up again.
WITH_CLOCK = re.compile(r"events\.jsonl|manifest\.json|report/|run\.json|checkpoints/|presets\.json")
SECONDS = re.compile(rb'"seconds_per_case": [0-9.e-]+')  # what a preset takes is told, and decides nothing


def strace_works() -> bool:
    if STRACE is None:
        return False
    return subprocess.run([STRACE, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not strace_works(), reason="strace is not here or may not trace")]


def autounet(*words: str | Path, tracer: tuple[str, ...] = ()) -> int:
    command = [*tracer, sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, -9), done.stderr[-2000:]
    return done.returncode


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole_run") / "organs"
    assert autounet("demo", "--kind", "organs", "--cases", "2", "--size", "24", "--folder", folder, "--data-only") == 0
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: hashlib.sha256(timeless(file)).hexdigest() for name, file in files.items() if not WITH_CLOCK.search(name)}


def timeless(file: Path) -> bytes:
    """What a file holds, without the seconds of presets and the hashes that follow from them."""
    if file.suffix != ".aunet":
        return SECONDS.sub(b"", file.read_bytes())
    with zipfile.ZipFile(file) as model:
        return b"".join(name.encode() + SECONDS.sub(b"", model.read(name)) for name in model.namelist() if name != "hashes.json")


def test_every_byte_of_a_run_goes_through_the_store(dataset: Path, tmp_path: Path) -> None:
    before, trace, work = snapshot(dataset), tmp_path / "trace", tmp_path / "work"
    tracer = (str(STRACE), "-f", "-qq", "-e", "trace=openat,open,creat", "-e", "status=successful", "-o", str(trace))
    assert autounet("run", dataset, "--work", work, *SMALL, tracer=tracer) == 0
    assert snapshot(dataset) == before
    opened = re.findall(r'(?:openat|open|creat)\((?:AT_FDCWD, )?"([^"]+)", ([A-Z_|]*)', trace.read_text())
    written = {Path(name) for name, flags in opened if re.search("O_WRONLY|O_RDWR|O_CREAT", flags)}
    past = {
        path for path in written if path.is_relative_to(tmp_path) and not any(part.endswith(".part") for part in path.parts)
    }  # fmt: skip
    assert {path.name for path in past} == {"events.jsonl"}, past
    # Elsewhere only devices, and the name that Python's tempfile tries out when torch asks where temporary files go.
    elsewhere = {path for path in written if not path.is_relative_to(tmp_path) and not path.is_relative_to("/dev")}
    assert all(re.fullmatch(r"/(tmp|var/tmp)/[a-z0-9_]{8}", str(path)) or path.is_relative_to("/proc") for path in elsewhere), elsewhere


def test_a_run_that_is_killed_again_and_again_makes_the_same_model(dataset: Path, tmp_path: Path) -> None:
    assert autounet("run", dataset, "--work", tmp_path / "undisturbed", *SMALL) == 0
    work, kills = tmp_path / "killed", 0
    for at in range(1, 200, 4):
        tracer = (str(STRACE), "-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", f"inject=rename:signal=SIGKILL:when={at}")
        if autounet("run", dataset, "--work", work, *SMALL, tracer=tracer) == 0:
            break
        kills += 1
        for manifest in work.rglob("manifest.json"):
            assert Manifest.open(manifest.parent).damaged() == (), at
    assert kills >= 3
    same = snapshot(tmp_path / "undisturbed")
    assert snapshot(work) == same
    assert {"plan.json", "splits.json", "selection.json", "organs.aunet", "runs/2d/fold_0/weights.safetensors"} <= set(same)
    assert any("validation" in name for name in same)
    assert [path for path in work.rglob("*") if path.name.endswith((".part", ".lock"))] == []
