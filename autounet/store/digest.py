"""What proves that a file or a folder is the one that was written."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from autounet.store import calls

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """What proves that a file or folder is the one that was written."""

    size: int  # bytes; of a folder: of all files in it
    sha256: str


def digest_file(path: Path) -> Digest:
    """Size and SHA-256 of a regular file; a link is refused."""
    total, size = sha256(), 0
    for block in _blocks(path):
        total.update(block)
        size += len(block)
    return Digest(size, total.hexdigest())


def holds(path: Path, size: int, crc: int) -> bool:
    """Whether a file has this size and CRC-32: enough to see that what was written arrived, three times faster than SHA-256."""
    found_size, found_crc = 0, 0
    for block in _blocks(path):
        found_crc = crc32(block, found_crc)
        found_size += len(block)
    return (found_size, found_crc) == (size, crc)


def digest_tree(path: Path) -> Digest:
    """Digest over the names, sizes and hashes of all files below a folder."""
    total, size = sha256(), 0
    for file in tree_files(path):
        one = digest_file(file)
        size += one.size
        total.update(f"{file.relative_to(path).as_posix()}\0{one.size}\0{one.sha256}\n".encode())
    return Digest(size, total.hexdigest())


def tree_files(path: Path) -> list[Path]:
    """All regular files below a folder, sorted by their posix names; anything but files and folders is refused."""
    found: list[Path] = []
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            mode = (entry := Path(folder, name)).lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(entry)
            elif not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "neither file nor folder", str(entry))
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def tree_size(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.lstat().st_size for file in tree_files(path))


def _blocks(path: Path) -> Iterator[bytes]:
    descriptor = calls.open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        while block := calls.read(descriptor, CHUNK):
            yield block
    finally:
        calls.close(descriptor)
