"""The doctor's judgements: known-bad releases, memory, disk, threads, and a probe that really computes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autounet import convolution_speed, machine
from autounet.cli import main
from autounet.convolution_speed import measure_convolutions
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages import doctor
from autounet.stages.doctor import Finding, lines, memory_and_disk, plain, processor, verdict_on


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(work=tmp_path, progress=Progress.silent(), device="cpu", threads=1)


@pytest.mark.parametrize(
    ("name", "found", "cuda", "cudnn", "verdict"),
    [
        ("torch", "2.9.0", True, 91002, "bad"),
        ("torch", "2.9.1+cu128", True, 91002, "bad"),
        ("torch", "2.9.1+cu128", True, 91500, "ok"),  # the newer cuDNN mends it
        ("torch", "2.9.1+cpu", False, 0, "ok"),
        ("torch", "2.10.0", True, 91002, "ok"),
        ("torch", "2.13.0+cpu", False, 0, "ok"),
        ("torch", "2.5.1", False, 0, "bad"),
        ("torch", "2.8.0", True, 91002, "note"),
        ("pydicom", "3.0.1", False, 0, "bad"),
        ("pydicom", "3.0.2", False, 0, "ok"),
        ("numpy", "2.9.0", True, 0, "ok"),
        ("torch", "2.10.0a0+git", False, 0, "ok"),
    ],
)
def test_known_bad_releases_are_recognised(name: str, found: str, cuda: bool, cudnn: int, verdict: str) -> None:
    assert verdict_on(name, found, cuda=cuda, cudnn=cudnn).verdict == verdict


def test_every_bad_release_comes_with_what_to_type() -> None:
    assert [bad for bad in doctor.KNOWN_BAD if bad.verdict == "bad" and not bad.remedy.startswith("pip install")] == []


def test_fewer_threads_than_cores_are_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 8)
    assert torch.get_num_threads() == 1
    (found,) = (f for f in processor(None) if f.topic == "threads")
    assert found.verdict == "slow"
    assert "--threads 8" in found.remedy
    (found,) = (f for f in processor(1) if f.topic == "threads")
    assert found.verdict == "ok"  # the user chose it


def test_little_memory_leads_to_max_ram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "memory_limit_bytes", lambda: 4 * 10**9)
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: 3 * 10**9)
    (found,) = (f for f in memory_and_disk(tmp_path) if f.topic == "memory")
    assert (found.verdict, found.remedy) == ("note", "large scans will be streamed: type --max-ram 2GB")


def test_the_disk_is_that_of_the_work_folder_even_before_it_exists(tmp_path: Path) -> None:
    (found,) = (f for f in memory_and_disk(tmp_path / "a" / "b") if f.topic == "disk")
    assert found.value.endswith(f"free in {tmp_path}")


def test_the_probe_counts_the_multiplications_it_did(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_speed, "EDGE", 8)
    monkeypatch.setattr(convolution_speed, "_best_seconds", lambda once, seconds: once() or 1e-3)
    speeds = measure_convolutions("cpu", seconds=0.0, threads=1, job=job)
    assert {(s.precision, s.layout) for s in speeds} == {(p, x) for p in ("float32", "bfloat16") for x in ("contiguous", "channels-last")}
    # 2 operations x 27 taps x 32 x 32 channels x 512 voxels in a millisecond
    assert {round(s.gflops, 3) for s in speeds} == {round(2 * 27 * 32 * 32 * 512 / 1e-3 / 1e9, 3)}


def test_the_probe_leaves_the_threads_as_they_were(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_speed, "EDGE", 4)
    measure_convolutions("cpu", seconds=0.0, threads=2, job=job)
    assert torch.get_num_threads() == 1


def test_long_findings_fit_eighty_columns() -> None:
    text = lines((Finding(topic="x", value="word " * 60, verdict="slow", remedy="type this"),))
    assert max(len(line) for line in text[:-2]) <= 80
    assert text[-1] == "1 thing to mend, see the arrows above."
    assert "      -> type this" in text


def test_a_fit_machine_is_told_what_to_type_next() -> None:
    assert lines((Finding(topic="x", value="fine"),))[-1] == "This machine is fit. Next: autounet demo"


def test_json_holds_every_finding() -> None:
    found = plain((Finding(topic="x", value="y", verdict="bad", remedy="z"),))
    assert found == {"findings": [{"topic": "x", "value": "y", "verdict": "bad", "remedy": "z"}]}


def test_the_verb_examines_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--seconds", "0", "--json"]) == 0
    topics = {f["topic"] for f in json.loads(capsys.readouterr().out)["result"]["findings"]}
    assert topics >= {"autounet", "torch", "processor", "threads", "memory", "disk", "accelerator", "compiler"}
    assert list(tmp_path.iterdir()) == []


def _pretend(monkeypatch: pytest.MonkeyPatch, *, built: str | None, driver: bool, usable: bool) -> list[Finding]:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    exists: Callable[[Path], bool] = lambda path: driver  # noqa: E731
    monkeypatch.setattr(Path, "exists", exists)
    return doctor._torch_build()


def test_a_driver_without_a_cuda_torch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = _pretend(monkeypatch, built=None, driver=True, usable=False)
    assert (found.verdict, "pip install" in found.remedy) == ("slow", True)


def test_a_cuda_torch_without_a_driver_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = _pretend(monkeypatch, built="12.8", driver=False, usable=False)
    assert (found.verdict, "no NVIDIA driver" in found.value) == ("note", True)


def test_a_driver_too_old_for_the_torch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = _pretend(monkeypatch, built="13.0", driver=True, usable=False)
    assert (found.verdict, "new enough" in found.remedy) == ("slow", True)
