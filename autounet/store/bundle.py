"""One trained model in one file: a zip whose members are stored as they are, named from a closed list, hashed, and inert.

Reading trusts nothing: the number, names, kinds, sizes and places of the members are checked before a
byte is used, JSON is strict, weights must be exactly the tensors that the plan's networks have, and
nothing is ever unpacked to disk.
"""

import hashlib
import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from autounet.store.bundle_limits import check_fingerprint, check_plan, check_selection
from autounet.store.files import Digest, publish
from autounet.store.json_text import json_text
from autounet.store.selection import Selection
from autounet.store.strict import parse_json, value_of
from autounet.store.weights import check_header
from planners.errors import UserError
from planners.fingerprint import Fingerprint, TripleMm
from planners.plan import Plan
from planners.strict_json import to_plain

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

FORMAT = 1
SUFFIX = ".aunet"
MAX_MEMBERS = 64
MAX_BYTES = 8 * 2**30
MAX_JSON = 16 * 2**20
MAX_HEADER = 2**20
MAX_GOLDEN_VOXELS = 2**22
TEXTS = ("format.json", "plan.json", "fingerprint.json", "selection.json", "card.json")
HASHES, GOLDEN = "hashes.json", "golden.safetensors"
WEIGHTS = re.compile(r"weights/([a-z0-9_]{1,64})/fold_(\d{1,3})\.safetensors")
_FIX = "get the model file again from where it came, and compare its SHA-256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Which reader a bundle needs."""

    format: str = "aunet"
    version: int = FORMAT
    written_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a person should know before using the model. No case ids, no paths."""

    name: str
    description: str = ""
    licence_weights: str = "not stated"
    licence_data: str = "not stated"
    intended_use: str = "research; not a medical device"
    trained_on: str = ""
    limitations: str = ""
    imported_from: str = ""


@dataclass(frozen=True, slots=True)
class MemberFile:
    """The weights of one fold of one configuration."""

    configuration: str
    fold: int
    path: Path

    @property
    def name(self) -> str:
        """In the bundle."""
        return f"weights/{self.configuration}/fold_{self.fold}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One input and what the model makes of it, to check an installation by."""

    image_czyx: NDArray[np.float32]
    label_zyx: NDArray[np.int32]
    spacing_zyx_mm: TripleMm


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened model file; weights are read when they are asked for."""

    path: Path
    sha256: str  # of hashes.json: the identity of the content
    format: Format
    plan: Plan
    fingerprint: Fingerprint
    selection: Selection
    card: Card
    weights: tuple[tuple[str, int], ...]  # (configuration, fold)
    hashes: Mapping[str, Digest]
    has_golden: bool

    def tensors(self, configuration: str, fold: int) -> "dict[str, Tensor]":
        """The weights of one member, when their hash fits."""
        name = f"weights/{configuration}/fold_{fold}.safetensors"
        if name not in self.hashes:
            raise UserError(f"{self.path.name} holds no fold {fold} of {configuration}", "choose one that `autounet info` lists")
        return _tensors(self._read(name), f"{self.path.name}: {name}")

    def golden(self) -> Golden | None:
        """The golden pair, when the model has one."""
        if not self.has_golden:
            return None
        found = _tensors(self._read(GOLDEN), f"{self.path.name}: {GOLDEN}")
        if sorted(found) != ["image_czyx", "label_zyx", "spacing_zyx_mm"]:
            raise UserError(f"{self.path.name}: the golden pair is not image, label and spacing", _FIX)
        image, label, spacing = (found[name].numpy() for name in ("image_czyx", "label_zyx", "spacing_zyx_mm"))
        fits = image.ndim == 4 and image.shape == (len(self.plan.channels), *label.shape) and 0 < label.size <= MAX_GOLDEN_VOXELS
        kinds = image.dtype == np.float32 and label.dtype == np.int32 and spacing.dtype == np.float64 and spacing.shape == (3,)
        if not fits or not kinds or not np.isfinite(image).all() or not ((spacing > 0.001) & (spacing < 1e6)).all():
            raise UserError(f"{self.path.name}: the golden pair does not fit the model", _FIX)
        z, y, x = (float(v) for v in spacing)
        return Golden(image_czyx=image, label_zyx=label, spacing_zyx_mm=(z, y, x))

    def check(self) -> None:
        """Every member's hash."""
        for name in self.hashes:
            self._read(name)

    def _read(self, name: str) -> bytes:
        with _open_zip(self.path) as archive:
            return _member(archive, archive.getinfo(name), self.path.name, self.hashes[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything a bundle is made of."""

    plan: Plan
    fingerprint: Fingerprint
    selection: Selection
    card: Card
    members: Sequence[MemberFile]
    golden: Golden | None = None
    written_by: str = ""


def write_bundle(path: Path, contents: Contents) -> Digest:
    """Publish a bundle; the same contents make the same bytes."""
    texts = {
        "format.json": Format(written_by=contents.written_by),
        "plan.json": contents.plan,
        "fingerprint.json": without_case_ids(contents.fingerprint),
        "selection.json": replace(contents.selection, failed_cases=()),
        "card.json": contents.card,
    }
    parts = {name: json_text(to_plain(value)).encode() for name, value in texts.items()}
    if contents.golden is not None:
        parts[GOLDEN] = _golden_bytes(contents.golden)
    hashes: dict[str, object] = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    for member in contents.members:
        digest = _digest(member.path)
        hashes[member.name] = {"size": digest.size, "sha256": digest.sha256}
    parts[HASHES] = json_text(hashes).encode()

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, data in parts.items():
                archive.writestr(_info(name), data)
            for member in contents.members:
                with member.path.open("rb") as source, archive.open(_info(member.name), "w", force_zip64=True) as target:
                    while block := source.read(2**20):
                        target.write(block)

    def verify(part: Path) -> None:
        open_bundle(part).check()

    return publish(path, write, verify=verify)


def open_bundle(path: Path) -> Bundle:
    """A bundle whose shape, texts and bounds hold; its weights are checked when they are read."""
    with _open_zip(path) as archive:
        infos = {info.filename: info for info in _checked_members(archive, path)}
        hash_bytes = _member(archive, infos[HASHES], path.name, None)
        hashes = _hashes(hash_bytes, path.name)
        if set(hashes) != set(infos) - {HASHES}:
            odd = sorted(set(hashes) ^ (set(infos) - {HASHES}))
            raise UserError(f"{path.name}: {odd[0]} is in the file or in its list of hashes, but not in both", _FIX)
        texts = {name: _member(archive, infos[name], path.name, hashes[name]) for name in TEXTS}
    form = _value(texts, "format.json", Format, path.name)
    if form.format != "aunet" or form.version != FORMAT:
        raise UserError(f"{path.name} has the format {form.format} {form.version}, this version reads aunet {FORMAT}", "update autounet")
    plan = _value(texts, "plan.json", Plan, path.name)
    weights = tuple((m[1], int(m[2])) for m in (WEIGHTS.fullmatch(name) for name in sorted(hashes)) if m)
    check_plan(plan, path.name)
    fingerprint = _value(texts, "fingerprint.json", Fingerprint, path.name)
    check_fingerprint(fingerprint, plan, path.name)
    selection = _value(texts, "selection.json", Selection, path.name)
    check_selection(selection, plan, weights, path.name)
    return Bundle(
        path=path,
        sha256=hashlib.sha256(hash_bytes).hexdigest(),
        format=form,
        plan=plan,
        fingerprint=fingerprint,
        selection=selection,
        card=_value(texts, "card.json", Card, path.name),
        weights=weights,
        hashes=hashes,
        has_golden=GOLDEN in hashes,
    )


def without_case_ids(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint with its cases counted instead of named: ids may tell who the patients are."""
    return replace(fingerprint, cases=tuple(replace(case, case=str(number)) for number, case in enumerate(fingerprint.cases, 1)))


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # a date would make equal models differ
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


def _digest(path: Path) -> Digest:
    total, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            total.update(block)
            size += len(block)
    return Digest(size, total.hexdigest())


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path.name} cannot be opened ({error.strerror})", "check the name of the model file") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path.name} is no file", f"name a model file that ends in {SUFFIX}")
    if status.st_size > MAX_BYTES:
        raise UserError(f"{path.name} has {status.st_size} bytes, more than any model", _FIX)
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise UserError(
                f"{path.name} is no model file",
                f"name a file that ends in {SUFFIX}; a trained nnU-Net is taken in by `autounet import nnunet`",
            )
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{path.name} is damaged ({error})", _FIX) from error


def _checked_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The members, when there are few, all expected, plain, stored, and none lies over another."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{path.name} holds {len(infos)} members, more than {MAX_MEMBERS}", _FIX)
    for info in infos:
        _check_member(info, path.name)
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise UserError(f"{path.name} holds a member twice", _FIX)
    missing = [name for name in (*TEXTS, HASHES) if name not in names]
    if missing:
        raise UserError(f"{path.name} lacks {missing[0]}", _FIX)
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise UserError(f"{path.name} claims more bytes than it has", _FIX)
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise UserError(f"{path.name}: {info.filename} lies over another member", _FIX)
        end = info.header_offset + info.file_size
    return infos


def _check_member(info: zipfile.ZipInfo, where: str) -> None:
    known = info.filename in (*TEXTS, HASHES, GOLDEN) or WEIGHTS.fullmatch(info.filename)
    if not known or info.orig_filename != info.filename:
        raise UserError(f"{where} holds {info.filename[:80]!r}, which no model has", _FIX)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.is_dir():
        raise UserError(f"{where}: {info.filename} is no plain file", _FIX)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 0x1:
        raise UserError(f"{where}: {info.filename} is packed or locked, members of a model are stored", _FIX)
    if info.filename.endswith(".json") and info.file_size > MAX_JSON:
        raise UserError(f"{where}: {info.filename} has {info.file_size} bytes", _FIX)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, expected: Digest | None) -> bytes:
    try:
        with archive.open(info) as file:
            data = file.read(info.file_size + 1)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(f"{where}: {info.filename} is damaged ({error})", _FIX) from error
    if expected is not None and (len(data) != expected.size or hashlib.sha256(data).hexdigest() != expected.sha256):
        raise UserError(f"{where}: {info.filename} is not what its hash says", _FIX)
    return data


def _hashes(data: bytes, where: str) -> dict[str, Digest]:
    plain = parse_json(data, f"{where}: {HASHES}", max_depth=3)
    found: dict[str, Digest] = {}
    for name, entry in plain.items() if isinstance(plain, dict) else ():
        if not isinstance(entry, dict) or sorted(entry) != ["sha256", "size"]:
            raise UserError(f"{where}: the hash of {name[:80]!r} is not a size and a SHA-256", _FIX)
        size, sha256 = entry["size"], entry["sha256"]
        if type(size) is not int or type(sha256) is not str or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"{where}: the hash of {name[:80]!r} is not a size and a SHA-256", _FIX)
        found[name] = Digest(size, sha256)
    return found


def _value(texts: Mapping[str, bytes], name: str, kind: type[T], where: str) -> T:
    return value_of(parse_json(texts[name], f"{where}: {name}"), kind, f"{where}: {name}")


def _tensors(data: bytes, where: str) -> "dict[str, Tensor]":
    """Checked by us before the library sees a byte."""
    import safetensors.torch

    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or not 2 <= length <= min(MAX_HEADER, len(data) - 8):
        raise UserError(f"{where} is no safetensors file", _FIX)
    plain = parse_json(data[8 : 8 + length], where, max_depth=3)
    if not isinstance(plain, dict):
        raise UserError(f"{where} is no safetensors file", _FIX)
    check_header(plain, len(data) - 8 - length, Path(where))
    return dict(safetensors.torch.load(data))


def _golden_bytes(golden: Golden) -> bytes:
    import safetensors.numpy

    arrays: dict[str, NDArray[Any]] = {
        "image_czyx": np.ascontiguousarray(golden.image_czyx, np.float32),
        "label_zyx": np.ascontiguousarray(golden.label_zyx, np.int32),
        "spacing_zyx_mm": np.asarray(golden.spacing_zyx_mm, np.float64),
    }
    return bytes(safetensors.numpy.save(arrays))
