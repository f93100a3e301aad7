"""What a run says while it works, and what it never does: get in the way."""

import io
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autounet.progress import Progress, Voice
from autounet.progress.bars import line
from autounet.progress.lines import describe
from autounet.progress.voice import Task
from autounet.progress.wording import clock, rate, shorten, size, visible


def _events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (folder / "events.jsonl").read_text().splitlines()]


def _wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (8.4, "8 s"), (59.6, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m"), (273_600, "3d 04h"), (-1, "0 s")]
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(812_000_000, "812 MB"), (1_234_000_000, "1.2 GB"), (900, "1 kB"), (120_000_000_000, "120 GB")]
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(4.25, "4.2 case/s"), (250, "250 case/s"), (0.5, "30.0 case/min"), (0.001, "3.6 case/h"), (0.0001, "0.4 case/h")],
)
def test_a_rate_reads_as_a_number_above_one_where_it_can(per_second: float, text: str) -> None:
    assert rate(per_second, "case") == text


@given(st.text(max_size=60))
def test_no_text_steers_a_terminal(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200f"]


def test_letters_of_all_peoples_stay() -> None:
    assert visible("Müller Ångström 山田 é ☃") == "Müller Ångström 山田 é ☃"


@given(st.text(st.characters(codec="ascii", categories=("L", "N"))), st.integers(0, 60))
def test_a_shortened_name_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width or len(short) <= len(text) <= width
    if 3 <= width < len(text):
        assert short[0] == text[0]
        assert short[-1] == text[-1]


def test_every_step_counts_from_many_threads() -> None:
    progress = Progress.silent()
    with progress.task("t", total=8000) as task:
        threads = [threading.Thread(target=lambda: [task.step() for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert task.done == 8000


def test_events_are_lines_of_json_even_for_odd_values(tmp_path: Path) -> None:
    with Progress(Voice(folder=tmp_path)) as progress:
        progress.event("loss", value=float("nan"), path=tmp_path, shape=(1, 2), text='a"\n\u2028')
        progress.note("hello")
    first, second = _events(tmp_path)
    assert (first["kind"], first["value"], first["shape"], first["path"]) == ("loss", "nan", [1, 2], str(tmp_path))
    assert (second["kind"], second["text"]) == ("note", "hello")


def test_two_runs_append_to_one_log_without_mixing(tmp_path: Path) -> None:
    voices = [Progress(Voice(folder=tmp_path)) for _ in range(2)]

    def write(progress: Progress) -> None:
        for i in range(300):
            progress.event("e", i=i, text="x" * 200)

    threads = [threading.Thread(target=write, args=(v,)) for v in voices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for voice in voices:
        voice.close()
    assert len(_events(tmp_path)) == 600


def test_the_log_makes_no_folder_but_tells_all_once_there_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with Progress(Voice(folder=folder)) as progress:
        progress.note("early")
        assert not folder.exists()
        folder.mkdir()
        progress.note("late")
    assert [e["text"] for e in _events(folder)] == ["early", "late"]


def test_a_log_that_cannot_be_written_stops_nothing_and_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    stream = io.StringIO()
    with Progress(Voice(folder=tmp_path, stream=stream)) as progress, progress.task("work", total=3) as task:
        for _ in range(3):
            task.step()
    assert stream.getvalue().count("events.jsonl is incomplete") == 1
    assert "work: 3 cases in" in stream.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    stream = io.StringIO()
    with Progress(Voice(folder=tmp_path, stream=stream)) as progress:
        progress.note("one")
        progress.note("two")
    assert "No space left" in stream.getvalue().splitlines()[-1]


def test_a_stream_that_closed_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        with Progress(Voice(stream=stream)) as progress:
            progress.note("nobody listens")
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


def test_without_a_terminal_there_is_a_plain_line_every_few_seconds() -> None:
    stream = io.StringIO()
    voice = Voice(stream=stream, line_seconds=0.0, memory_bytes=lambda: 1_200_000_000)
    with Progress(voice) as progress, progress.task("prepare", total=12) as task:
        task.step(doing="case_03", n=5)
        _wait_for(lambda: "prepare: 5/12 case" in stream.getvalue())
        _wait_for(lambda: "1.2 GB, case_03" in stream.getvalue())
    assert "\x1b" not in stream.getvalue()


def test_a_poor_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with Progress(Voice(stream=stream)) as progress:
        progress.note("Müller ☃")
    stream.flush()
    assert raw.getvalue() == b"M\\xfcller \\u2603\n"


@pytest.mark.parametrize("bars", [True, False])
def test_quiet_leaves_warnings_only(bars: bool) -> None:
    stream = io.StringIO()
    with Progress(Voice(stream=stream, quiet=True, bars=bars)) as progress, progress.task("t", total=1) as task:
        progress.note("note")
        progress.detail("detail")
        progress.warn("look here")
        task.step()
    assert stream.getvalue().strip() == "warning: look here"
    assert progress.warnings == ("look here",)


def test_details_are_for_the_verbose() -> None:
    heard = {}
    for verbose in (False, True):
        stream = io.StringIO()
        with Progress(Voice(stream=stream, verbose=verbose)) as progress:
            progress.detail("patch 64")
        heard[verbose] = stream.getvalue()
    assert heard == {False: "", True: "patch 64\n"}


def test_a_task_that_failed_does_not_claim_success(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Progress(Voice(stream=stream, folder=tmp_path)) as progress:
        _fail_in(progress.task("train", total=2))
    assert "train: " not in stream.getvalue()
    assert [e.get("error") for e in _events(tmp_path) if e["kind"] == "end"] == ["ZeroDivisionError"]


def _fail_in(task: Task) -> None:
    with pytest.raises(ZeroDivisionError), task:
        task.step(str(1 // 0))


def test_the_watchdog_says_what_every_thread_waits_for_and_what_is_in_work(tmp_path: Path) -> None:
    stream, gate = io.StringIO(), threading.Event()

    def wait_for_the_gate() -> None:
        gate.wait(20)

    thread = threading.Thread(target=wait_for_the_gate, name="reader-1")
    thread.start()
    with Progress(Voice(stream=stream, folder=tmp_path, stalled_seconds=1.0)) as progress, progress.task("read", total=2) as task:
        task.step(doing="case_07", n=0)
        _wait_for(lambda: "no progress for" in stream.getvalue())
        gate.set()
    thread.join()
    text = stream.getvalue()
    assert "(read at case_07)" in text
    assert "MainThread:" in text
    assert "reader-1: wait" in text
    assert "wait_for_the_gate" in text
    (stalled,) = (e for e in _events(tmp_path) if e["kind"] == "stalled")
    assert stalled["doing"] == "read at case_07"


def test_the_watchdog_is_silent_while_things_move() -> None:
    stream = io.StringIO()
    with Progress(Voice(stream=stream, stalled_seconds=1.5)) as progress, progress.task("t", total=30) as task:
        for _ in range(30):
            task.step()
            time.sleep(0.1)
    assert "no progress" not in stream.getvalue()


def test_the_watchdog_doubles_its_patience_so_a_nights_hang_fills_no_screen() -> None:
    stream = io.StringIO()
    with Progress(Voice(stream=stream, stalled_seconds=1.0)) as progress, progress.task("t"):
        time.sleep(6.5)
    assert 2 <= stream.getvalue().count("no progress for") <= 3


def test_no_thread_outlives_its_progress() -> None:
    before = set(threading.enumerate())
    with Progress(Voice(stream=io.StringIO(), bars=True)) as progress, progress.task("t", total=1) as task:
        task.step()
    assert set(threading.enumerate()) <= before


def test_in_a_worker_process_it_is_silent(tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(Progress(Voice(stream=io.StringIO(), folder=tmp_path))))
    with there.task("t", total=1) as task:
        task.step("x")
    assert not (tmp_path / "events.jsonl").exists()


def _task(name: str, total: float | None, unit: str, done: float, doing: str) -> Task:
    task = Progress.silent().task(name, total, unit)
    task.started -= 100
    task._marks[0] = (task.started, 0.0)
    task.done, task.doing = done, doing
    return task


@given(
    st.text(max_size=40),
    st.one_of(st.none(), st.integers(0, 10**9)),
    st.integers(0, 10**9),
    st.text(max_size=120),
    st.integers(20, 200),
    st.booleans(),
)
def test_a_bar_never_exceeds_its_columns(name: str, total: int | None, done: int, doing: str, columns: int, plain: bool) -> None:
    task = _task(name, total, "iteration", done, visible(doing).replace("\n", " "))
    text = line(task, min(len(task.name), columns // 3), columns, 1_200_000_000, plain)
    assert len(text.plain) <= columns
    assert "\n" not in text.plain
    if plain and task.name.isascii():
        assert text.plain.isascii()


def test_a_bar_at_eighty_columns_shows_everything() -> None:
    text = line(_task("prepare", 100, "case", 37, "hippocampus_037"), 7, 79, 1_200_000_000, False).plain
    assert text == "prepare ━━━━━━━━━━━━━━━━━━ 37/100  22.2 case/min  2m 50s left  1.2 GB  hipp…037"


def test_wide_letters_are_counted_by_their_columns() -> None:
    text = line(_task("準備", 100, "case", 37, "患者" * 30), 7, 79, 1_200_000_000, False)
    assert text.cell_len <= 79


def test_time_left_follows_the_rate_of_the_last_half_minute() -> None:
    task = _task("t", 200, "case", 100, "")
    assert task.per_second == pytest.approx(1.0, rel=0.01)
    assert task.seconds_left == pytest.approx(100, rel=0.01)
    assert "1m 40s left" in describe(task, 0)


def test_without_a_total_there_is_no_time_left() -> None:
    assert _task("t", None, "case", 100, "").seconds_left is None


def test_work_counted_in_seconds_is_told_as_time() -> None:
    task = _task("train", 3600, "second", 600, "loss 0.3")
    assert describe(task, 0) == "train: 10m 00s of 1h 00m, loss 0.3"
    assert "10m 00s of 1h 00m  loss 0.3" in line(task, 5, 79, 0, False).plain


def test_the_last_moment_shows_no_time_left() -> None:
    assert "left" not in describe(_task("t", 100, "case", 100, ""), 0)


def test_asking_for_memory_never_takes_more_than_a_hundredth_of_the_time() -> None:
    asked: list[float] = []

    def slow() -> int:
        asked.append(time.monotonic())
        time.sleep(0.05)
        return 1

    with Progress(Voice(stream=io.StringIO(), bars=True, memory_bytes=slow)) as progress, progress.task("t"):
        time.sleep(3.0)
    assert len(asked) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_a_terminal_that_was_closed_stops_nothing(tmp_path: Path) -> None:
    import pty

    reader, writer = pty.openpty()
    stream = os.fdopen(writer, "w")
    assert stream.isatty()
    with Progress(Voice(stream=stream, bars=True, folder=tmp_path)) as progress, progress.task("t", total=3) as task:
        task.step()
        os.close(reader)
        for _ in range(2):
            progress.note("nobody sees this")
            task.step()
            time.sleep(0.5)
    _let_go(stream)
    assert [e["done"] for e in _events(tmp_path) if e["kind"] == "end"] == [3.0]


def test_a_pipe_that_was_closed_under_the_bars_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    with Progress(Voice(stream=stream, bars=True)) as progress, progress.task("t", total=2) as task:
        progress.note("nobody sees this")
        task.step()
        time.sleep(0.5)
    _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """Close a stream that cannot be flushed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.close()
