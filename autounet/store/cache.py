"""Results named by what they were made from: made once, never seen half, thrown away at will."""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from autounet.store import calls
from autounet.store.digest import Digest, digest_file, tree_files, tree_size
from autounet.store.disk import explained, filling
from autounet.store.files import discard_tree, make_folder, part_path, publish_json, remove_tree, sync_folder, sync_tree
from autounet.store.manifest import entries_from_plain, entries_to_plain
from autounet.store.strict import read_json
from planners.errors import UserError

RECORD = "entry.json"
RECORD_BYTES = 16 * 2**20
_KEY_LETTERS = frozenset("0123456789abcdef")


def key(*parts: str | bytes) -> str:
    """A name for what is made from these parts; ("ab", "c") and ("a", "bc") are different."""
    total = blake2b(digest_size=20)
    for part in parts:
        data, kind = (part.encode(), b"s") if isinstance(part, str) else (part, b"b")
        total.update(kind + len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries, each a folder with a record of its files. Any number of processes may share it."""

    root: Path

    def path(self, key: str) -> Path:
        """Where an entry is, or would be."""
        if len(key) < 8 or not _KEY_LETTERS.issuperset(key):
            raise ValueError(f"{key!r} is no key of a cache")
        return self.root / key[:2] / key

    def get(self, key: str) -> Path | None:
        """The folder of a complete entry: its record is there and every file has the recorded size."""
        entry = self.path(key)
        files = self._files(key)
        if files is None:
            return None
        try:
            complete = all(_size(entry / name) == digest.size for name, digest in files.items())
        except OSError:
            return None
        return entry if complete else None

    def put(self, key: str, fill: Callable[[Path], object]) -> Path:
        """The folder of an entry; when it is not there yet (or damaged), `fill` writes it first.

        Two processes may both fill; one of the two equal results is kept.
        """
        found = self.get(key)
        return found if found is not None else self._make(key, fill)

    def verify(self, key: str) -> bool:
        """Whether every file of an entry has the recorded hash. A damaged entry is removed, so that it is made anew."""
        entry, files = self.path(key), self._files(key)
        if files is None:
            return False
        try:
            sound = all(digest_file(entry / name) == digest for name, digest in files.items())
        except OSError:
            sound = False
        if not sound:
            self.discard(key)
        return sound

    def discard(self, key: str) -> None:
        """Remove an entry; it vanishes in one step."""
        with explained(self.path(key), lambda: 0):
            discard_tree(self.path(key))

    def keys(self) -> tuple[str, ...]:
        """All entries, complete or not, sorted."""
        return tuple(sorted(entry.name for entry in self.root.glob("??/*") if _KEY_LETTERS.issuperset(entry.name)))

    def prune(self, keep: Iterable[str]) -> int:
        """Remove all entries but these; how many bytes that freed."""
        kept, freed = frozenset(keep), 0
        for one in self.keys():
            if one not in kept:
                freed += tree_size(self.path(one))
                self.discard(one)
        return freed

    def _files(self, key: str) -> dict[str, Digest] | None:
        record = self.path(key) / RECORD
        if not record.is_file():
            return None
        try:
            plain = read_json(record, max_bytes=RECORD_BYTES)
            if not isinstance(plain, dict) or plain.pop("key", None) != key:
                return None
            return entries_from_plain(plain, record)
        except UserError:  # unreadable, so it is no proof, and the entry is made anew
            return None

    def _make(self, key: str, fill: Callable[[Path], object]) -> Path:
        entry = self.path(key)
        make_folder(self.root, 0o700)
        self._refuse_foreign()
        make_folder(entry.parent)
        part = part_path(entry.parent)
        try:
            with explained(entry, lambda: 0):
                calls.mkdir(part, 0o700)
            with filling(entry, part, lambda: tree_size(part)):
                fill(part)
            with explained(entry, lambda: tree_size(part)):
                if (part / RECORD).exists():
                    raise ValueError(f"{RECORD} is the name of the cache's own record")
                files = {file.relative_to(part).as_posix(): digest_file(file) for file in tree_files(part)}
                publish_json(part / RECORD, {"key": key, **entries_to_plain(files)})
                sync_tree(part)
                self._show(part, key)
        except BaseException:
            with suppress(OSError):
                remove_tree(part)
            raise
        return entry

    def _show(self, part: Path, key: str) -> None:
        """Rename into place. Somebody else's complete entry wins, a damaged one gives way."""
        entry = self.path(key)
        for _ in range(100):
            try:
                calls.replace(part, entry)
            except OSError:
                if not entry.exists():
                    raise
                if self.get(key) is not None:
                    remove_tree(part)
                    return
                discard_tree(entry)
            else:
                sync_folder(entry.parent)
                return
        raise UserError(f"{entry} is made and damaged again and again by somebody else", "use another cache with --cache")

    def _refuse_foreign(self) -> None:
        """Whoever may write into the cache decides what is trained on."""
        status = self.root.stat()
        if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
            raise UserError(f"the cache {self.root} belongs to another user", "name a folder of your own with --cache")
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise UserError(f"everybody may write into the cache {self.root}", f"type: chmod o-w {self.root}")


def _size(path: Path) -> int:
    status = path.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
