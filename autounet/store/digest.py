"""What proves that a file or a folder is the one that was written."""

import errno
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from autounet.store import calls

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """What proves that a file or folder is the one that was written."""

    size: int  # bytes; of a folder: of all files in it
    sha256: str


def digest_file(path: Path) -> Digest:
    """Size and SHA-256 of a regular file; a link is refused."""
    descriptor = calls.open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        total, size = sha256(), 0
        while block := calls.read(descriptor, CHUNK):
            total.update(block)
            size += len(block)
    finally:
        calls.close(descriptor)
    return Digest(size, total.hexdigest())


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
