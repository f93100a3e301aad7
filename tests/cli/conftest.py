"""The command line called in this process, and a plan to write, break and read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autounet.cli import main
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan
from planners.strict_json import to_plain

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Call = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """`call("check", path)`: the words of one command, answered in this process."""

    def _call(*words: object) -> Said:
        code = main([str(w) for w in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return _call


@pytest.fixture
def shell() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line as its own process."""

    def _shell(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"capture_output": True, "text": True, "check": False, "cwd": REPOSITORY, "timeout": 120}
        return subprocess.run([sys.executable, "-m", "autounet", *map(str, words)], **(settings | options))  # type: ignore[call-overload, no-any-return]

    return _shell


@pytest.fixture
def plan() -> Plan:
    """The smallest plan there is."""
    network = Architecture(
        kind="plain",
        dimensions=3,
        features=(8, 16),
        strides_zyx=((1, 1, 1), (2, 2, 2)),
        kernels_zyx=((3, 3, 3), (3, 3, 3)),
        encoder_blocks=(2, 2),
        decoder_convolutions=(2,),
    )
    configuration = Configuration(
        name="3d_fullres",
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=(32, 32, 32),
        patch_zyx=(16, 16, 16),
        batch_size=2,
        architecture=network,
        augmentation=Augmentation(steps=()),
    )
    return Plan(
        planner="default",
        dataset="tiny",
        dimensions=3,
        channels=(ChannelPlan(name="t1", modality="mr", scheme="zscore"),),
        labels=Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="liver", value=1))),
        configurations=(configuration,),
        train=("3d_fullres",),
    )


@pytest.fixture
def plan_file(tmp_path: Path, plan: Plan) -> Path:
    """That plan as a file."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(to_plain(plan), indent=1))
    return path
