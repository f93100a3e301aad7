"""Progress on a terminal: one moving line a task, which fits the width whatever the names are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autounet.progress.lines import facts
from autounet.progress.wording import shorten, size, visible

if TYPE_CHECKING:
    from autounet.progress.voice import Task, Voice

BAR_COLUMNS = 18
STYLES = {"warning": "yellow", "done": "green", "note": "", "detail": "dim"}


class _Terminal(Console):
    """A console whose reader may leave; rich's own ends the program then."""

    def on_broken_pipe(self) -> None:
        """Told like every other trouble with the stream."""
        raise OSError("nobody reads any more")


class Bars:
    """Redraws the tasks in place; lasting lines scroll above them. A terminal that is gone stops nothing."""

    def __init__(self, voice: Voice) -> None:
        self._console = _Terminal(file=voice.stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._ascii = not self._console.encoding.lower().startswith("utf")
        self._tasks: list[Task] = []
        self._memory_bytes = 0
        self._live: Live | None = None
        self._gone = False

    def say(self, text: str, style: str = "") -> None:
        """A lasting line above the bars."""
        if self._gone:
            return
        mark = "" if style != "done" else ("ok " if self._ascii else "✓ ")
        coding = self._console.encoding
        plain = (mark + visible(text)).encode(coding, "backslashreplace").decode(coding)
        with self._until_gone():
            for one in plain.splitlines():
                # A path is never cut: it may be wanted by the mouse.
                folded = fill(one, self._console.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
                self._console.print(Text(folded, style=STYLES.get(style, "")))

    def refresh(self, tasks: list[Task], memory_bytes: int) -> None:
        """Draw these; called five times a second."""
        if self._gone:
            return
        self._tasks = tasks
        self._memory_bytes = memory_bytes or self._memory_bytes
        with self._until_gone():
            if tasks and self._live is None:
                # Progress has a thread that comes by five times a second; a second one of rich's own would outlive it.
                self._live = Live(console=self._console, get_renderable=self._draw, auto_refresh=False, transient=True)
                self._live.start()
            elif not tasks and self._live is not None:
                self.close()
            elif self._live is not None:
                self._live.refresh()

    def close(self) -> None:
        """Leave the terminal as it was, cursor shown."""
        live, self._live, self._tasks = self._live, None, []
        with self._until_gone():
            if live is not None:
                live.stop()

    @contextmanager
    def _until_gone(self) -> Iterator[None]:
        """The window was closed, the connection was lost: the work goes on, or ends by its signal."""
        try:
            yield
        except (OSError, ValueError):
            self._gone = True  # tried no more: rich keeps what it could not write

    def _draw(self) -> Text:
        tasks, columns = self._tasks, max(20, self._console.width - 1)
        name_columns = max((len(t.name) for t in tasks), default=0)
        lines = [line(t, min(name_columns, columns // 3), columns, self._memory_bytes if t is tasks[-1] else 0, self._ascii) for t in tasks]
        return Text("\n").join(lines)


def line(task: Task, name_columns: int, columns: int, memory_bytes: int, plain: bool) -> Text:
    """One task in at most `columns` columns: name, bar, count, rate, time left, memory, and what is in work."""
    dots = "..." if plain else "…"
    count, speed, left = facts(task)
    # The rate says the unit already.
    shown = [count.removesuffix(f" {task.unit}") if speed else count, speed, left, size(memory_bytes) if memory_bytes else ""]
    text = Text(shorten(task.name, name_columns, dots).ljust(name_columns) + " ", style="bold", no_wrap=True)
    if task.total:
        text.append_text(_bar(min(1.0, task.done / task.total), BAR_COLUMNS if columns - name_columns >= 60 else 8, plain))
        text.append(" ")
    for fact, style in zip(shown, ("", "cyan", "", "dim"), strict=True):
        if fact and len(text) + len(fact) + 2 <= columns:
            text.append(f"{fact}  ", style=f"not bold {style}")
    room = columns - len(text)
    if task.doing and room >= 6:
        coded = task.doing if not plain else task.doing.encode("ascii", "backslashreplace").decode()
        text.append(shorten(coded, room, dots), style="not bold dim")
    text.rstrip()
    text.truncate(columns)  # counted in columns of the terminal: a Chinese letter takes two
    return text


def _bar(fraction: float, columns: int, plain: bool) -> Text:
    full, empty = ("#", "-") if plain else ("━", "━")
    filled = int(fraction * columns)
    return Text(full * filled, style="not bold green").append(empty * (columns - filled), style="not bold bright_black")
