"""What affinity, control groups and the accelerator leave us, on machines made of files and on this one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from autounet import machine
from planners.errors import UserError

GiB = 2**30


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


MEMINFO = "MemTotal:       33554432 kB\nMemFree:        1048576 kB\nMemAvailable:   16777216 kB"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = """31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"""


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


@pytest.mark.usefixtures("sixteen_cores")
def test_the_new_control_groups_cut_cores_and_memory_at_every_level(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user.slice/job"
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user.slice/job", "proc/self/mountinfo": V2})
    write(tmp_path, {f"{group}/cpu.max": "max 100000", f"{group}/memory.max": "max"})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (16, 32 * GiB)
    assert machine.memory_available_bytes(tmp_path) == 16 * GiB
    write(tmp_path, {f"{group}/cpu.max": "350000 100000", "sys/fs/cgroup/user.slice/memory.max": 8 * GiB})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (3, 8 * GiB), "half a core is none; the parent's limit holds"
    write(tmp_path, {f"{group}/memory.high": 4 * GiB, "sys/fs/cgroup/user.slice/cpu.max": "50000 100000"})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (1, 4 * GiB)


@pytest.mark.usefixtures("sixteen_cores")
def test_memory_that_file_pages_hold_counts_as_available(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/", "proc/self/mountinfo": V2})
    write(tmp_path, {"sys/fs/cgroup/memory.max": 8 * GiB, "sys/fs/cgroup/memory.current": 7 * GiB})
    assert machine.memory_available_bytes(tmp_path) == 1 * GiB
    write(tmp_path, {"sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {2 * GiB}\nactive_file 5"})
    assert machine.memory_available_bytes(tmp_path) == 3 * GiB
    write(tmp_path, {"sys/fs/cgroup/memory.current": 20 * GiB})
    assert machine.memory_available_bytes(tmp_path) == 0


@pytest.mark.usefixtures("sixteen_cores")
def test_the_old_control_groups_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/mountinfo": V1})
    write(tmp_path, {"proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/"})
    cpu, memory = "sys/fs/cgroup/cpu,cpuacct/job", "sys/fs/cgroup/memory/job"
    write(tmp_path, {f"{cpu}/cpu.cfs_quota_us": -1, f"{cpu}/cpu.cfs_period_us": 100000})
    write(tmp_path, {f"{memory}/memory.limit_in_bytes": 9223372036854771712})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (16, 32 * GiB)
    write(tmp_path, {f"{cpu}/cpu.cfs_quota_us": 400000, f"{memory}/memory.limit_in_bytes": 2 * GiB})
    write(tmp_path, {f"{memory}/memory.usage_in_bytes": GiB, f"{memory}/memory.stat": f"total_inactive_file {GiB // 2}"})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (4, 2 * GiB)
    assert machine.memory_available_bytes(tmp_path) == 1.5 * GiB


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize("top", ["/docker/abc", "/"])
def test_a_container_that_sees_its_own_group_as_the_root(top: str, tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/docker/abc"})
    write(tmp_path, {"proc/self/mountinfo": f"30 23 0:26 {top} /sys/fs/cgroup ro - cgroup2 cgroup rw"})
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "200000 100000", "sys/fs/cgroup/memory.max": GiB})
    assert (machine.cores(tmp_path), machine.memory_limit_bytes(tmp_path)) == (2, GiB)


def test_a_machine_that_tells_nothing_still_has_a_core_and_memory(tmp_path: Path) -> None:
    assert machine.cores(tmp_path) >= 1
    assert machine.memory_limit_bytes(tmp_path) > 2**28
    write(tmp_path, {"proc/self/cgroup": "0::/", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "1000 100000"})
    assert machine.cores(tmp_path) == 1
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "nonsense"})
    assert machine.cores(tmp_path) == len(os.sched_getaffinity(0))


def test_affinity_cuts_the_cores() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= machine.cores() <= len(before)


def test_memory_is_what_another_library_counts() -> None:
    seen = psutil.virtual_memory()
    assert machine.memory_limit_bytes() <= seen.total
    assert 0 < machine.memory_available_bytes() <= seen.available * 1.2
    us = psutil.Process()
    assert machine.process_tree_bytes(us.pid, "rss") == pytest.approx(us.memory_info().rss, rel=0.05)
    assert machine.process_tree_bytes(us.pid) == pytest.approx(us.memory_full_info().pss, rel=0.1)


def test_a_tree_of_processes_is_counted_whole_and_shared_pages_once() -> None:
    program = (
        "import os, sys; b = bytearray(os.urandom(1) * 100_000_000); os.fork(); os.write(1, b'1' + b'\\n'); sys.stdin.read(); os._exit(0)"
    )
    alone = machine.process_tree_bytes()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == child.stdout.readline() == b"1\n"
        assert len(machine.process_tree(child.pid)) == 2
        assert child.pid in machine.process_tree(os.getpid())
        shared_once = machine.process_tree_bytes(child.pid)
        counted_often = machine.process_tree_bytes(child.pid, "rss")
        together = machine.process_tree_bytes()
        child.communicate()
    assert 100e6 < shared_once < 150e6
    assert 200e6 < counted_often < 300e6
    assert together - alone > 90e6
    assert machine.process_tree_bytes(child.pid) == 0, "an ended process holds nothing"


def test_the_processor_is_named_and_its_number_formats_known(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name\t: A Chip @ 2GHz\nflags\t\t: fpu avx2 avx512_bf16\n"})
    assert machine.processor_name(tmp_path) == "A Chip @ 2GHz"
    assert machine.cpu_precisions(machine.processor_flags(tmp_path)) == ("float32", "bfloat16")
    write(tmp_path, {"proc/cpuinfo": "flags : fpu avx2 avx512f"})
    assert machine.cpu_precisions(machine.processor_flags(tmp_path)) == ("float32",)
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd bf16 i8mm"})
    assert machine.cpu_precisions(machine.processor_flags(tmp_path)) == ("float32", "bfloat16"), "ARM"
    for flag in ("amx_bf16", "avx_ne_convert"):
        assert "bfloat16" in machine.cpu_precisions(frozenset({flag}))


def test_the_processor_of_this_machine() -> None:
    hardware = machine.hardware("cpu")
    assert (hardware.accelerator, hardware.accelerator_bytes) == ("cpu", 0)
    assert hardware.cores == machine.cores()
    assert hardware.training_bytes == hardware.host_bytes == machine.memory_limit_bytes()
    assert hardware.name


def test_a_cuda_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        SimpleNamespace(name="Old", total_memory=8 * GiB, major=6, minor=1),
        SimpleNamespace(name="New", total_memory=139 * GiB, major=9, minor=0),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    first, second = machine.hardware(), machine.hardware("cuda:1")
    assert (first.accelerator, first.name, first.training_bytes, first.precisions) == ("cuda", "Old", 8 * GiB, ("float32",))
    assert (second.name, second.training_bytes, second.precisions) == ("New", 139 * GiB, ("float32", "bfloat16", "float16"))
    with pytest.raises(UserError, match="no device cuda:2, this machine has 2"):
        machine.hardware("cuda:2")
    assert machine.cuda_precisions((7, 5)) == ("float32", "float16")


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UserError, match="no usable"):
            machine.hardware(device)
    for device in ("tpu", "cuda:x", "cpu:1", "", "cuda:-1"):
        with pytest.raises(UserError, match="Use auto, cpu, cuda, cuda:1 or mps"):
            machine.hardware(device)
    assert machine.hardware("auto") == machine.hardware("cpu")


def test_asking_for_cores_and_memory_loads_nothing_heavy() -> None:
    program = (
        "import sys; from autounet import machine, stop; machine.cores(); machine.hardware('cpu'); machine.process_tree_bytes()\n"
        "import autounet.store.files, autounet.store.manifest, autounet.store.cache, autounet.store.weights, autounet.store.checkpoints\n"
        "print(sorted({'torch', 'numpy', 'psutil', 'pydantic', 'safetensors', 'ctypes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
