"""Two commands measured side by side: alternately, on a quiet machine, with the memory of their whole process trees.

The other scripts/bench_*.py say what is run; this one says how. Nothing here knows a program by name.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
SAMPLE_SECONDS = 0.01
QUIET_SHARE = 0.10  # of one core: other people's work below this is the machine's own
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One side: what it is called in the table, and what is run."""

    name: str
    words: tuple[str, ...]
    folder: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)  # the reference wants its three variables
    before: Callable[[], None] | None = None  # put the disk back before each run; not timed
    limit_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one command."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    code: int
    others_cpu_seconds: float  # of everybody else meanwhile; above a few percent the wall time is not to be trusted
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """All runs of one command."""

    command: Command
    runs: tuple[Run, ...]

    @property
    def wall_seconds(self) -> float:
        """Median."""
        return median(r.wall_seconds for r in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """Median."""
        return median(r.cpu_seconds for r in self.runs)

    @property
    def peak_bytes(self) -> float:
        """Median."""
        return median(r.peak_bytes for r in self.runs)

    @property
    def disturbed(self) -> bool:
        """Whether somebody else computed while most of the runs went on."""
        return median(r.others_cpu_seconds / max(r.wall_seconds, 0.1) for r in self.runs) > 2 * QUIET_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Ours beside theirs, for one task."""

    task: str
    ours: Side
    theirs: Side | None


def compare(task: str, ours: Command, theirs: Command | None, *, repeats: int = 3, quiet_seconds: float = 120.0) -> Comparison:
    """Run both alternately, so that a machine which warms up or slows down does so for both."""
    runs: dict[str, list[Run]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        for side, command in (("ours", ours), ("theirs", theirs)):
            if command is not None:
                wait_until_quiet(quiet_seconds)
                runs[side].append(measure(command))
                _report(task, command, runs[side][-1])
    other = Side(command=theirs, runs=tuple(runs["theirs"])) if theirs is not None else None
    return Comparison(task=task, ours=Side(command=ours, runs=tuple(runs["ours"])), theirs=other)


def measure(command: Command) -> Run:
    """Run one command to its end: wall, CPU and peak memory of it and of all its children."""
    if command.before is not None:
        command.before()
    others_before, spent_before, start = _busy_seconds(), _children_seconds(), time.perf_counter()
    process = subprocess.Popen(
        command.words,
        cwd=command.folder,
        env=os.environ | command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    watch = _Watch(process.pid, command.limit_seconds)
    output = process.communicate()[0]
    code, wall = process.returncode, time.perf_counter() - start
    peak = watch.stop()
    spent = _children_seconds() - spent_before
    # Children that were never waited for are missing in `spent`; they count as others, and the star in the table shows.
    others = max(0.0, _busy_seconds() - others_before - spent)
    return Run(wall_seconds=wall, cpu_seconds=spent, peak_bytes=peak, code=code, others_cpu_seconds=others, output=output[-4000:])


def wait_until_quiet(limit_seconds: float) -> bool:
    """Wait until the processors are idle for a second, at most this long; False when they never were."""
    end = time.monotonic() + limit_seconds
    while True:
        before = _busy_seconds()
        time.sleep(1.0)
        if _busy_seconds() - before < QUIET_SHARE:
            return True
        if time.monotonic() > end:
            return False


def tree_bytes(pid: int) -> int:
    """Proportional set sizes of a process and all below it: shared pages count once."""
    total = 0
    for one in _tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:  # it ended meanwhile
            continue
        found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def table(comparisons: Sequence[Comparison]) -> str:
    """One Markdown table: medians, and how many times less."""
    rows = [
        "| task | wall s, ours | theirs | ratio | CPU s, ours | theirs | ratio | memory MB, ours | theirs | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        cells = [one.task]
        for name, unit in (("wall_seconds", 1.0), ("cpu_seconds", 1.0), ("peak_bytes", float(MIB))):
            mine = getattr(one.ours, name) / unit
            star = "*" if name == "wall_seconds" and one.ours.disturbed else ""
            if one.theirs is None:
                cells += [f"{_number(mine)}{star}", "", ""]
                continue
            other = getattr(one.theirs, name) / unit
            mark = "*" if name == "wall_seconds" and one.theirs.disturbed else ""
            cells += [f"{_number(mine)}{star}", f"{_number(other)}{mark}", f"{other / mine:.1f}" if mine > 0 else ""]
        failed = [f"{s.command.name} ended with {r.code}" for s in (one.ours, one.theirs) if s is not None for r in s.runs if r.code]
        cells[0] += f" ({failed[0]})" if failed else ""
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def machine_line() -> str:
    """The machine and the date, for above the table."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return f"{time.strftime('%Y-%m-%d')}, {name[1] if name else platform.machine()}, {cores} cores, {memory:.0f} GB, {platform.system()}"


def versions(python: Path, packages: Sequence[str]) -> str:
    """Which versions lie in an environment, told by its own Python."""
    code = (
        "import sys; from importlib.metadata import version\nfor p in sys.argv[1:]:\n  try: print(p, version(p))\n  except Exception: pass"
    )
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.split("\n")).strip(", ")


def conclude(title: str, comparisons: Sequence[Comparison], notes: Sequence[str], *, write: bool) -> None:
    """Print the table, and put it into docs/benchmarks.md when asked."""
    stars = any(s.disturbed for c in comparisons for s in (c.ours, c.theirs) if s is not None)
    lines = [f"## {title}", "", f"{machine_line()}. {' '.join(notes)}".strip(), "", table(comparisons), ""]
    lines += ["\\* others computed meanwhile; trust the CPU seconds.", ""] if stars else []
    print("\n".join(lines))
    if write:
        text = DOCUMENT.read_text(encoding="utf-8")
        section = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
        replaced = section.sub(lambda _: "\n".join(lines) + "\n", text)
        DOCUMENT.write_text(
            replaced.rstrip() + "\n" if section.search(text) else text.rstrip() + "\n\n" + "\n".join(lines), encoding="utf-8"
        )


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags that every bench script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer", type=Path, metavar="VENV", help="virtual environment of the reference; without it only ours is run")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--quiet-seconds", type=float, default=120.0, metavar="S", help="wait at most this long for a quiet machine")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser


class _Watch:
    """Samples the memory of a process tree until told to stop; ends the tree when its time is over."""

    def __init__(self, pid: int, limit_seconds: float) -> None:
        self._pid, self._end, self._peak, self._over = pid, time.monotonic() + limit_seconds, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._over.is_set():
            start = time.monotonic()
            self._peak = max(self._peak, tree_bytes(self._pid))
            if start > self._end:
                os.killpg(self._pid, signal.SIGKILL)
                return
            # Reading the maps of a large process costs it time: never more than a fifth of it.
            self._over.wait(max(SAMPLE_SECONDS, 4 * (time.monotonic() - start)))


def _tree(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:
            continue
        children.setdefault(int(text[text.rindex(")") + 2 :].split()[1]), []).append(int(stat.parent.name))
    tree = [pid]
    for one in tree:
        tree += children.get(one, [])
    return tree


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything."""
    user, nice, system, _idle, _wait, irq, soft, steal = (int(v) for v in Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _report(task: str, command: Command, run: Run) -> None:
    what = f"{run.wall_seconds:.2f} s, {run.cpu_seconds:.2f} CPU s, {run.peak_bytes / MIB:.0f} MB"
    print(f"{task}: {command.name}: {what}" + (f", ended with {run.code}" if run.code else ""), flush=True)
    if run.code:
        print(run.output, flush=True)
