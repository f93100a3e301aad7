"""What every stage is handed: where to work, and how much of the machine it may use."""

from dataclasses import dataclass
from pathlib import Path

from autounet.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run's folder, limits and voice."""

    work: Path
    progress: Progress
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    threads: int | None = None  # None: all cores this process may use
    max_ram_bytes: int | None = None  # None: what the machine or its cgroup allows
