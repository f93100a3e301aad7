"""One at a time, never held by the dead, and the message says by whom."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autounet import stop
from autounet.store import calls, owner
from autounet.store.lock import Patience, holder, lock
from autounet.store.owner import Owner, started, this_process
from autounet.store.sweep import sweep
from planners.errors import UserError

QUICK = Patience(beat_seconds=0.05, dead_seconds=600, watch_seconds=0.3, torn_seconds=0.2, poll_seconds=0.01)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_lock(path: Path, who: Owner, beat: float, host: str = "elsewhere") -> None:
    plain = {"host": host, "what": "an old run", "since": "2026-01-01 00:00:00 +0000", "tag": who.tag(), "machine": who.machine}
    path.write_text(json.dumps({**plain, "boot": who.boot, "pid": who.pid, "start": who.start, "beat": beat}))


def dead_process() -> Owner:
    """A process of this machine that has just ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = started(child.pid)
        assert start
        child.communicate(b"\n")
    return replace(this_process(), pid=child.pid, start=start)


def test_the_second_is_refused_at_once_and_told_who_has_it(tmp_path: Path) -> None:
    with lock(tmp_path / "f.lock", "fold 0 of 3d_fullres"):
        asked = time.monotonic()
        with pytest.raises(UserError) as caught, lock(tmp_path / "f.lock", "the second"):
            raise AssertionError("two hold it")
        assert time.monotonic() - asked < 1
    for part in ("fold 0 of 3d_fullres", f"process {os.getpid()} on {os.uname().nodename}", "since 20", str(tmp_path)):
        assert part in caught.value.problem
    assert f"kill {os.getpid()}" in caught.value.fix
    assert files(tmp_path) == []


def test_it_is_free_again_after_a_failure_inside(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock(tmp_path / "f.lock", "one"):
            raise ZeroDivisionError
    assert files(tmp_path) == []


def test_waiting_gets_it_when_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []

    def first() -> None:
        with lock(tmp_path / "f.lock", "first", patience=QUICK):
            order.append("first in")
            time.sleep(0.3)
            order.append("first out")

    thread = threading.Thread(target=first)
    thread.start()
    while not order:
        time.sleep(0.01)
    with lock(tmp_path / "f.lock", "second", wait_seconds=30, patience=QUICK):
        order.append("second in")
    thread.join()
    assert order == ["first in", "first out", "second in"]


def test_waiting_ends(tmp_path: Path) -> None:
    with lock(tmp_path / "f.lock", "one"):
        asked = time.monotonic()
        with pytest.raises(UserError), lock(tmp_path / "f.lock", "two", wait_seconds=0.3, patience=QUICK):
            pass
        assert 0.3 <= time.monotonic() - asked < 5


def test_whoever_waits_can_be_stopped(tmp_path: Path) -> None:
    threading.Timer(0.1, stop.request, args=("a test",)).start()
    try:
        with (
            lock(tmp_path / "f.lock", "one"),
            pytest.raises(stop.Stopped),
            lock(tmp_path / "f.lock", "two", wait_seconds=60, patience=QUICK),
        ):
            pass
    finally:
        stop.clear()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from autounet.store.lock import lock\n"
        "with lock(Path(sys.argv[1]), 'to be killed'): print('in', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "f.lock"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match=rf"to be killed \(process {child.pid} "), lock(tmp_path / "f.lock", "too early"):
            pass
        child.kill()
        child.wait()
    asked = time.monotonic()
    with lock(tmp_path / "f.lock", "next"):
        assert time.monotonic() - asked < 1
    assert files(tmp_path) == []


def test_a_killed_child_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    who = replace(this_process(), pid=pid, start=started(pid) or 0)
    assert who.dead() is False
    os.kill(pid, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert who.dead() is True
    os.waitpid(pid, 0)
    assert who.dead() is True


def test_a_pid_that_was_given_to_another_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    me = this_process()
    write_lock(tmp_path / "f.lock", replace(me, start=me.start - 100), beat=time.time())
    with lock(tmp_path / "f.lock", "next"):
        pass
    assert files(tmp_path) == []


def test_a_living_owner_keeps_it_however_old_its_heartbeat(tmp_path: Path) -> None:
    write_lock(tmp_path / "f.lock", this_process(), beat=0.0)
    with pytest.raises(UserError, match="in use"), lock(tmp_path / "f.lock", "next", patience=QUICK):
        pass


def test_a_rebooted_machine_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(this_process(), boot="00000000")
    monkeypatch.setattr(owner, "_pid_namespace", lambda: owner.INITIAL_PID_NAMESPACE)
    assert before.dead() is True
    monkeypatch.setattr(owner, "_pid_namespace", lambda: "pid:[4026532000]")
    assert before.dead() is None, "a container of the same name may run elsewhere"


ELSEWHERE = Owner(machine="ffffffff", boot="ffffffff", pid=1, start=1)


def test_another_machine_with_a_young_heartbeat_keeps_it(tmp_path: Path) -> None:
    write_lock(tmp_path / "f.lock", ELSEWHERE, beat=time.time() - 60)
    with pytest.raises(UserError) as caught, lock(tmp_path / "f.lock", "next", patience=QUICK):
        pass
    assert "process 1 on elsewhere" in caught.value.problem
    assert "last sign of life 6" in caught.value.fix
    assert f"rm {tmp_path / 'f.lock'}" in caught.value.fix


def test_another_machine_that_is_silent_for_long_is_watched_and_then_given_up(tmp_path: Path) -> None:
    write_lock(tmp_path / "f.lock", ELSEWHERE, beat=time.time() - 700)
    asked = time.monotonic()
    with lock(tmp_path / "f.lock", "next", patience=QUICK):
        assert time.monotonic() - asked >= QUICK.watch_seconds
    assert files(tmp_path) == []


def test_another_machine_whose_clock_is_wrong_but_which_moves_keeps_it(tmp_path: Path) -> None:
    path, done = tmp_path / "f.lock", threading.Event()
    write_lock(path, ELSEWHERE, beat=1000.0)

    def beat() -> None:
        number = 1000
        while not done.wait(0.05):
            number += 1
            path.write_text(path.read_text().replace(f"{float(number - 1)}", f"{float(number)}"))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="elsewhere"), lock(path, "next", patience=QUICK):
            pass
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x"}', "\x00" * 300])
def test_a_lock_without_a_readable_owner_is_given_up_when_it_does_not_change(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.lock").write_text(text)
    with lock(tmp_path / "f.lock", "next", patience=QUICK):
        pass
    assert files(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_lock_that_cannot_be_read_is_not_taken_away(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read_bytes = tmp_path / "f.lock", Path.read_bytes

    def stale(self: Path) -> bytes:
        if self == path:
            raise OSError(number, os.strerror(number))
        return read_bytes(self)

    write_lock(path, ELSEWHERE, beat=0.0)
    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(UserError, match="cannot be named"), lock(path, "next", wait_seconds=0.5, patience=QUICK):
        pass
    assert files(tmp_path) == ["f.lock"]


def test_it_works_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(calls, "link", no_links)
    for _ in range(2):
        with lock(tmp_path / "f.lock", "one"):
            assert files(tmp_path) == ["f.lock"]
            with pytest.raises(UserError, match=r"one \(process"), lock(tmp_path / "f.lock", "two"):
                pass
    assert files(tmp_path) == []


def test_an_answer_lost_on_the_network_does_not_lock_us_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = calls.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")  # the request was sent twice

    monkeypatch.setattr(calls, "link", lost)
    with lock(tmp_path / "f.lock", "one") as held:
        assert held.check()
    assert files(tmp_path) == []


def test_the_heartbeat_moves_and_the_rest_stays(tmp_path: Path) -> None:
    with lock(tmp_path / "f.lock", "one", patience=QUICK):
        first = holder(tmp_path / "f.lock")
        time.sleep(0.3)
        second = holder(tmp_path / "f.lock")
    assert first is not None
    assert second is not None
    assert second.beat > first.beat
    assert replace(second, beat=first.beat) == first


def test_losing_the_lock_stops_the_run_and_leaves_the_other_alone(tmp_path: Path) -> None:
    try:
        with lock(tmp_path / "f.lock", "one", patience=QUICK) as held:
            assert held.check()
            (tmp_path / "f.lock").unlink()
            (tmp_path / "f.lock").write_text("somebody else's")
            for _ in range(200):
                if stop.requested():
                    break
                time.sleep(0.02)
            assert stop.requested()
            assert held.lost
        assert (tmp_path / "f.lock").read_text() == "somebody else's"
    finally:
        stop.clear()


def test_a_forked_child_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    with lock(tmp_path / "f.lock", "one") as held:
        pid = os.fork()
        if pid == 0:
            from autounet.store.lock import _release

            _release(held)
            os._exit(0)
        os.waitpid(pid, 0)
        assert files(tmp_path) == ["f.lock"]


RACE = """
import os, sys, time
from pathlib import Path
from autounet.store.lock import lock
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(rounds):
    with lock(folder / "f.lock", "counting", wait_seconds=60):
        inside = folder / "inside"
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # fails when two are in here
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
        inside.unlink()
"""


def test_three_processes_count_without_a_slip(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    runs = [subprocess.Popen([sys.executable, "-c", RACE, tmp_path, "50"]) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "150"
    assert files(tmp_path) == ["count"]


def test_of_many_who_take_over_a_dead_lock_one_gets_it_at_a_time(tmp_path: Path) -> None:
    """Fifty times: a stale lock, and six threads that all see it."""
    for _ in range(50):
        write_lock(tmp_path / "f.lock", replace(this_process(), start=1), beat=0.0)
        assert most_inside_at_once(tmp_path / "f.lock") == 1
        assert files(tmp_path) == []


def most_inside_at_once(path: Path) -> int:
    start, guard = threading.Barrier(6), threading.Lock()
    inside = [0]
    most = [0]

    def take() -> None:
        start.wait()
        with lock(path, "a taker", wait_seconds=60, patience=QUICK, beat=False):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            with guard:
                inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most[0]


def test_a_taker_that_died_over_it_is_taken_over_in_turn(tmp_path: Path) -> None:
    gone, taker = dead_process(), dead_process()
    write_lock(tmp_path / "f.lock", gone, beat=0.0)
    seen = holder(tmp_path / "f.lock")
    assert seen is not None
    write_lock(tmp_path / f".{seen.tag}.after", taker, beat=0.0)
    with lock(tmp_path / "f.lock", "next"):
        pass
    assert files(tmp_path) == []


def test_the_sweep_takes_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    gone, me = dead_process(), this_process()
    elsewhere_old, elsewhere_new = tmp_path / f".{ELSEWHERE.tag()}.part", tmp_path / f".{ELSEWHERE.tag()}.part"
    for path in (elsewhere_old, elsewhere_new, tmp_path / f".{gone.tag()}.part", tmp_path / f".{me.tag()}.part", tmp_path / ".odd.part"):
        path.write_text("x")
    os.utime(elsewhere_old, (0, 0))
    tree = tmp_path / "deep" / f".{gone.tag()}.part"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/file").touch()
    (tree / "link").symlink_to(tmp_path)
    write_lock(tmp_path / "deep/dead.lock", gone, beat=0.0)
    write_lock(tmp_path / "deep/alive.lock", me, beat=0.0)
    write_lock(tmp_path / "deep/elsewhere.lock", ELSEWHERE, beat=0.0)
    (tmp_path / "poetry.lock").write_text("somebody's file")
    assert sweep(tmp_path) == 4
    kept = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    expected = ["deep", "deep/alive.lock", "deep/elsewhere.lock", "poetry.lock", ".odd.part", elsewhere_new.name]
    assert kept == sorted([*expected, next(n for n in kept if n.startswith(f".{me.machine}-{me.boot}-{me.pid}-"))])
    assert sweep(tmp_path) == 0


def test_the_sweep_puts_back_a_folder_whose_replacement_never_came(tmp_path: Path) -> None:
    gone, me = dead_process(), this_process()
    (tmp_path / f".{gone.tag()}+model.part/inner").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / f".{gone.tag()}+there.part/old").mkdir(parents=True)
    (tmp_path / f".{me.tag()}+living.part").mkdir()
    assert sweep(tmp_path) == 2
    kept = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert kept[1:] == ["model", "model/inner", "there"]
    assert kept[0].endswith("+living.part")
