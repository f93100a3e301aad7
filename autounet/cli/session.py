"""One command at work: its job, its voice, its answer to signals, and the record of a crash."""

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autounet import __version__, machine, stop
from autounet.cli.failure import CrashError, Failure, UsageError, foreseen
from autounet.cli.flags import Common
from autounet.cli.quantities import DEVICE
from autounet.job import Job
from autounet.progress import Progress, Voice
from autounet.store.sweep import sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a verb answers: lines for people, a plain value for --json, and what failed while the rest is done."""

    lines: tuple[str, ...] = ()
    plain: object = None
    failed: tuple[Failure, ...] = ()
    unit: str = "case"  # what failed


@contextmanager
def session(common: Common, work: Path, *, only_looks: bool = False, silent: bool = False) -> Iterator[Job]:
    """The job of one command. Signals ask it to stop; an unforeseen error is recorded in the work folder.

    A verb that only looks leaves no trace in what it looks at, unless --work names a folder. Of several
    processes that do the same, all but one are silent and leave none either.
    """
    _refuse_impossible(common)
    traces = None if silent or common.dry_run or (only_looks and common.work is None) else work
    with _voice(common, traces, silent) as progress, stop.handlers(progress.warn):
        progress.event("command", words=sys.argv[1:], version=__version__, seed=common.seed)
        if traces is not None:
            sweep(traces)  # what a killed run left half written
        job = Job(
            work=work, progress=progress, seed=common.seed, device=common.device, threads=common.threads, max_ram_bytes=common.max_ram
        )
        try:
            yield job
        except Exception as error:
            progress.event("error", kind_of_error=type(error).__name__, text=str(error))
            if foreseen(error) is None:
                raise CrashError(_record(traces, error)) from error
            raise


@contextmanager
def rehearsal(work: Path) -> Iterator[Path]:
    """A work folder for --dry-run that is thrown away; the plan that lies in the real one is followed."""
    with tempfile.TemporaryDirectory(prefix="autounet-dry-run-") as folder:
        plan = work / "plan.json"
        if plan.is_file():
            (Path(folder) / "plan.json").write_bytes(plan.read_bytes())
        yield Path(folder)


def _voice(common: Common, folder: Path | None, silent: bool) -> Progress:
    if silent:
        return Progress.silent()
    return Progress(
        Voice(
            folder=folder,
            stream=sys.stderr,
            bars=sys.stderr.isatty() and not common.json,
            quiet=common.quiet,
            verbose=common.verbose,
            memory_bytes=machine.process_tree_bytes,
            stalled_seconds=common.stalled_after or 300.0,
        )
    )


def _refuse_impossible(common: Common) -> None:
    if not DEVICE.fullmatch(common.device):
        raise UsageError(f'"{common.device}" is no device', "write --device auto, cpu, cuda, cuda:1 or mps; for several see --devices")
    if common.threads is not None and not 1 <= common.threads <= 4096:
        raise UsageError(f"{common.threads} threads cannot work", "write 1 or more, for example --threads 4")
    if not 0 <= common.seed < 2**32:
        raise UsageError(f"the seed {common.seed} is not in the range of seeds", f"write --seed 0 to {2**32 - 1}")


def _record(work: Path | None, error: BaseException) -> Path | None:
    """The traceback as a file in the work folder, if there is one and it can be written."""
    if work is None or not work.is_dir():
        return None
    from autounet.store.files import publish_text

    path = work / f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
    try:
        publish_text(path, f"autounet {__version__}\n{sys.version}\n\n{''.join(traceback.format_exception(error))}")
    except Exception:  # the disk may be the cause of it all; the traceback is on the screen anyway
        return None
    return path
