"""events.jsonl: one line an event, appended. A log that fails never stops the work."""

import json
import os
import threading
import time
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

FILE_NAME = "events.jsonl"
_KEPT = 10_000  # lines held while the work folder does not exist yet; it is not the log's to make


class EventLog:
    """Appends to <folder>/events.jsonl once the folder is there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._descriptor, self._lock = folder, -1, threading.Lock()
        self._started = time.monotonic()
        self._waiting: list[bytes] = []
        self.failure = ""  # the first error, for one notice at the end

    def write(self, kind: str, fields: dict[str, object]) -> None:
        """Append one event; errors are remembered, never raised."""
        if self._folder is None or self.failure:
            return
        stamp = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "seconds": round(time.monotonic() - self._started, 3)}
        line = json.dumps(stamp | {"kind": kind} | {k: _plain(v) for k, v in fields.items()}) + "\n"
        with self._lock:
            self._waiting.append(line.encode())
            self._flush()

    def close(self) -> None:
        """Close the file; events of a run that never made its work folder are dropped."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor, self._folder, self._waiting = -1, None, []

    def _flush(self) -> None:
        assert self._folder is not None
        try:
            if self._descriptor < 0:
                if not self._folder.is_dir():
                    del self._waiting[:-_KEPT]
                    return
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._folder / FILE_NAME, flags, 0o644)
            while self._waiting:
                # One write call a line: two runs that append to one file do not mix their lines.
                if os.write(self._descriptor, self._waiting[0]) != len(self._waiting[0]):
                    raise OSError("the disk took half a line")
                del self._waiting[0]
        except OSError as error:
            self.failure = str(error)
            self._waiting.clear()


def _plain(value: object) -> object:
    """JSON has no NaN, and a log takes whatever it is given."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return str(value)
