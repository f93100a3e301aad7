"""Room on a disk, and its failures in words that tell a user what to do."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from planners.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse before any work when a disk has less room than `what` will need."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise UserError(
            f"{what} needs {human(needed_bytes)} in {folder}, {human(free)} are free",
            "free space there, or name another folder with --work",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write below a folder (or the nearest one above that exists)."""
    there = next((f for f in (folder, *folder.absolute().parents) if f.exists()), Path("/"))
    room = os.statvfs(there)
    return room.f_bavail * room.f_frsize


def human(size: int) -> str:
    """A size as people say it."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


@contextmanager
def explained(path: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Failures of the disk while `path` is written become errors that a user can mend; a bug stays a bug."""
    try:
        yield
    except OSError as error:
        size = 0
        with suppress(OSError):  # what fails may also be in the way of measuring it
            size = needed()
        raise _explain(error, path, size) from error


@contextmanager
def filling(path: Path, part: Path, needed: Callable[[], int]) -> Iterator[None]:
    """The same for a writer of its own that fills the folder `part`; failures of what it reads are left as they are."""
    try:
        yield
    except OSError as error:
        ours = isinstance(error.filename, str | os.PathLike) and Path(error.filename).is_relative_to(part)
        if not ours and error.errno not in _FULL:
            raise
        with explained(path, needed):
            raise


def _explain(error: OSError, path: Path, needed: int) -> UserError:
    folder, why = path.parent, os.strerror(error.errno) if error.errno else str(error)
    again = "then type the same command again: what is finished is kept"
    if error.errno in _FULL:
        try:
            free = human(free_bytes(folder))
        except OSError:
            free = "an unknown number of bytes"
        problem = f"{path.name} needs at least {human(needed)} in {folder}, {free} are free ({why})"
        limit = "raise the limit on file sizes (ulimit -f)" if error.errno == errno.EFBIG else "free space there or raise the quota"
        return UserError(problem, f"{limit}, {again}")
    if error.errno in _FORBIDDEN:
        return UserError(f"{path.name} cannot be written into {folder} ({why})", "name a folder you may write to with --work")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
        return UserError(f"{path} cannot be written, something else is in its place ({why})", "move that away or name another --work")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(f"{path.name} cannot be opened, too many files are open ({why})", f"raise the limit (ulimit -n), {again}")
    return UserError(f"{path.name} was not written into {folder} ({why})", f"check the disk or the network share, {again}")
