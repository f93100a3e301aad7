"""The list of what is finished in a folder: an artefact is there when its entry is, never because a file exists."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal

from autounet.store.files import Digest, digest_file, digest_tree, publish_json, tree_size
from autounet.store.lock import lock
from autounet.store.strict import read_json
from planners.errors import UserError

NAME = "manifest.json"
SCHEMA = 1
MAX_BYTES = 256 * 2**20  # a million entries
_HASH = re.compile("[0-9a-f]{64}")
_KEYS = ["entries", "schema", "seal"]
_AGAIN = "restore it from a copy, or delete it and type the same command again: everything is then checked or made anew"


@dataclass(slots=True)
class Manifest:
    """The finished artefacts of one folder. Two processes may add to it at the same time."""

    folder: Path
    _entries: dict[str, Digest]
    _stamp: tuple[int, ...]

    @classmethod
    def open(cls, folder: Path) -> "Manifest":
        """The manifest of a folder; an absent file is an empty one, a damaged file is a UserError."""
        manifest = cls(folder, {}, ())
        manifest._refresh()
        return manifest

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self.folder / NAME

    def names(self) -> tuple[str, ...]:
        """All entries, sorted."""
        self._refresh()
        return tuple(sorted(self._entries))

    def digest(self, relative_path: str) -> Digest | None:
        """What was recorded of an artefact."""
        self._refresh()
        return self._entries.get(relative_path)

    def has(self, relative_path: str, check: Literal["size", "hash"] = "size") -> bool:
        """Whether an artefact is recorded and the file or folder is (by size or by hash) the recorded one."""
        known = self.digest(relative_path)
        if known is None:
            return False
        path = self.folder / relative_path
        try:
            if path.is_symlink():
                return False
            if path.is_dir():
                return (tree_size(path) == known.size) if check == "size" else digest_tree(path) == known
            return (path.stat().st_size == known.size) if check == "size" else digest_file(path) == known
        except OSError:
            return False

    def add(self, relative_path: str, digest: Digest) -> None:
        """Record a published artefact."""
        self.add_all({relative_path: digest})

    def add_all(self, digests: Mapping[str, Digest]) -> None:
        """Record many at once."""
        for name in digests:
            check_relative(name, str(self.path))
        self._change(digests, ())

    def remove(self, *relative_paths: str) -> None:
        """Forget artefacts: before they are made again or deleted."""
        self._change({}, relative_paths)

    def damaged(self) -> tuple[str, ...]:
        """All entries whose file is missing or no longer the recorded one."""
        return tuple(name for name in self.names() if not self.has(name, check="hash"))

    def _change(self, added: Mapping[str, Digest], removed: tuple[str, ...]) -> None:
        with lock(self.folder / f".{NAME}.lock", "writing the manifest", wait_seconds=60, beat=False):
            self._refresh()
            entries = {name: digest for name, digest in {**self._entries, **added}.items() if name not in removed}
            if entries != self._entries or not self._stamp:
                publish_json(self.path, entries_to_plain(entries))
                self._entries, self._stamp = entries, _stamp(self.path)

    def _refresh(self) -> None:
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._entries = entries_from_plain(read_json(self.path, max_bytes=MAX_BYTES), self.path) if stamp else {}
            self._stamp = stamp


def check_relative(name: str, where: str) -> None:
    """Refuse a name that could lead out of the folder or means different files on different systems."""
    parts = PurePosixPath(name).parts
    odd = any(ord(letter) < 32 or letter in "\\\x7f" for letter in name)
    if odd or not parts or ".." in parts or name.startswith("/") or name != PurePosixPath(name).as_posix() or name == ".":
        raise UserError(f"{where}: {name!r} is no relative path inside the folder", "use a posix path below the folder")


def entries_to_plain(entries: Mapping[str, Digest]) -> dict[str, object]:
    """A sealed list of digests as JSON."""
    listed = {name: {"size": entries[name].size, "sha256": entries[name].sha256} for name in sorted(entries)}
    return {"schema": SCHEMA, "seal": _seal(entries), "entries": listed}


def _seal(entries: Mapping[str, Digest]) -> str:
    """A hash over all entries, so that one changed letter anywhere in the list shows."""
    lines = (f"{name}\0{entries[name].size}\0{entries[name].sha256}\n" for name in sorted(entries))
    return sha256("".join(lines).encode()).hexdigest()


def entries_from_plain(plain: object, path: Path) -> dict[str, Digest]:
    """The digests of a sealed list; `path` is named when anything about it is wrong."""
    if not isinstance(plain, dict) or not isinstance(plain.get("entries"), dict):
        raise UserError(f"{path} is no manifest: it holds no list of entries", _AGAIN)
    if plain.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has schema {plain.get('schema')}, this version reads {SCHEMA}", "use the version of autounet that wrote it"
        )
    if sorted(plain) != _KEYS:
        odd = sorted({*plain} ^ {*_KEYS})
        raise UserError(f"{path} has a wrong or missing key: {odd[0]}", _AGAIN)
    entries = {name: _entry(name, one, path) for name, one in plain["entries"].items()}
    if plain["seal"] != _seal(entries):
        raise UserError(f"{path} was changed or damaged: its seal does not fit its entries", _AGAIN)
    return entries


def _entry(name: str, plain: object, path: Path) -> Digest:
    check_relative(name, str(path))
    if isinstance(plain, dict) and sorted(plain) == ["sha256", "size"]:
        size, digest = plain["size"], plain["sha256"]
        if type(size) is int and size >= 0 and isinstance(digest, str) and _HASH.fullmatch(digest):
            return Digest(size, digest)
    raise UserError(f"{path}: the entry {name!r} is no size and SHA-256", _AGAIN)


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with every publish (it makes a new file); empty when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
