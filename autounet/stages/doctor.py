"""What this machine has, what of it is slow or broken, and what to type about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autounet import __version__, machine
from autounet.convolution_speed import Speed, measure_convolutions
from autounet.progress.wording import size

if TYPE_CHECKING:
    from autounet.job import Job

Verdict = Literal["ok", "note", "slow", "bad"]
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about the machine; `remedy` is what to type when it is not well."""

    topic: str
    value: str
    verdict: Verdict = "ok"
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBad:
    """Releases of a package that are known to hurt."""

    package: str
    low: tuple[int, ...]
    below: tuple[int, ...]
    only_cuda: bool
    verdict: Verdict
    what: str
    remedy: str


KNOWN_BAD = (
    KnownBad(
        package="torch",
        low=(2, 9),
        below=(2, 10),
        only_cuda=True,
        verdict="bad",
        what="3D convolutions in mixed precision are up to four times slower, "
        "and cuDNN 9.10 gives wrong bfloat16 results (pytorch #166122, #166643)",
        remedy="pip install 'torch>=2.10'",
    ),
    KnownBad(
        package="torch",
        low=(0,),
        below=(2, 6),
        only_cuda=False,
        verdict="bad",
        what="older than this program supports",
        remedy="pip install 'torch>=2.10'",
    ),
    KnownBad(
        package="torch",
        low=(2, 6),
        below=(2, 9),
        only_cuda=False,
        verdict="note",
        what="fine here, but models of nnU-Net can be imported with torch 2.10 and later only (CVE-2026-24747)",
        remedy="",
    ),
    KnownBad(
        package="pydicom",
        low=(0,),
        below=(3, 0, 2),
        only_cuda=False,
        verdict="bad",
        what="a DICOMDIR may point outside its folder (CVE-2026-32711)",
        remedy="pip install 'pydicom>=3.0.2'",
    ),
)
LOOKED_UP = (
    *("torch", "numpy", "scipy", "SimpleITK", "nibabel", "blosc2", "safetensors"),
    *("pydicom", "connected-components-3d", "edt", "openvino"),  # optional ones
)
CUDNN_MENDED = 91500  # the release that ends the trouble of torch 2.9


def examine(job: Job, *, seconds: float = 10.0) -> tuple[Finding, ...]:
    """Everything that decides whether training and prediction work here, and how fast."""
    findings = [Finding(topic="autounet", value=f"{__version__} with Python {platform.python_version()} on {platform.platform()}")]
    findings += [*packages(), *processor(job.threads), *memory_and_disk(job.work)]
    findings += [*_torch_build(), *_compile()]
    if seconds > 0:
        findings += _speed(job, seconds)
    return tuple(findings)


def lines(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """For people: the verdict, the fact, and below it what to type."""
    from textwrap import wrap

    out: list[str] = []
    for f in findings:
        first, *more = wrap(f"{f.topic}: {f.value}", 74)
        out += [f"{f.verdict:<5} {first}", *(f"      {line}" for line in more)]
        if f.remedy:
            out.append(f"      -> {f.remedy}")
    worst = [f for f in findings if f.verdict in ("bad", "slow")]
    out.append("")
    if not worst:
        return (*out, "This machine is fit. Next: autounet demo")
    return (*out, f"{len(worst)} thing{'s' if len(worst) > 1 else ''} to mend, see the arrows above.")


def plain(findings: tuple[Finding, ...]) -> dict[str, object]:
    """For --json."""
    return {"findings": [asdict(f) for f in findings]}


def packages() -> list[Finding]:
    """The versions that matter, looked up in the table of known-bad ones."""
    findings = []
    for name in LOOKED_UP:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        findings.append(verdict_on(name, found, cuda=_has_cuda(), cudnn=_cudnn()))
    return findings


def verdict_on(name: str, found: str, *, cuda: bool, cudnn: int) -> Finding:
    """A package and its version, and whether the table knows trouble with it."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", found.partition("+")[0])[:3])
    for bad in KNOWN_BAD:
        mended = bad.only_cuda and (not cuda or cudnn >= CUDNN_MENDED)
        if bad.package == name and bad.low <= numbers < bad.below and not mended:
            return Finding(topic=name, value=f"{found}: {bad.what}", verdict=bad.verdict, remedy=bad.remedy)
    return Finding(topic=name, value=found)


def processor(threads: int | None) -> list[Finding]:
    """Cores this process may use, and whether bfloat16 is fast."""
    import torch

    cores, whole = machine.cores(), os.cpu_count() or 1
    flags = _cpu_flags()
    amx, bf16 = "amx_bf16" in flags, "avx512_bf16" in flags
    fast = "AMX (bfloat16 is fast)" if amx else "AVX-512 bfloat16" if bf16 else "no fast bfloat16"
    of = f" of {whole}" if whole != cores else ""
    findings = [Finding(topic="processor", value=f"{_cpu_name()}, {cores} core{'s' if cores > 1 else ''}{of}, {fast}")]
    used = threads or torch.get_num_threads()
    if used < min(cores, whole) and threads is None:
        findings.append(
            Finding(
                topic="threads",
                value=f"torch uses {used} of {cores} cores, OMP_NUM_THREADS or the scheduler says so",
                verdict="slow",
                remedy=f"unset OMP_NUM_THREADS, or type --threads {cores}",
            )
        )
    else:
        findings.append(Finding(topic="threads", value=f"{used}"))
    return findings


def memory_and_disk(work: Path) -> list[Finding]:
    """Memory, shared memory and disk, with what is too little."""
    limit, free = machine.memory_limit_bytes(), machine.memory_available_bytes()
    short = limit < 7 * GB
    findings = [
        Finding(
            topic="memory",
            value=f"{size(limit)}, {size(free)} free",
            verdict="note" if short else "ok",
            remedy=f"large scans will be streamed: type --max-ram {max(1, int(free * 0.8 / GB))}GB" if short else "",
        )
    ]
    shm = Path("/dev/shm")
    if shm.is_dir():
        findings.append(Finding(topic="shared memory", value=f"{size(shutil.disk_usage(shm).total)} in /dev/shm; prediction needs none"))
    place = next(p for p in (work, *work.parents) if p.is_dir())
    disk = shutil.disk_usage(place)
    little = disk.free < 10 * GB
    findings.append(
        Finding(
            topic="disk",
            value=f"{size(disk.free)} free in {place}",
            verdict="note" if little else "ok",
            remedy="a large dataset needs more: name another folder with --work" if little else "",
        )
    )
    if not os.access(place, os.W_OK):
        findings.append(Finding(topic="disk", value=f"{place} cannot be written", verdict="bad", remedy="name another folder with --work"))
    return findings


def _torch_build() -> list[Finding]:
    import torch

    driver = Path("/proc/driver/nvidia/version")
    if torch.version.cuda is None and not getattr(torch.version, "hip", None):
        if driver.exists():
            return [
                Finding(
                    topic="accelerator",
                    value="this machine has an NVIDIA driver, but torch was built without CUDA",
                    verdict="slow",
                    remedy="pip install --force-reinstall torch, from the index https://pytorch.org/get-started names for your CUDA",
                )
            ]
        has_mps = torch.backends.mps.is_available()
        return [Finding(topic="accelerator", value="Apple Metal" if has_mps else "none; training and prediction run on the processor")]
    if not torch.cuda.is_available():
        found = f"the driver says: {_driver(driver)}" if driver.exists() else "there is no NVIDIA driver"
        return [
            Finding(
                topic="accelerator",
                value=f"torch was built for CUDA {torch.version.cuda}, but cannot use it; {found}",
                verdict="slow" if driver.exists() else "note",
                remedy="install a driver that is new enough for this CUDA, or a torch for an older one" if driver.exists() else "",
            )
        ]
    return [_device(i) for i in range(torch.cuda.device_count())] + [
        Finding(topic="CUDA", value=f"{torch.version.cuda}, cuDNN {_cudnn()}, driver {_driver(driver)}")
    ]


def _device(index: int) -> Finding:
    import torch

    seen = torch.cuda.get_device_properties(index)
    free, _ = torch.cuda.mem_get_info(index)
    bf16 = "bfloat16" if seen.major >= 8 else "float16 only"
    taken = seen.total_memory - free > 0.2 * seen.total_memory
    return Finding(
        topic=f"cuda:{index}",
        value=f"{seen.name}, {size(seen.total_memory)}, {size(free)} free, compute {seen.major}.{seen.minor}, {bf16}",
        verdict="note" if taken else "ok",
        remedy="somebody else uses it: see nvidia-smi, or type --device for another" if taken else "",
    )


def _compile() -> list[Finding]:
    found = next((tool for tool in ("c++", "g++", "clang++") if shutil.which(tool)), None)
    triton = True
    if _has_cuda():
        try:
            version("triton")
        except PackageNotFoundError:
            triton = False
    if found and triton:
        return [Finding(topic="compiler", value=f"{found} is there, networks can be compiled")]
    missing = "a C++ compiler" if not found else "triton"
    return [Finding(topic="compiler", value=f"{missing} is missing, networks run uncompiled; nothing breaks", verdict="note")]


def _speed(job: Job, seconds: float) -> list[Finding]:
    from autounet.machine import hardware

    accelerator = hardware(job.device).accelerator
    speeds = measure_convolutions(accelerator if job.device == "auto" else job.device, seconds=seconds, threads=job.threads, job=job)
    best = max(speeds, key=lambda s: s.gflops)
    plain_speed = next(s for s in speeds if s.precision == "float32" and s.layout == "contiguous")
    table = "; ".join(f"{s.precision} {s.layout} {s.gflops:.0f}" for s in speeds)
    findings = [Finding(topic="convolution", value=f"GFLOP/s: {table}")]
    gain = best.gflops / plain_speed.gflops
    findings.append(Finding(topic="fastest", value=f"{best.precision} {best.layout}, {gain:.1f} times plain float32", verdict=_judge(best)))
    return findings


def _judge(best: Speed) -> Verdict:
    return "slow" if best.gflops < 5 else "ok"  # below five the demo takes hours: an emulated or a throttled processor


def _cpu_name() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:\s*(.+)", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _driver(path: Path) -> str:
    try:
        found = re.search(r"\d{3,}\.\d+(\.\d+)?", path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[0] if found else "unknown"


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _cudnn() -> int:
    import torch

    return torch.backends.cudnn.version() or 0
