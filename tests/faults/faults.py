"""Faults that are put under the store in a child process: its n-th call dies, fails, or does half its work."""

import errno
import os
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from autounet.store import calls

CHANGING = ("open_file", "write", "fsync", "fchmod", "chmod", "replace", "exchange", "link", "unlink", "mkdir", "rmdir")
READING = ("read", "read_into")
ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "edquot": errno.EDQUOT}
NO_SWAP = "no_swap_"  # before a kind: on a system that cannot exchange two names
CARELESS = ("careless_power_cut", "careless_power_cut_names", "careless_swap_power_cut_names")
KILLS = ("kill", "after", "half", "power_cut", "power_cut_names", *CARELESS)
LOCK_BYTES = 1000


class Fault:
    """Makes the n-th call of the store die, fail or do half its work."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.count, self.fired, self.where = kind, at, 0, False, ""
        self.names: list[str] = []  # of the calls that came

    def install(self) -> None:
        names = ("write",) if self.kind in ("half", "short", "eintr") else CHANGING + (READING if self.kind == "eio" else ())
        for name in names:
            setattr(calls, name, self._wrapped(name, getattr(calls, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any) -> Any:
            self.count += 1
            self.names.append(name)
            late = self.kind == "full" and self.fired and name in ("open_file", "write", "mkdir", "link") and _makes(name, args)
            if self.count != self.at and not late:
                return call(*args)
            if self.kind == "full" and not _makes(name, args):
                self.at += 1
                return call(*args)
            self.fired, self.where = True, f"{name} {args!r:.120} takes room: {_makes(name, args)}"
            return self._strike(call, args)

        return faulty

    def _strike(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "after":
            with suppress(OSError):
                call(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind in ("half", "short"):
            done = call(args[0], memoryview(args[1])[: len(args[1]) // 2])
            if self.kind == "half":
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        if self.kind == "eintr":
            raise InterruptedError
        number = ERRORS.get(self.kind, errno.ENOSPC)
        raise OSError(number, os.strerror(number))


def _makes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call takes room on the disk."""
    return name in ("write", "mkdir", "link") or (name == "open_file" and bool(args[1] & os.O_CREAT))


class PowerCut(Fault):
    """Dies as a machine does: what was written after the last fsync of a file is gone.

    With "names", renames after the last fsync of their folder are undone, too, the newest folder's last.
    "careless_…" shows that the harness bites: fsync of all longer files, of all folders, or after a swap is forgotten.
    """

    def __init__(self, kind: str, at: int, folder: Path) -> None:
        super().__init__(kind, at)
        self.folder = folder
        self.unsynced: dict[int, int] = {}  # inode: bytes that are safe
        # From, to, a second name of what was there before (for a swap: None, and both are there).
        self.renames: list[tuple[Path, Path, Path | None]] = []

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self.count == self.at:
                self.fired = True
                self._lose()
                os.kill(os.getpid(), signal.SIGKILL)
            self._note(name, args)
            return call(*args)

        return faulty

    def _note(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "write":
            status = os.fstat(args[0])
            self.unsynced.setdefault(status.st_ino, status.st_size)
        elif name == "fsync" and not self._forgotten(args[0]):
            self.unsynced.pop(os.fstat(args[0]).st_ino, None)
            synced = Path(f"/proc/self/fd/{args[0]}").readlink()
            self.renames = [r for r in self.renames if r[1].parent != synced]
        elif name == "replace":
            source, target = Path(args[0]), Path(args[1])
            before = None
            if target.is_file():
                before = self.folder.parent / f"before_{os.getpid()}_{self.count}"
                os.link(target, before)
            self.renames.append((source, target, before))
        elif name == "exchange":
            self.renames.append((Path(args[0]), Path(args[1]), None))

    def _forgotten(self, descriptor: int) -> bool:
        if not self.kind.startswith("careless"):
            return False
        if "swap" in self.kind:
            return self.names[-3:] == ["exchange", "open_file", "fsync"]
        status = os.fstat(descriptor)
        return stat.S_ISDIR(status.st_mode) if "names" in self.kind else status.st_size > LOCK_BYTES

    def _lose(self) -> None:
        if "names" in self.kind:
            newest = self.renames[-1][1].parent if self.renames else None
            elsewhere = [r for r in self.renames if r[1].parent != newest]
            for source, target, before in reversed(elsewhere or self.renames):
                _undo(source, target, before)
        for file in self.folder.rglob("*"):
            safe = self.unsynced.get(file.lstat().st_ino)
            if safe is not None and file.is_file():
                os.truncate(file, safe)


def _undo(source: Path, target: Path, before: Path | None) -> None:
    """The names as they were before a rename or a swap; what was removed since stays removed."""
    if not target.exists() or not source.parent.is_dir():
        return
    if source.exists():  # a swap
        between = source.with_name(f"{source.name}.between")
        source.rename(between)
        target.rename(source)
        between.rename(target)
        return
    target.rename(source)
    if before is not None:
        before.rename(target)


def fault(kind: str, at: int, folder: Path) -> Fault:
    """A fault of a kind at the n-th call."""
    if kind.startswith(NO_SWAP):
        calls.exchange = lambda first, second: False
        kind = kind.removeprefix(NO_SWAP)
    return PowerCut(kind, at, folder) if "power_cut" in kind else Fault(kind, at)
