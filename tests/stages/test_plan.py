"""The stage writes what was decided, reads what was edited, and lets a real device correct it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.plan import Devices, plan, read_devices, read_plan
from planners.errors import UserError
from planners.hardware import Budget, GiB
from planners.plan import PLAN_SCHEMA, Configuration, Plan
from tests.planners.cases import CPU, GPU, alike

HEART = alike(20, (1.37, 1.25, 1.25), (115, 320, 232))


def job(tmp_path: Path) -> Job:
    return Job(work=tmp_path / "heart.autounet", progress=Progress.silent())


def test_a_plan_is_written_and_read_back_the_same(tmp_path: Path) -> None:
    decided = plan(HEART, CPU, Budget(), "default", job(tmp_path))
    assert read_plan(tmp_path / "heart.autounet" / "plan.json") == decided


def edited(tmp_path: Path, change: dict[str, object]) -> Path:
    plan(HEART, CPU, Budget(), "default", job(tmp_path))
    path = tmp_path / "heart.autounet" / "plan.json"
    plain = json.loads(path.read_text())
    plain["configurations"][-1].update(change)
    path.write_text(json.dumps(plain))
    return path


def test_an_edit_that_is_legal_is_followed(tmp_path: Path) -> None:
    assert read_plan(edited(tmp_path, {"batch_size": 6})).configurations[-1].batch_size == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_zyx": [33, 80, 64]}, r"patch \(33, 80, 64\) is no multiple of"),
        ({"patch_zyx": [32, 80]}, "patch_zyx"),
        ({"batch_size": 0}, "batch of 0"),
        ({"batchsize": 4}, "unknown key 'batchsize'"),
        ({"spacing_zyx_mm": [0.0, 1.0, 1.0]}, "spacing"),
        ({"sampling": {"foreground_fraction": 1.5}}, "foreground patches is 1.5"),
        ({"inference": {"mirror_axes": [0, 3]}}, "cannot be mirrored"),
        ({"inference": {"step_fraction": 0.0}}, "leave gaps"),
        ({"schedule": {"iterations": 0}}, "trains nothing"),
        ({"schedule": {"warmup_fraction": 0.6, "decay_fraction": 0.6}}, "warm-up and the decay is 1.2"),
    ],
)
def test_an_illegal_edit_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_plan(edited(tmp_path, change))


@pytest.mark.parametrize("edge", [0, -32, 32.0, 32.5, True, 32_000_000])
def test_b157_a_patch_that_cannot_be_is_refused(tmp_path: Path, edge: object) -> None:
    with pytest.raises(UserError, match="patch"):
        read_plan(edited(tmp_path, {"patch_zyx": [edge, 80, 64]}))


@pytest.mark.parametrize("component", ["transformer", "os.system", "my.package:network", "Plain"])
def test_b158_a_network_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path, component: str) -> None:
    path = edited(tmp_path, {})
    plain = json.loads(path.read_text())
    plain["configurations"][-1]["architecture"]["kind"] = component
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r"plain.*residual") as refused:
        read_plan(path)
    assert component in str(refused.value)


def test_b159_a_plan_of_a_newer_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = edited(tmp_path, {})
    newer = PLAN_SCHEMA + 1
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": newer}))
    with pytest.raises(UserError, match=f"plan.json has schema {newer}, this version reads {PLAN_SCHEMA}") as refused:
        read_plan(path)
    assert refused.value.fix == "update autounet"


def test_an_unknown_planner_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean nnunet"):
        plan(HEART, CPU, Budget(), "nnunett", job(tmp_path))
    assert not (tmp_path / "heart.autounet" / "plan.json").exists()


class FakeDevice:
    """Holds a fixed amount beside what a step was predicted to need, and has only so much."""

    def __init__(self, beside: int, size: int) -> None:
        self.beside, self.size, self.tried = beside, size, 0

    def __call__(self, decided: Plan, one: Configuration) -> int | None:
        self.tried += 1
        bare = one.memory.training_bytes - (self.planned_offset or int(1.2 * GiB))
        held = bare + self.beside
        self.planned_offset = self.beside
        return held if held <= self.size else None

    planned_offset = 0


def test_a_probe_corrects_the_offset_and_remembers_it(tmp_path: Path) -> None:
    here, device = job(tmp_path), FakeDevice(beside=3 * GiB, size=24 * GiB)
    first = plan(HEART, GPU, Budget(), "default", here, device)
    assert device.tried == 2  # the first step is 1.8 GiB above the prediction, the second as predicted
    assert read_devices(here.work).offset(GPU.name) == 3 * GiB
    again = plan(HEART, GPU, Budget(), "default", here)
    assert again == first
    fresh = plan(HEART, GPU, Budget(), "default", Job(work=tmp_path / "other", progress=Progress.silent()))
    gained = again.configurations[-1].memory.training_bytes - fresh.configurations[-1].memory.training_bytes
    assert gained == 3 * GiB - int(1.2 * GiB)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_device_that_holds_far_less_than_predicted_is_believed(tmp_path: Path, share: float) -> None:
    tried: list[tuple[int, int]] = []

    def device(decided: Plan, one: Configuration) -> int | None:
        predicted = one.memory.training_bytes
        tried.append((predicted, int(share * predicted)))
        return tried[-1][1]

    decided = plan(HEART, GPU, Budget(), "default", job(tmp_path), device)
    assert len(tried) == 2  # without any offset the prediction is still above what is held: nothing left to correct
    assert decided.configurations[-1].memory.training_bytes == tried[1][0] < tried[0][0]
    assert read_devices(tmp_path / "heart.autounet").offset(GPU.name) == 1


def test_a_step_that_does_not_fit_makes_the_plan_smaller(tmp_path: Path) -> None:
    tried: list[int] = []

    def device(decided: Plan, one: Configuration) -> int | None:
        tried.append(one.batch_size // one.accumulate)
        return None if len(tried) < 2 else one.memory.training_bytes

    small = replace(GPU, accelerator_bytes=6 * GiB + GiB // 2)
    plan(HEART, small, Budget(), "default", job(tmp_path), device)
    assert tried[0] == 2
    assert tried[1] == 1


def test_a_device_that_never_fits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did not train on|trains in"):
        plan(HEART, GPU, Budget(), "default", job(tmp_path), lambda decided, one: None)


def test_devices_are_kept_apart_by_name() -> None:
    known = Devices().knowing("A", 1).knowing("B", 2).knowing("A", 3)
    assert (known.offset("A"), known.offset("B"), known.offset("C")) == (3, 2, 0)


def test_the_memory_of_a_processor_is_what_the_job_may_use(tmp_path: Path) -> None:
    wide = plan(HEART, replace(CPU, cores=64), Budget(training_seconds=400_000), "default", job(tmp_path))
    narrow_job = replace(job(tmp_path), max_ram_bytes=5 * GiB)
    narrow = plan(HEART, replace(CPU, cores=64), Budget(training_seconds=400_000), "default", narrow_job)
    assert wide.configurations[-1].memory.training_bytes > GiB * 5 // 2
    assert all(one.memory.training_bytes <= GiB * 5 // 2 for one in narrow.configurations)
