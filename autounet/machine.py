"""What this process may use of the machine: cores, memory and the accelerator.

Containers and schedulers hand out a part of a machine through affinity and control groups; the counts
of the whole machine, which the usual calls return, start too many workers there and get them killed.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planners.errors import UserError
from planners.hardware import Hardware, Precision

_SYSTEM = Path("/")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # the last is how ARM calls it


def cores(root: Path = _SYSTEM) -> int:
    """Cores this process may keep busy: its affinity, cut by the quota of its control groups; at least 1."""
    allowed: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        allowed = min(allowed, _quota(group))
    return max(1, int(allowed))  # rounded down: half a core too many is throttled


def memory_limit_bytes(root: Path = _SYSTEM) -> int:
    """Bytes this process and its children may hold: the machine's, cut by the limits of its control groups."""
    total = _meminfo(root, "MemTotal") or _sysconf_bytes("SC_PHYS_PAGES")
    return min([total, *(limit for group in _groups(root, "memory") if (limit := _memory_limit(group)) is not None)])


def memory_available_bytes(root: Path = _SYSTEM) -> int:
    """Bytes that can be taken now without swapping and without hitting a limit."""
    available = _meminfo(root, "MemAvailable") or _sysconf_bytes("SC_AVPHYS_PAGES")
    for group in _groups(root, "memory"):
        limit = _memory_limit(group)
        if limit is not None:
            available = min(available, limit - _memory_used(group))
    return max(0, available)


def process_tree_bytes(pid: int | None = None, kind: Literal["pss", "rss"] = "pss", root: Path = _SYSTEM) -> int:
    """Memory of a process and all below it. "pss" counts shared pages once; "rss" is cheaper and counts them often."""
    return sum(_process_bytes(root / "proc" / str(one), kind) for one in process_tree(os.getpid() if pid is None else pid, root))


def process_tree(pid: int, root: Path = _SYSTEM) -> tuple[int, ...]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in (root / "proc").glob("[0-9]*/stat"):
        text = _read(stat)
        if text:
            parent = int(text[text.rindex(")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    tree = [pid]
    for one in tree:
        tree += children.get(one, [])
    return tuple(tree)


def hardware(device: str = "auto") -> Hardware:
    """The machine as planners see it: "auto", "cpu", "cuda", "cuda:1" or "mps"."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise UserError(f"there is no device {device!r}", "use auto, cpu, cuda, cuda:1 or mps")
    if kind == "cpu":
        return _cpu()
    import torch

    if kind in ("auto", "cuda") and torch.cuda.is_available():
        return _cuda(int(number or 0))
    if kind in ("auto", "mps") and torch.backends.mps.is_available():
        return _mps()
    if kind == "auto":
        return _cpu()
    raise UserError(f"this machine has no usable {kind} device", "use --device cpu, or type `autounet doctor` to see why")


def processor_flags(root: Path = _SYSTEM) -> frozenset[str]:
    """What the processor can do, in the words of /proc/cpuinfo."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor_name(root: Path = _SYSTEM) -> str:
    """The processor as its maker calls it."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def cpu_precisions(flags: frozenset[str]) -> tuple[Precision, ...]:
    """Number formats the processor multiplies at full speed; others it only imitates, slower than float32."""
    return ("float32", "bfloat16") if flags & _BFLOAT16_FLAGS else ("float32",)


def _cpu() -> Hardware:
    return Hardware(
        accelerator="cpu",
        name=processor_name(),
        accelerator_bytes=0,
        host_bytes=memory_limit_bytes(),
        cores=cores(),
        precisions=cpu_precisions(processor_flags()),
    )


def _cuda(number: int) -> Hardware:
    import torch

    count = torch.cuda.device_count()
    if number >= count:
        raise UserError(f"there is no device cuda:{number}, this machine has {count}", f"use --device cuda:{count - 1}")
    device = torch.cuda.get_device_properties(number)
    return Hardware(
        accelerator="cuda",
        name=device.name,
        accelerator_bytes=device.total_memory,
        host_bytes=memory_limit_bytes(),
        cores=cores(),
        precisions=cuda_precisions((device.major, device.minor)),
    )


def cuda_precisions(capability: tuple[int, int]) -> tuple[Precision, ...]:
    """Number formats the matrix units of a CUDA device multiply: half floats since 7.0, bfloat16 since 8.0."""
    if capability >= (8, 0):
        return ("float32", "bfloat16", "float16")
    return ("float32", "float16") if capability >= (7, 0) else ("float32",)


def _mps() -> Hardware:
    import torch

    return Hardware(
        accelerator="mps",
        name=processor_name(),
        accelerator_bytes=int(torch.mps.recommended_max_memory()),
        host_bytes=memory_limit_bytes(),
        cores=cores(),
        precisions=("float32", "float16"),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group on the way from this process up to the root."""

    folder: Path
    version: Literal[1, 2]


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """The groups that hold this process, innermost first, of the old and of the new hierarchy."""
    paths = _group_paths(root, controller)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, *_, options = right.split() or [""]
        version: Literal[1, 2] = 2 if kind == "cgroup2" else 1
        if version not in paths or (kind != "cgroup2" and not (kind == "cgroup" and controller in options.split(","))):
            continue
        top, mount = left.split()[3:5]
        # A container often sees its own group mounted as the root, under a path that only the host knows.
        inside = Path(paths[version]).relative_to(top) if Path(paths[version]).is_relative_to(top) else Path()
        folder = root / mount.lstrip("/")
        for depth in range(len(inside.parts), -1, -1):
            yield _Group(folder.joinpath(*inside.parts[:depth]), version)


def _group_paths(root: Path, controller: str) -> dict[int, str]:
    paths: dict[int, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    return paths


def _quota(group: _Group) -> float:
    """Cores that a group may use, infinity without a quota."""
    if group.version == 2:
        words = _read(group.folder / "cpu.max").split()
        quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "1")
    else:
        quota, period = _read(group.folder / "cpu.cfs_quota_us").strip(), _read(group.folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else float("inf")


def _memory_limit(group: _Group) -> int | None:
    names = ("memory.max", "memory.high") if group.version == 2 else ("memory.limit_in_bytes",)
    limits = [int(text) for name in names if (text := _read(group.folder / name).strip()).isdigit()]
    return min(limits, default=None)


def _memory_used(group: _Group) -> int:
    """Bytes in use but for file pages that are given back on demand."""
    text = _read(group.folder / ("memory.current" if group.version == 2 else "memory.usage_in_bytes")).strip()
    name = "inactive_file" if group.version == 2 else "total_inactive_file"
    given_back = next((int(v) for k, v in _pairs(group.folder / "memory.stat") if k == name), 0)
    return max(0, int(text) - given_back) if text.isdigit() else 0


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) >= 2:
            yield words[0], words[1]


def _meminfo(root: Path, name: str) -> int:
    return next((int(v) * 1024 for k, v in _pairs(root / "proc/meminfo") if k == f"{name}:"), 0)


def _sysconf_bytes(pages: str) -> int:
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 2**62 if pages == "SC_PHYS_PAGES" else 0


def _process_bytes(folder: Path, kind: Literal["pss", "rss"]) -> int:
    """Memory of one process; 0 for one that has just ended."""
    if kind == "pss":
        for name, value in _pairs(folder / "smaps_rollup"):
            if name == "Pss:":
                return int(value) * 1024
    for name, value in _pairs(folder / "status"):  # no right to see the maps, or asked for the cheap one
        if name == "VmRSS:":
            return int(value) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
