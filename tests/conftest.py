"""What all tests share: the public data where it is, hypothesis settings, one torch thread."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLIC_DATA = REPOSITORY.parent / "shared" / "data"

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=2000)  # pytest --hypothesis-profile=search
settings.load_profile("tests")


# Why a test was skipped, what root on Linux can do about it, and the capability (its bit) that this takes.
SKIPPED_FOR_NOTHING = {
    "strace is not here or may not trace": ("install strace", None),
    "mounting a small disk needs more rights": ("see why `mount -t tmpfs` fails", 21),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--reference-python PATH`: a Python of another environment in which nnunetv2 is installed.

    `--far`: networks lie on a device that is none, to find what would not work on an accelerator.

    `--none-skipped`: skipped tests that could run on this machine are failures.
    """
    parser.addoption("--none-skipped", action="store_true", help="fail when a test was skipped that could run on this machine")
    parser.addoption("--far", action="store_true", help="train and predict on a device whose tensors never mix with the processor's")
    parser.addoption("--reference-python", type=Path, help="a Python that has nnunetv2, for the tests that compare with nnU-Net")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is imported."""
    if config.getoption("--far"):
        from tests.far_device import put_everything_there

        put_everything_there()


def could_run(reason: str, *, system: str, user: int, capabilities: int) -> str | None:
    """What to do so that a skipped test runs here; None where nothing can be done."""
    remedy, bit = next((found for text, found in SKIPPED_FOR_NOTHING.items() if text in reason), (None, None))
    able = system == "linux" and user == 0 and (bit is None or bool(capabilities >> bit & 1))
    return remedy if able else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """There is no processor with --far."""
    for item in items:
        if config.getoption("--far") and item.get_closest_marker("processor"):
            item.add_marker(pytest.mark.skip(reason="of what is done on a processor alone"))


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """`-ra` lists every skipped test with its reason; below that, those that should have run."""
    yield
    for line in _needlessly_skipped(terminalreporter):
        terminalreporter.write_line(line, red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == pytest.ExitCode.OK and _needlessly_skipped(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _needlessly_skipped(reporter: pytest.TerminalReporter) -> list[str]:
    if not reporter.config.getoption("--none-skipped"):
        return []
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    capabilities = int(next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0"), 16)
    user = os.geteuid() if hasattr(os, "geteuid") else 1
    found = []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        remedy = could_run(reason, system=sys.platform, user=user, capabilities=capabilities)
        if remedy is not None:
            found.append(f"FAILED {report.nodeid} - skipped though it could run here ({reason}): {remedy}")
    return found


@pytest.fixture(scope="session")
def reference_python(request: pytest.FixtureRequest) -> Path:
    """That Python; tests that compare with nnU-Net skip where none is named."""
    python: Path | None = request.config.getoption("--reference-python")
    if python is None:
        pytest.skip("name an environment with nnunetv2: --reference-python PATH")
    return python.absolute()


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of small public datasets beside the repository; tests that need it skip where it is not."""
    if not PUBLIC_DATA.is_dir():
        pytest.skip("the public datasets are not on this machine")
    return PUBLIC_DATA


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Two workers with all threads each are slower than one; and sums in one order are comparable."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
