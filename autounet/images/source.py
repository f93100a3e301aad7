"""Opening what a user named: a regular file, inside the folder it was named in, read without waiting for anybody."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autounet.images.image import ReadOptions
from planners.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A file or folder as errors show it."""

    shown: str

    def refuse(self, problem: str, fix: str) -> UserError:
        """The error that names it."""
        return UserError(f"{self.shown} {problem}", fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Named):
    """An open file and its size in bytes."""

    file: io.FileIO
    size: int


@contextmanager
def opened(path: Path, options: ReadOptions) -> Iterator[Source]:
    """The file, open for reading; everything but a regular file is refused before it is touched."""
    name = shown(path, options.root)
    real = _real_path(path, name, options)
    try:
        _check_kind(real.stat().st_mode, name)
        descriptor = os.open(real, _READ)
    except OSError as error:
        raise _explained(error, path, name) from None
    with io.FileIO(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _check_kind(found.st_mode, name)  # what was opened, should somebody have swapped it meanwhile
        if not found.st_size:
            raise UserError(f"{name} is empty (0 bytes)", "copy or export the file again")
        try:
            yield Source(file=file, size=found.st_size, shown=name)
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror or error}", "check the disk, then copy the file again") from error


def shown(path: Path, root: Path | None = None) -> str:
    """A path for errors: below its root, without control characters, never absolute."""
    text = path.name or str(path)
    if root is not None:
        with suppress(ValueError):
            text = path.relative_to(root).as_posix()
    return printable(text)


def printable(text: str, limit: int = 200) -> str:
    """Foreign text made safe for a terminal and a report: escapes instead of control characters, and not endless."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def _real_path(path: Path, name: str, options: ReadOptions) -> Path:
    """Where the file really lies: opened there without following links, so a link that is swapped now leads nowhere."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _explained(error, path, name) from None
    if options.root is None or options.follow_outside or real.is_relative_to(options.root.resolve()):
        return real
    raise UserError(
        f"{name} is a link that leaves the folder {printable(options.root.name)}",
        "copy the file there, or set follow_symlinks = true under [dataset] in autounet.toml",
    )


def _check_kind(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "a special file")
    raise UserError(f"{name} is {kind}, not a regular file", "replace it by an image file, or remove it")


def _explained(error: OSError | RuntimeError, path: Path, name: str) -> UserError:
    if isinstance(error, PermissionError):
        with suppress(OSError):
            mode = f" (mode {stat.S_IMODE(path.stat().st_mode):03o})"
            return UserError(f"{name} must not be read by user {_user()}{mode}", "give that user the right to read it")
        return UserError(f"{name} must not be read by user {_user()}", "give that user the right to read it and its folders")
    if path.is_symlink():
        kind = (
            "a link that leads to itself" if isinstance(error, RuntimeError) or error.errno == 40 else "a link to a file that is not there"
        )
        return UserError(f"{name} is {kind}", "restore the file it should lead to, or remove the link")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UserError(f"{name} is not there (any more)", "restore the file, or drop the case")
    return UserError(f"{name} cannot be opened: {error}", "check the file and its disk")


def _user() -> str:
    with suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid()) if hasattr(os, "geteuid") else "running this"
