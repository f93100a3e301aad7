"""One writer at a time, also across machines on a network share, and never held by the dead.

A lock is a file that appears in one step with its owner's name in it (a hard link; O_EXCL where there
are no links). `flock` is not used: network file systems lose it. On its own machine a dead owner is
known by pid and start time. An owner on another machine writes a heartbeat; one that is ten minutes
old and does not move while it is watched belongs to a dead machine.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from autounet import stop
from autounet.store import calls
from autounet.store.disk import explained
from autounet.store.files import make_folder, part_path
from autounet.store.owner import Owner, host_name, this_process
from planners.errors import UserError

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)
LOCK = ".lock"  # how names of locks end, so that those of dead runs are found
AFTER = ".after"
_BEAT_WIDTH = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How the living show that they live, and when the silent are given up."""

    beat_seconds: float = 30.0
    dead_seconds: float = 600.0  # silence of another machine; far above any clock skew seen on clusters
    watch_seconds: float = 75.0  # over two heartbeats: whoever moves in this time lives, whatever its clock says
    torn_seconds: float = 10.0  # a lock without a readable owner
    poll_seconds: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What a lock file says."""

    owner: Owner
    host: str
    since: str
    what: str
    tag: str
    beat: float  # wall clock of the last heartbeat

    def __str__(self) -> str:
        return f"{self.what} (process {self.owner.pid} on {self.host}, since {self.since})"


@dataclass(slots=True)
class Held:
    """A lock that is ours."""

    path: Path
    descriptor: int
    beat_at: int  # where in the file the heartbeat stands
    pid: int = field(default_factory=os.getpid)
    lost: bool = False

    def check(self) -> bool:
        """Whether the lock file is still the one that was made here."""
        try:
            there, ours = os.lstat(self.path), os.fstat(self.descriptor)
        except OSError:
            self.lost = True
        else:
            self.lost = self.lost or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)
        return not self.lost


@contextmanager
def lock(path: Path, what: str, wait_seconds: float = 0, *, patience: Patience | None = None, beat: bool = True) -> Iterator[Held]:
    """Hold a lock file inside this block; a UserError names the one who has it.

    Losing it meanwhile (somebody removed the file) requests a stop: two writers are worse than none.
    """
    patience = patience or Patience()
    make_folder(path.parent)
    held = _acquire(path, what, wait_seconds, patience)
    quiet = threading.Event()
    if beat:
        threading.Thread(target=_beat, args=(held, quiet, patience.beat_seconds), name=f"lock {path.name}", daemon=True).start()
    try:
        yield held
    finally:
        quiet.set()
        _release(held)


def holder(path: Path) -> Holder | None:
    """Who has a lock, None when nobody has or the file cannot be understood."""
    text = _bytes(path)
    return _parse(text) if text is not None else None


def release_if_dead(path: Path, patience: Patience | None = None) -> bool:
    """Remove a lock whose owner is known to be dead; True when that was so."""
    seen = holder(path)
    if seen is None or seen.owner.dead() is not True:
        return False
    _take_over(path, seen.tag, patience or Patience())
    return True


def _acquire(path: Path, what: str, wait_seconds: float, patience: Patience) -> Held:
    until = time.monotonic() + wait_seconds
    while True:
        held = _create(path, what)
        if held is not None:
            return held
        tag = _tag(path)
        if tag is not None and _is_dead(path, patience):
            _take_over(path, tag, patience)
            continue
        if time.monotonic() >= until:
            raise _taken(path, holder(path))
        stop.check()
        time.sleep(min(patience.poll_seconds, max(0.0, until - time.monotonic())))


def _create(path: Path, what: str) -> Held | None:
    """Make the lock file with its text in one step; None when there is one already."""
    text, beat_at = _text(what)
    part = part_path(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with explained(path, lambda: len(text)):
        descriptor = calls.open_file(part, flags, 0o644)
        try:
            _write_whole(descriptor, text)
            calls.fsync(descriptor)  # after a power cut the lock would else be there, but empty
            made = _link(part, path, descriptor)
        except BaseException:
            calls.close(descriptor)
            raise
        finally:
            with suppress(OSError):
                calls.unlink(part)
        if made is None:  # no links here
            calls.close(descriptor)
            try:
                descriptor = calls.open_file(path, flags, 0o644)
            except FileExistsError:
                return None
            _write_whole(descriptor, text)
        elif not made:
            calls.close(descriptor)
            return None
    return Held(path, descriptor, beat_at)


def _link(part: Path, path: Path, descriptor: int) -> bool | None:
    try:
        calls.link(part, path)
    except FileExistsError:
        # An answer lost on the network makes a link that worked look like one that was there before.
        return os.fstat(descriptor).st_nlink == 2
    except OSError as error:
        if error.errno in _NO_LINKS:
            return None
        raise
    return True


def _write_whole(descriptor: int, text: bytes) -> None:
    view = memoryview(text)
    while view.nbytes:
        try:
            count = calls.write(descriptor, view)
        except (InterruptedError, BlockingIOError):
            continue
        if not count:
            raise OSError(errno.EIO, "the disk takes no bytes")
        view = view[count:]


def _text(what: str) -> tuple[bytes, int]:
    me = this_process()
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    plain = {"host": host_name(), "what": what, "since": since, "tag": me.tag()}
    plain |= {"machine": me.machine, "boot": me.boot}
    head = json.dumps(plain)[:-1] + f', "pid": {me.pid}, "start": {me.start}, "beat": '
    return f"{head}{_beat_text()}}}\n".encode(), len(head.encode())


def _beat_text() -> str:
    return f"{time.time():<{_BEAT_WIDTH}.3f}"  # always as wide, so that it can be written over


def _is_dead(path: Path, patience: Patience) -> bool:
    text = _bytes(path)
    if text is None:  # gone meanwhile, or not ours to read, or the network share does not answer: that is no death
        return False
    seen = _parse(text)
    if seen is None:
        return _unmoved(path, text, patience.torn_seconds, patience)
    dead = seen.owner.dead()
    if dead is not None:
        return dead
    return time.time() - seen.beat > patience.dead_seconds and _unmoved(path, text, patience.watch_seconds, patience)


def _unmoved(path: Path, text: bytes, seconds: float, patience: Patience) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stop.wait(min(patience.poll_seconds * 4, seconds)):
            stop.check()
        if _bytes(path) != text:
            return False
    return True


def _parse(text: bytes) -> Holder | None:
    try:
        plain = json.loads(text)
        owner = Owner(machine=str(plain["machine"]), boot=str(plain["boot"]), pid=int(plain["pid"]), start=int(plain["start"]))
        names = {name: str(plain[name]) for name in ("host", "since", "what", "tag")}
        return Holder(owner=owner, beat=float(plain["beat"]), **names)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _tag(path: Path) -> str | None:
    """Of the lock that is there: empty when it has none, None when it cannot be read."""
    text = _bytes(path)
    if text is None:
        return None
    seen = _parse(text)
    return seen.tag if seen is not None else ""


def _take_over(path: Path, tag: str, patience: Patience) -> None:
    """Remove the lock of a dead owner, and no other: of all who try, one at a time looks again and removes it.

    That one is chosen by a lock too, named after the dead one; whoever dies here is found in the same way.
    """
    after = path.with_name(f".{tag or path.name}{AFTER}")
    with lock(after, f"taking over {path.name}", wait_seconds=patience.torn_seconds, patience=patience, beat=False):
        if _tag(path) == tag:
            with explained(path, lambda: 0), suppress(FileNotFoundError):
                calls.unlink(path)


def _release(held: Held) -> None:
    if held.pid != os.getpid():
        return  # a forked child leaves its parent's lock alone
    if held.check():
        with explained(held.path, lambda: 0), suppress(FileNotFoundError):
            calls.unlink(held.path)
    calls.close(held.descriptor)


def _beat(held: Held, quiet: threading.Event, seconds: float) -> None:
    while not quiet.wait(seconds):
        if not held.check():
            stop.request(f"the lock {held.path.name} was taken away")
            return
        with suppress(OSError):  # one missed beat is no harm; a share that stays away shows in the next check
            calls.pwrite(held.descriptor, _beat_text().encode(), held.beat_at)


def _taken(path: Path, seen: Holder | None) -> UserError:
    if seen is None:
        return UserError(f"{path} is held by a process that cannot be named", f"wait for it, or if nothing runs type: rm {path}")
    fix = f"wait until it is done or stop it (kill {seen.owner.pid} on {seen.host})"
    if seen.owner.dead() is None:
        silent = max(0.0, time.time() - seen.beat)
        fix = f"wait for it (last sign of life {silent:.0f} s ago), or if {seen.host} is gone type: rm {path}"
    return UserError(f"{path.parent} is in use: {seen}", fix)
