"""Writing a file so that it is there whole, or not at all, whatever happens meanwhile.

Temporary file in the same folder, write, fsync, read again and compare, rename, fsync the folder.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from autounet.store import calls
from autounet.store.digest import Digest, digest_file, digest_tree, tree_files, tree_size
from autounet.store.disk import explained, filling, free_bytes, human, require_space
from autounet.store.json_text import json_text
from autounet.store.owner import this_process
from autounet.store.sink import Sink
from planners.errors import UserError

__all__ = [
    "Digest",
    "digest_file",
    "digest_tree",
    "free_bytes",
    "human",
    "json_text",
    "publish",
    "publish_bytes",
    "publish_json",
    "publish_text",
    "publish_tree",
    "require_space",
    "tree_files",
    "tree_size",
]

PART = ".part"  # of a temporary: .<tag of its owner>.part
OF = "+"  # of what was moved aside: .<tag of its owner>+<its name>.part
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def publish(path: Path, write: Callable[[BinaryIO], object], *, verify: Callable[[Path], object] | None = None) -> Digest:
    """Write a file through `write`, check it (and let `verify` check it), then make it visible at once.

    On any failure the old file of that name is untouched and nothing else is left. A link at `path`
    is replaced, never followed.
    """
    make_folder(path.parent)
    part = part_path(path.parent)
    try:
        with explained(path, lambda: 0):
            descriptor = calls.open_file(part, _NEW, 0o600)
        sink = _write_and_sync(descriptor, path, write)
        with explained(path, lambda: sink.size):
            digest = sink.check(part)
        if digest is None:
            raise UserError(f"{path} was read back differently than it was written", "check the disk, then type the same command again")
        if verify is not None:
            verify(part)
        with explained(path, lambda: sink.size):
            calls.replace(part, path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            calls.unlink(part)
        raise
    return digest


def publish_bytes(path: Path, data: bytes) -> Digest:
    """Make a file of these bytes."""
    return publish(path, lambda file: _write_all(file, data))


def publish_text(path: Path, text: str) -> Digest:
    """Make a UTF-8 file of this text, line ends as they are."""
    return publish_bytes(path, text.encode())


def publish_json(path: Path, plain: Any) -> Digest:
    """Make a JSON file that a person can read: short lists and objects stay on one line."""
    return publish_text(path, json_text(plain))


def publish_tree(path: Path, fill: Callable[[Path], object], *, verify: Callable[[Path], object] | None = None) -> Digest:
    """Let `fill` write into a fresh folder, sync and hash all of it, then make it visible at once."""
    make_folder(path.parent)
    part = part_path(path.parent)
    try:
        with explained(path, lambda: 0):
            calls.mkdir(part, 0o700)
        with filling(path, part, lambda: tree_size(part)):
            fill(part)
        with explained(path, lambda: tree_size(part)):
            sync_tree(part)
            digest = digest_tree(part)
        if verify is not None:
            verify(part)
        with explained(path, lambda: digest.size):
            _move_tree(part, path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            remove_tree(part)
        raise
    return digest


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, lasting."""
    if folder.is_dir():
        return
    with explained(folder, lambda: 0):
        missing = [folder, *folder.parents]
        for one in reversed([f for f in missing if not f.is_dir()]):
            with suppress(FileExistsError):
                calls.mkdir(one, mode if one == folder else 0o777)
                sync_folder(one.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(folder))


def remove_file(path: Path) -> None:
    """Remove a file if it is there, lasting."""
    with explained(path, lambda: 0), suppress(FileNotFoundError):
        calls.unlink(path)
        sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it; links are removed, not followed."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            with suppress(FileNotFoundError):
                calls.unlink(entry.path)
    with suppress(FileNotFoundError):
        calls.rmdir(path)


def discard_tree(path: Path) -> None:
    """Make a folder vanish in one step, then remove what was in it."""
    part = part_path(path.parent)
    try:
        with suppress(FileNotFoundError):
            calls.replace(path, part)
            sync_folder(path.parent)
    finally:
        remove_tree(part)


def part_path(folder: Path) -> Path:
    """A fresh name for a temporary in a folder."""
    return folder / f".{this_process().tag()}{PART}"


def aside_path(path: Path) -> Path:
    """A fresh name for what is in the way of `path`; it tells whose place that was."""
    return path.with_name(f".{this_process().tag()}{OF}{path.name}{PART}")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last, where its file system can and the folder may be read."""
    try:
        descriptor = calls.open_file(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        calls.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some network shares have no such thing
            raise
    finally:
        calls.close(descriptor)


def _write_and_sync(descriptor: int, path: Path, write: Callable[[BinaryIO], object]) -> Sink:
    sink = Sink(descriptor, path)
    try:
        write(cast(BinaryIO, sink))
        sink.flush()
        with explained(path, lambda: sink.size):
            with suppress(PermissionError):  # file systems without modes
                calls.fchmod(descriptor, 0o666 & ~_umask())
            calls.fsync(descriptor)
    finally:
        calls.close(descriptor)
    return sink


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def sync_tree(folder: Path) -> None:
    """Make all files and names below a folder last."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            descriptor = calls.open_file(Path(place, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                calls.fsync(descriptor)
            finally:
                calls.close(descriptor)
        sync_folder(Path(place))
    with suppress(PermissionError):
        calls.chmod(folder, 0o777 & ~_umask())


def _move_tree(part: Path, path: Path) -> None:
    try:
        calls.replace(part, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        old = part if calls.exchange(str(part), str(path)) else _move_in_two_steps(part, path)
        try:
            # Before anything of the old one goes: a power cut may bring back a name that did not last, but not the files.
            sync_folder(path.parent)
        finally:
            remove_tree(old)


def _move_in_two_steps(part: Path, path: Path) -> Path:
    """For systems that cannot swap; where the old folder is now. A sweep puts it back when this is cut off in the middle."""
    aside = aside_path(path)
    calls.replace(path, aside)
    try:
        sync_folder(path.parent)
        calls.replace(part, path)
    except BaseException:
        with suppress(OSError):
            calls.replace(aside, path)
        raise
    return aside


def _umask() -> int:
    """The mask of this process, read without the usual trick that changes it for all threads."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
