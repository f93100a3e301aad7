"""Who made a temporary file or a lock, and whether that process still lives.

A process is known by machine, boot, pid and start time: a pid alone is reused, a host name alone is
shared by containers. Times of files are never asked: clocks jump and network shares disagree.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # fixed by the Linux kernel; anything else is a container
_TAG = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9]+)-([0-9]+)-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process on one machine since one boot."""

    machine: str  # host name, machine id and pid namespace, hashed
    boot: str
    pid: int
    start: int  # clock ticks after boot; 0 where the system does not say

    def tag(self) -> str:
        """A fresh name that nobody can guess and that tells its owner."""
        return f"{self.machine}-{self.boot}-{self.pid}-{self.start}-{os.urandom(8).hex()}"

    def dead(self) -> bool | None:
        """True or False where it can be known from here, None for a process of another machine."""
        if self.machine != _machine():
            return None
        if self.boot != _boot():
            # Same machine, another boot. In a container the same name may be another machine after all.
            return True if _pid_namespace() == INITIAL_PID_NAMESPACE else None
        return not _alive(self.pid, self.start)


def this_process() -> Owner:
    """The owner that is running this line."""
    pid = os.getpid()
    return Owner(machine=_machine(), boot=_boot(), pid=pid, start=started(pid) or 0)


def owner_of(tag: str) -> Owner | None:
    """The owner that a name made by `Owner.tag` tells, None for any other name."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return None
    machine, boot, pid, start = found.groups()
    return Owner(machine=machine, boot=boot, pid=int(pid), start=int(start))


def started(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot, 0 for one that has ended, None when unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *rest = stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold spaces and brackets
    return 0 if state in (b"Z", b"X") else int(rest[18])


def _alive(pid: int, start: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, so it is there
    except OverflowError:
        return False
    now = started(pid)
    return now is None or start == 0 or now == start


def host_name() -> str:
    """What this machine calls itself."""
    return os.uname().nodename


@cache
def _machine() -> str:
    return _short(host_name(), _first_line("/etc/machine-id"), _pid_namespace())


@cache
def _boot() -> str:
    return _short(_first_line("/proc/sys/kernel/random/boot_id"))


@cache
def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _short(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()
