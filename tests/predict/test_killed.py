"""A prediction that is killed at any moment: what is listed is whole, and typed again it makes the same bytes."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from autounet.store.manifest import Manifest
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = Geometry(
    shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)
KILLED = 9


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no SIGKILL")
@pytest.mark.parametrize("moments", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_next_call_makes_the_same_bytes(tmp_path: Path, moments: int) -> None:
    source = tmp_path / "in"
    images = 3 if moments < 50 else 6
    for number in range(images):
        write_image(source / f"case_{number}.nii.gz", smooth((1, 9, 10, 11), number), GRID)
    (tmp_path / "model").mkdir()
    model = tiny_bundle(tmp_path / "model", plan_of(configuration((8, 8, 8))))
    command = [sys.executable, "-m", "tests.predict.zygote", str(model), str(source)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None

        def run(out: Path, seconds: float) -> tuple[int, float]:
            assert zygote.stdin is not None
            assert zygote.stdout is not None
            zygote.stdin.write(f"{out} {seconds}\n")
            zygote.stdin.flush()
            status, taken = zygote.stdout.readline().split()
            return int(status), float(taken)

        status, whole = run(tmp_path / "whole", 0)
        assert status == 0
        expected = masks(tmp_path / "whole")
        assert len(expected) == images
        rng = random.Random(7)
        killed, partly = 0, 0
        for number in range(moments):
            out = tmp_path / f"torn_{number}"
            status, _ = run(out, rng.uniform(0.001, whole))
            killed += status == KILLED
            partly += 0 < len(masks(out)) < images
            if out.exists():
                assert Manifest.open(out).damaged() == ()
                listed = {name for name in Manifest.open(out).names() if name.endswith(".nii.gz")}
                assert {name: data for name, data in masks(out).items() if name in listed} == {n: expected[n] for n in listed}
            status, _ = run(out, 0)
            assert status == 0
            assert masks(out) == expected
            assert not [p for p in out.rglob("*") if p.is_file() and p.suffix == ".part"], "nothing half written stays"
        zygote.stdin.close()
        zygote.wait()
    assert killed >= moments // 2, "most were alive when the signal came"
    assert moments < 50 or partly > 5, "some were killed between two masks"
