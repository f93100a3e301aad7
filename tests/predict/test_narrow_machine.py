"""Predict where there is little: a root that may only be read, no home, no network, 64 MB of /dev/shm, 128 processes, 4 GB."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = Geometry(
    shape_zyx=(30, 40, 50), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)
NOBODY = 65534
# A mount namespace of its own; everything that is mounted may only be read, except OUT; then limits, another user, an empty environment.
NARROW = """
set -e
out="$1"; shift
mount --make-rprivate /
mount --bind "$out" "$out"
mount -t tmpfs -o size=64m none /dev/shm
for place in $(awk '{print $5}' /proc/self/mountinfo); do
  case "$place" in "$out"|/proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done
exec prlimit --nproc=128 --as=4294967296 -- setpriv --reuid=65534 --regid=65534 --clear-groups \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search \\
  -- env -i PATH=/usr/bin:/bin "$@"
"""
PROBE = """
import os, resource, socket, sys
from pathlib import Path
out = Path(sys.argv[1])
(out / "probe").write_text("x")
(out / "probe").unlink()
for place in ("/", "/tmp", os.getcwd(), "/root", "/var/tmp", str(out.parent)):
    try:
        Path(place, "probe").write_text("x")
    except OSError:
        continue
    sys.exit(f"{place} can be written")
assert "HOME" not in os.environ
assert resource.getrlimit(resource.RLIMIT_NPROC) == (128, 128)
assert resource.getrlimit(resource.RLIMIT_AS)[0] == 2**32
shm = os.statvfs("/dev/shm")
assert shm.f_blocks * shm.f_frsize == 64 * 2**20
try:
    socket.create_connection(("1.1.1.1", 53), 0.5)
except OSError:
    pass
else:
    sys.exit("the network can be reached")
import threading
pause = threading.Event()
started = []
try:
    for _ in range(200):
        started.append(threading.Thread(target=pause.wait, daemon=True))
        started[-1].start()
except RuntimeError:
    pass
else:
    sys.exit("200 threads could be started")
finally:
    pause.set()
print("narrow")
"""


def tools() -> str:
    """Why this machine cannot be made narrow, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make a machine narrow"
    missing = [tool for tool in ("unshare", "mount", "prlimit", "setpriv", "awk") if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not here"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this machine gives no namespaces"


def narrow(out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command on such a machine; it may write below `out` alone."""
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    command = ["unshare", "--mount", "--net", "sh", "-c", NARROW, "sh", str(out), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(bool(tools()), reason=tools() or "it can be made narrow")
def test_predict_needs_no_home_no_network_no_shared_memory_and_few_processes(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    plain = plan_of(configuration((16, 16, 16)))
    model = tiny_bundle(tmp_path / "model", plain, folds=(0, 1))
    for name in ("a.nii.gz", "b.mha"):
        write_image(tmp_path / "in" / name, smooth((1, 30, 40, 50), 1), GRID)
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"")
    probed = narrow(tmp_path / "probe", sys.executable, "-c", PROBE, tmp_path / "probe")
    assert probed.stdout.strip() == "narrow", probed.stderr
    done = narrow(
        tmp_path / "out", sys.executable, "-m", "autounet", "predict", model, tmp_path / "in", tmp_path / "out", "--probabilities"
    )
    assert done.returncode == 3, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "2 of 3 masks are there" in done.stdout
    masks = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out" / name))) for name in ("a.nii.gz", "b.mha")]
    assert len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(*masks)
    wide = subprocess.run(
        [sys.executable, "-m", "autounet", "predict", str(model), str(tmp_path / "in"), str(tmp_path / "wide")],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=600,
    )  # fmt: skip
    assert wide.returncode == 3
    assert (tmp_path / "wide" / "a.nii.gz").read_bytes() == (tmp_path / "out" / "a.nii.gz").read_bytes()
    checked = narrow(tmp_path / "verified", sys.executable, "-m", "autounet", "verify", model)
    assert checked.returncode == 0, checked.stderr


def test_a_model_is_loaded_without_torch_s_compiler_which_wants_a_folder_for_its_cache(tmp_path: Path) -> None:
    model = tiny_bundle(tmp_path, plan_of(configuration((8, 8, 8))))
    code = "import sys; from autounet.model import load; load(sys.argv[1], device='cpu'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False"
