"""scripts/test --all fails for a test that was skipped although this machine could run it; a machine that cannot is left in peace."""

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import could_run

pytest_plugins = ("pytester",)
STRACE, MOUNT = "strace is not here or may not trace", "mounting a small disk needs more rights"
ALL = (1 << 41) - 1


def test_root_on_linux_is_told_what_to_install() -> None:
    assert could_run(f"Skipped: {STRACE}", system="linux", user=0, capabilities=0) == "install strace"
    assert could_run(MOUNT, system="linux", user=0, capabilities=ALL) == "see why `mount -t tmpfs` fails"


@pytest.mark.parametrize(
    ("reason", "system", "user", "capabilities"),
    [
        (STRACE, "linux", 1000, 0),
        (STRACE, "darwin", 0, 0),
        (MOUNT, "linux", 0, ALL & ~(1 << 21)),
        ("the public datasets are not on this machine", "linux", 0, ALL),
    ],
)
def test_what_cannot_be_mended_here_may_be_skipped(reason: str, system: str, user: int, capabilities: int) -> None:
    assert could_run(reason, system=system, user=user, capabilities=capabilities) is None


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux is asked to mend it")
@pytest.mark.parametrize("words", [(), ("--none-skipped",)])
def test_a_session_with_such_a_test_fails_only_when_none_may_be_skipped(pytester: pytest.Pytester, words: tuple[str, ...]) -> None:
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(f"import pytest\n\n\ndef test_a():\n    pytest.skip({STRACE!r})\n\n\ndef test_b():\n    pass\n")
    done = pytester.runpytest_subprocess("-ra", "-p", "no:cacheprovider", *words)
    done.assert_outcomes(passed=1, skipped=1)
    assert done.ret == (1 if words else 0)
    assert (("skipped though it could run here" in done.stdout.str()) and ("install strace" in done.stdout.str())) == bool(words)
