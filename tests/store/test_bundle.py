import hashlib
import io
import json
import pickle
import shutil
import stat
import struct
import zipfile
from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_array_equal

from autounet.store.bundle import Card, Contents, MemberFile, open_bundle, write_bundle
from autounet.store.selection import Chosen, PostStep, Selection
from autounet.store.weights import save_tensors
from planners.errors import UserError
from planners.plan import Folds
from tests.tiny_models import architecture, configuration, fingerprint_of, network_of, plan_of, tiny_bundle


@pytest.fixture
def model(tmp_path):
    return tiny_bundle(tmp_path, plan_of(configuration((8, 8, 8))), folds=(0, 1), case="CANARY_PATIENT")


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewritten(path, parts, hashes=True, infos=None):
    """A zip of these parts; its hashes fit unless they shall not."""
    parts = dict(parts)
    if hashes:
        parts["hashes.json"] = json.dumps(
            {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in parts.items() if n != "hashes.json"}
        ).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr((infos or {}).get(name, name), data)
    return path


def test_what_is_written_is_what_is_opened(model):
    bundle = open_bundle(model)
    plan = plan_of(configuration((8, 8, 8)))
    assert bundle.plan == plan
    assert bundle.weights == (("3d_fullres", 0), ("3d_fullres", 1))
    for name, value in network_of(plan, "3d_fullres", 1).state_dict().items():
        assert_array_equal(bundle.tensors("3d_fullres", 1)[name].numpy(), value.numpy())
    bundle.check()


def test_the_same_contents_make_the_same_bytes_and_name_no_case(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plan = plan_of(configuration((8, 8, 8)))
    one, other = tiny_bundle(tmp_path / "a", plan, case="CANARY"), tiny_bundle(tmp_path / "b", plan, case="OTHER")
    assert one.read_bytes() == other.read_bytes()
    assert b"CANARY" not in one.read_bytes()
    assert str(tmp_path).encode() not in one.read_bytes()


HOSTILE_NAMES = [
    "../evil.json", "/etc/evil", "a\\b.json", "C:evil", "weights/../plan.json", "PLAN.JSON", "weights/3d_fullres/fold_0.pkl", "x" * 300,
    "weights/3D/fold_0.safetensors", "weights/3d_fullres/fold_0000.safetensors", "plan.json/", ".hidden", "extra.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_member_that_no_model_has_is_refused(model, name, tmp_path):
    bad = rewritten(tmp_path / "bad.aunet", {**members(model), name: b"{}"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        open_bundle(bad)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_a_name_cut_by_a_zero_byte_is_refused(model, tmp_path):
    bad = rewritten(tmp_path / "bad.aunet", {**members(model), "plan.jsonX": b"{}"})
    bad.write_bytes(bad.read_bytes().replace(b"plan.jsonX", b"plan.json\0"))
    with pytest.raises(UserError):
        open_bundle(bad)


def test_a_link_a_locked_a_packed_and_a_doubled_member_are_refused(model, tmp_path):
    parts = members(model)
    link = zipfile.ZipInfo("card.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match="no plain file"):
        open_bundle(rewritten(tmp_path / "link.aunet", parts, infos={"card.json": link}))
    packed = zipfile.ZipInfo("card.json")
    packed.compress_type = zipfile.ZIP_DEFLATED
    with pytest.raises(UserError, match="packed"):
        open_bundle(rewritten(tmp_path / "packed.aunet", parts, infos={"card.json": packed}))
    double = rewritten(tmp_path / "double.aunet", parts)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(double, "a") as archive:
        archive.writestr("plan.json", b"{}")
    with pytest.raises(UserError, match="twice"):
        open_bundle(double)


def test_a_bomb_of_many_members_or_of_packed_zeros_is_refused(model, tmp_path):
    many = rewritten(tmp_path / "many.aunet", {**members(model), **{f"weights/a/fold_{n}.safetensors": b"" for n in range(99)}})
    with pytest.raises(UserError, match="members"):
        open_bundle(many)
    bomb = tmp_path / "bomb.aunet"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan.json", b"\0" * 50_000_000)
    with pytest.raises(UserError, match="packed"):
        open_bundle(bomb)


def test_members_that_lie_over_each_other_or_lie_about_their_size_are_refused(model, tmp_path):
    good = rewritten(tmp_path / "good.aunet", members(model)).read_bytes()
    directory = good.index(b"PK\x01\x02")
    end = good.index(b"PK\x05\x06")
    entries = []
    at = directory
    while at < end:
        lengths = struct.unpack("<HHH", good[at + 28 : at + 34])
        size = 46 + sum(lengths)
        entries.append(bytearray(good[at : at + size]))
        at += size
    over = [bytearray(e) for e in entries]
    over[1][42:46] = over[0][42:46]  # the second member starts where the first does
    lying = [bytearray(e) for e in entries]
    lying[0][20:28] = struct.pack("<II", 2**31, 2**31)
    for name, changed in (("over", over), ("lying", lying)):
        path = tmp_path / f"{name}.aunet"
        path.write_bytes(good[:directory] + b"".join(changed) + good[end:])
        with pytest.raises(UserError):
            open_bundle(path)


def test_a_changed_byte_anywhere_in_a_member_is_noticed(model, tmp_path):
    parts = members(model)
    for name in parts:
        if name == "hashes.json":
            continue
        changed = bytearray(parts[name])
        changed[len(changed) // 2] ^= 1
        bad = rewritten(tmp_path / "bad.aunet", {**parts, name: bytes(changed)}, hashes=False)
        with pytest.raises(UserError):
            open_bundle(bad).check()


def test_a_pickle_inside_never_runs(model, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    evil = pickle.dumps(Evil())
    archive = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, archive)
    for payload in (evil, archive.getvalue()):
        bad = rewritten(tmp_path / "bad.aunet", {**members(model), "weights/3d_fullres/fold_0.safetensors": payload})
        with pytest.raises(UserError, match="safetensors"):
            open_bundle(bad).tensors("3d_fullres", 0)
    assert not canary.exists()


@pytest.mark.parametrize("start", [b"", b"\x1f\x8b\x08\x00", b"ustar\x0000", b"BZh9", b"\x80\x04K\x00.", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_zip_is_no_model(tmp_path, start):
    path = tmp_path / "x.aunet"
    path.write_bytes(start)
    with pytest.raises(UserError):
        open_bundle(path)


def test_a_folder_and_a_missing_file_are_no_model(tmp_path):
    with pytest.raises(UserError):
        open_bundle(tmp_path)
    with pytest.raises(UserError):
        open_bundle(tmp_path / "none.aunet")


def test_a_plan_that_asks_for_too_much_is_refused_before_anything_is_built(model, tmp_path):
    parts = members(model)
    plan = json.loads(parts["plan.json"])
    changes = {
        "folds": lambda p: p["folds"].update(count=100_000),
        "patch": lambda p: p["configurations"][0].update(patch_zyx=[2**20, 2**20, 2**20]),
        "width": lambda p: p["configurations"][0]["architecture"].update(features=[4, 10**7]),
        "blocks": lambda p: p["configurations"][0]["architecture"].update(encoder_blocks=[1, 10**6]),
        "name": lambda p: p["configurations"][0].update(name="../../x") or p.update(train=["../../x"]),
        "step": lambda p: p["configurations"][0]["inference"].update(step_fraction=1e-9),
        "axes": lambda p: p["configurations"][0]["inference"].update(mirror_axes=[0, 7]),
        "class": lambda p: p["labels"].update(classes=[{"name": str(n), "value": n} for n in range(10_000)]),
    }
    for what, change in changes.items():
        changed = json.loads(json.dumps(plan))
        change(changed)
        bad = rewritten(tmp_path / "bad.aunet", {**parts, "plan.json": json.dumps(changed).encode()})
        with pytest.raises(UserError):
            raise AssertionError(f"{what} was accepted: {open_bundle(bad)}")


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b"[NaN]", b"[" * 100_000, b'"$__import__(1)"', b"", b"\xff\xfe{}"])
def test_odd_json_is_refused(model, tmp_path, text):
    bad = rewritten(tmp_path / "bad.aunet", {**members(model), "selection.json": text})
    with pytest.raises(UserError):
        open_bundle(bad)


def test_weights_that_do_not_fit_the_network_are_refused(tmp_path):
    from autounet.model import load

    plan = plan_of(configuration((8, 8, 8)))
    path = tmp_path / "w.safetensors"
    tensors = network_of(plan, "3d_fullres").state_dict()
    wrong = {"missing": dict(list(tensors.items())[1:]), "extra": {**tensors, "other": torch.zeros(3)}}
    wrong["shape"] = {**tensors, next(iter(tensors)): torch.zeros(1)}
    for what in wrong:
        save_tensors(path, wrong[what])
        contents = Contents(
            plan=plan,
            fingerprint=fingerprint_of(plan),
            selection=Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="test"),
            card=Card(name="x"),
            members=[MemberFile("3d_fullres", 0, path)],
        )
        write_bundle(tmp_path / "x.aunet", contents)
        with pytest.raises(UserError, match="do not fit"):
            load(tmp_path / "x.aunet")


def test_a_selection_of_what_is_not_there_is_refused(tmp_path):
    plan = plan_of(configuration((8, 8, 8)))
    path = tmp_path / "w.safetensors"
    save_tensors(path, network_of(plan, "3d_fullres").state_dict())
    good = Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="test")
    bad = [
        replace(good, members=(Chosen(configuration="3d_fullres", folds=(0, 1)),)),
        replace(good, members=(Chosen(configuration="2d", folds=(0,)),)),
        replace(good, post_steps=(PostStep(kind="keep_largest", target="nothing"),)),
        replace(good, temperature=0.0),
    ]
    for selection in bad:
        contents = Contents(
            plan=replace(plan, folds=Folds(count=5)),
            fingerprint=fingerprint_of(plan),
            selection=selection,
            card=Card(name="x"),
            members=[MemberFile("3d_fullres", 0, path)],
        )
        with pytest.raises(UserError):
            write_bundle(tmp_path / "x.aunet", contents)
        assert not (tmp_path / "x.aunet").exists()


@pytest.mark.slow
def test_b161_a_model_above_four_gigabytes_is_written_and_read_like_any_other(tmp_path):
    if shutil.disk_usage(tmp_path).free < 12 * 2**30:
        pytest.skip("12 GB of disk are needed")
    plan = plan_of(configuration((8, 8, 8), architecture=replace(architecture(features=(2, 1700)), encoder_blocks=(1, 3))))
    weights = {name: torch.zeros_like(value) for name, value in network_of(plan, "3d_fullres").state_dict().items()}
    last = sorted(weights)[-1]
    folds = tuple(range(1 + 4 * 2**30 // sum(4 * value.numel() for value in weights.values())))
    files = []
    for fold in folds:
        path = tmp_path / f"{fold}.safetensors"
        weights[last].fill_(fold)
        save_tensors(path, weights)
        files.append(MemberFile("3d_fullres", fold, path))
    selection = Selection(members=(Chosen(configuration="3d_fullres", folds=folds),), why="all of them")
    contents = Contents(plan=plan, fingerprint=fingerprint_of(plan), selection=selection, card=Card(name="large"), members=files)
    write_bundle(tmp_path / "large.aunet", contents)
    assert (tmp_path / "large.aunet").stat().st_size > 4 * 2**30
    bundle = open_bundle(tmp_path / "large.aunet")
    bundle.check()
    for fold in (0, folds[-1]):
        assert float(bundle.tensors("3d_fullres", fold)[last].flatten()[0]) == fold
    with (tmp_path / "large.aunet").open("r+b") as file:  # in the last member, beyond what 32 bits can count
        file.seek(-(2**20), 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match=r"damaged|hash says"):
        open_bundle(tmp_path / "large.aunet").check()
