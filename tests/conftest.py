"""What all tests share: the public data where it is, hypothesis settings, one torch thread."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLIC_DATA = REPOSITORY.parent / "shared" / "data"

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=2000)  # pytest --hypothesis-profile=search
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--reference-python PATH`: a Python of another environment in which nnunetv2 is installed."""
    parser.addoption("--reference-python", type=Path, help="a Python that has nnunetv2, for the tests that compare with nnU-Net")


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
