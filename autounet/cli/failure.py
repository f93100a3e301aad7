"""What went wrong as two sentences and an exit code."""

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from planners.errors import UserError, in_words

DONE, BUG, USAGE, SOME_FAILED, USER, STOPPED = 0, 1, 2, 3, 4, 75

_REMEDIES = {
    errno.ENOSPC: "free some space, or name another folder with --work; then type the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space, or name another folder with --work; then type the same command again",
    errno.EFBIG: "the file system or `ulimit -f` allows no larger file: name another folder with --work",
    errno.EACCES: "ask for the right to use it, or name another folder with --work",
    errno.EPERM: "ask for the right to use it, or name another folder with --work",
    errno.EROFS: "that place is read-only: name another folder with --work",
    errno.EIO: "the disk reports an error: copy what is there to another disk, then type the same command again",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EMFILE: "raise the number of open files (ulimit -n 4096), then type the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed: correct the path",
    errno.EISDIR: "a folder stands where a file is needed: correct the path",
    errno.ENOENT: "correct the path, or put the file back",
    errno.ESTALE: "the network file system lost it: mount it again, then type the same command again",
}


class UsageError(Exception):
    """The words typed make no command."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy


class CrashError(Exception):
    """An error nobody foresaw, raised from it; its traceback lies in `record`, if that could be written."""

    def __init__(self, record: Path | None) -> None:
        super().__init__(record)
        self.record = record


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last line of a command that did not work."""

    cause: str
    remedy: str
    code: int
    case: str = ""

    @property
    def line(self) -> str:
        """error: CASE: cause. remedy."""
        return f"error: {in_words(self.cause, self.remedy, self.case)}"

    def plain(self) -> dict[str, object]:
        """The same for --json."""
        return {"error": asdict(self)}


def failures(errors: Mapping[str, UserError | None]) -> tuple[Failure, ...]:
    """Of cases that failed while the others are done; None: the lines above said why."""
    return tuple(
        Failure(cause=error.problem if error else "", remedy=error.fix if error else "", case=case, code=SOME_FAILED)
        for case, error in errors.items()
    )


def foreseen(error: BaseException) -> Failure | None:
    """The failure that a user can mend, or None when it is our bug."""
    if isinstance(error, UsageError):
        return Failure(cause=error.cause, remedy=error.remedy, code=USAGE)
    if isinstance(error, UserError):
        return Failure(cause=error.problem, remedy=error.fix, case=error.case, code=USER)
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        file = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return Failure(cause=f"{os.strerror(error.errno)}{file}", remedy=_REMEDIES[error.errno], code=USER)
    if isinstance(error, MemoryError):
        return Failure(cause="the memory of this machine is used up", remedy="allow less with --max-ram, or use fewer --threads", code=USER)
    if type(error).__name__ == "OutOfMemoryError":  # torch's; it is not imported to ask
        return Failure(
            cause="the memory of the accelerator is used up", remedy="plan for less with --gpu-memory and --replan, or free it", code=USER
        )
    return None


def bug(error: BaseException, record: Path | None) -> Failure:
    """An error nobody foresaw."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    kept = f"report it with the file {record}" if record else "report it with the lines above"
    return Failure(cause=f"this is a bug in autounet: {what}", remedy=f"type the same command again to go on, or {kept}", code=BUG)
