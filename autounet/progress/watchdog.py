"""What every thread waits for, in a few lines a person can read."""

import sys
import threading
import traceback
from types import FrameType

from autounet.progress.wording import one_line

FRAMES_SHOWN = 4


def waiting_threads(*, without: set[int] | None = None) -> list[str]:
    """One line a thread: its name and the innermost calls, our own code first."""
    names = {t.ident: t.name for t in threading.enumerate()}
    skipped = (without or set()) | {threading.get_ident()}
    lines = []
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: names.get(item[0], "") != "MainThread"):
        if ident not in skipped:
            lines.append(f"{one_line(names.get(ident, f'thread {ident}'))}: {_where(frame)}")
    return lines


def _where(frame: FrameType) -> str:
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=40, lookup_lines=False)
    shown = list(stack)[:FRAMES_SHOWN]
    ours = next((f for f in stack if "/autounet/" in f.filename.replace("\\", "/")), None)
    if ours is not None and ours not in shown:  # deep inside a library: say also which line of ours called it
        shown.append(ours)
    return " < ".join(f"{f.name} ({_short(f.filename)}:{f.lineno})" for f in shown)


def _short(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").split("/")[-2:])
