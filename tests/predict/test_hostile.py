"""A model file that wants something else than to be a model is refused, and nothing at all is written because of it."""

import hashlib
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from autounet.job import Job
from autounet.model import load
from autounet.progress import Progress
from autounet.stages.predict import predict
from autounet.stages.verify import verify
from planners.errors import UserError
from tests.tiny_models import configuration, plan_of, smooth, tiny_bundle

GRID = Geometry(
    shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(3.0, 2.0, 1.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)
WEIGHTS = "weights/3d_fullres/fold_0.safetensors"
Parts = dict[str, bytes]


class Runs:
    """What a pickle would do."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.canary), "w")


def parts_of(model: Path) -> Parts:
    with zipfile.ZipFile(model) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, parts: Parts, *, packed: tuple[str, ...] = (), hashed: bool = True) -> Path:
    """These parts as a model file; the hashes fit, unless they shall not."""
    if hashed:
        table = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in parts.items() if n != "hashes.json"}
        parts = {**parts, "hashes.json": json.dumps(table).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED)
    return path


def planned(parts: Parts, change: Callable[[dict], object]) -> Parts:
    plan = json.loads(parts["plan.json"])
    change(plan)
    return {**parts, "plan.json": json.dumps(plan).encode()}


def traversal(parts: Parts, path: Path) -> Path:
    return write(path, {**parts, "../../escaped.txt": b"x"})


def absolute(parts: Parts, path: Path) -> Path:
    return write(path, {**parts, str(path.parent / "escaped.txt"): b"x"})


def traversal_by_configuration(parts: Parts, path: Path) -> Path:
    return write(path, planned(parts, lambda p: p["configurations"][0].update(name="../../escaped")))


def bomb(parts: Parts, path: Path) -> Path:
    return write(path, {**parts, "plan.json": b" " * 200_000_000}, packed=("plan.json",))


def bomb_of_tensors(parts: Parts, path: Path) -> Path:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    return write(path, {**parts, WEIGHTS: struct.pack("<Q", len(header)) + header})


def pickle_inside(parts: Parts, path: Path) -> Path:
    return write(path, {**parts, WEIGHTS: pickle.dumps(Runs(path.parent / "escaped.txt"))})


def pickle_alone(parts: Parts, path: Path) -> Path:
    path.write_bytes(pickle.dumps(Runs(path.parent / "escaped.txt")))
    return path


def wrong_hash(parts: Parts, path: Path) -> Path:
    weights = bytearray(parts[WEIGHTS])
    weights[-3] ^= 1
    return write(path, {**parts, WEIGHTS: bytes(weights)}, hashed=False)


def folds(parts: Parts, path: Path) -> Path:
    return write(path, planned(parts, lambda p: p["folds"].update(count=100_000, train=list(range(100_000)))))


def members(parts: Parts, path: Path) -> Path:
    selection = json.loads(parts["selection.json"])
    selection["members"][0]["folds"] = list(range(100_000))
    return write(path, {**parts, "selection.json": json.dumps(selection).encode()})


def wide(parts: Parts, path: Path) -> Path:
    return write(path, planned(parts, lambda p: p["configurations"][0]["architecture"].update(features=[4096, 4096])))


HOSTILE = (
    traversal, absolute, traversal_by_configuration, bomb, bomb_of_tensors, pickle_inside, pickle_alone, wrong_hash, folds, members, wide,
)  # fmt: skip


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda s: s.__name__)
def test_a_hostile_model_is_refused_with_nothing_written(spoil: Callable[[Parts, Path], Path], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    parts = parts_of(tiny_bundle(tmp_path / "good", plan_of(configuration((8, 8, 8)))))
    bad = spoil(parts, tmp_path / "bad.aunet")
    write_image(tmp_path / "in" / "a.nii.gz", smooth((1, 9, 10, 11), 1), GRID)
    before = sorted(tmp_path.rglob("*"))
    job = Job(work=tmp_path / "out", progress=Progress.silent(), device="cpu", threads=1)
    with pytest.raises(UserError) as refused:
        predict(bad, tmp_path / "in", tmp_path / "out", job)
    assert refused.value.fix
    with pytest.raises(UserError):
        verify(bad, job)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    assert not list(tmp_path.parent.glob("escaped*"))


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_model_damaged_anywhere_is_the_same_model_or_one_clear_error(tmp_path: Path, count: int) -> None:
    (tmp_path / "good").mkdir()
    good = tiny_bundle(tmp_path / "good", plan_of(configuration((8, 8, 8)))).read_bytes()
    rng = random.Random(3)
    image = smooth((1, 9, 10, 11), 1)
    bad = tmp_path / "bad.aunet"
    bad.write_bytes(good)
    expected = load(bad, device="cpu").predict(image, spacing=(1, 1, 1)).values_zyx.tobytes()
    refused = 0
    for _ in range(count):
        data = bytearray(good)
        at, length = rng.randrange(len(good)), rng.choice((1, 1, 4, 40, 4000))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = rng.randbytes(length)
            case _:
                data[at : at + length] = good[-length:]
        bad.write_bytes(bytes(data))
        try:
            mask = load(bad, device="cpu").predict(image, spacing=(1, 1, 1))
        except UserError:
            refused += 1
        else:
            assert mask.values_zyx.tobytes() == expected
    assert refused > count * 0.8
