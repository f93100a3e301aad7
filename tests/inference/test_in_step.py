import threading

import pytest

from autounet.inference.in_step import Steps, in_step


class Log:
    """What happened, in order; and a rendezvous that only passes when two steps are at work together."""

    def __init__(self):
        self.told, self.lock = [], threading.Lock()

    def say(self, what):
        with self.lock:
            self.told.append(what)


def always(*_):
    return True


def never(case, read, written):
    return read is None and written is None


def test_the_next_case_is_read_while_one_is_computed_and_the_last_one_written():
    meet = threading.Barrier(3, timeout=20)  # opens only when reading, computing and writing are at work at the same time

    def read(case):
        if case == 2:
            meet.wait()
        return case * 10

    def compute(case, image):
        if case == 1:
            meet.wait()

        def write():
            if case == 0:
                meet.wait()
            return case, image.result()

        return write

    assert list(in_step([0, 1, 2], Steps(read, compute, always))) == [(0, 0), (1, 10), (2, 20)]


def test_without_room_one_thing_is_done_at_a_time():
    log = Log()

    def read(case):
        log.say(("read", case))
        return case

    def compute(case, image):
        image.result()
        log.say(("compute", case))
        return lambda: log.say(("write", case))

    list(in_step([0, 1], Steps(read, compute, never)))
    assert log.told == [(what, case) for case in (0, 1) for what in ("read", "compute", "write")]


def test_what_is_said_to_be_beside_a_case_is_what_is():
    asked = []

    def fits(case, read, written):
        asked.append((case, read, written))
        return True

    list(in_step("abc", Steps(str.upper, lambda case, image: image.result, fits)))
    assert asked == [("a", "b", None), ("b", None, "a"), ("b", "c", "a"), ("c", None, "b")]


def test_a_read_that_failed_is_told_where_its_image_is_wanted_and_the_others_go_on():
    def read(case):
        if case == 1:
            raise OSError("no such disk")
        return case

    def compute(case, image):
        error = image.exception()
        return lambda: (case, str(error) if error else "good")

    assert list(in_step([0, 1, 2], Steps(read, compute, always))) == [(0, "good"), (1, "no such disk"), (2, "good")]


def test_what_was_computed_is_written_when_somebody_stops_the_run():
    written = []

    def compute(case, image):
        if case == 1:
            raise KeyboardInterrupt
        return lambda: written.append(case)

    with pytest.raises(KeyboardInterrupt):
        list(in_step([0, 1, 2], Steps(lambda case: case, compute, always)))
    assert written == [0]
