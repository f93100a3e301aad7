"""Every case of a dataset examined, in threads, within a memory limit; what was examined before is not read again."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from autounet.data.dataset import Case, Dataset, FileHash, Problem
from autounet.data.examine import examine
from autounet.data.headers import in_threads
from autounet.data.layouts.draft import error
from autounet.data.record import CaseRecord
from autounet.data.records import Records, hash_files, record_key
from autounet.job import Job
from autounet.machine import cores, memory_limit_bytes
from planners.errors import UserError

BYTES_PER_VOXEL = 16  # of one case at its peak: image and label as read, pieces, masks


@dataclass(frozen=True, slots=True)
class Examined:
    """A case with its record, or with the reason why there is none."""

    case: Case
    record: CaseRecord | None
    problem: Problem | None
    hashes: tuple[FileHash, ...]


def examine_all(dataset: Dataset, job: Job, cases: tuple[Case, ...] | None = None, *, name: str = "check") -> list[Examined]:
    """In the order of the cases."""
    wanted = dataset.cases if cases is None else cases
    records = Records(job.work / "cache" / "records")
    known = {h.path: h.sha256 for h in dataset.file_hashes}
    out: list[Examined] = []
    try:
        with job.progress.task(name, total=len(wanted), unit="case") as task:
            for found in _examined(dataset, wanted, records, known, threads(dataset, job)):
                out.append(found)
                task.step(doing=found.case.id)
    finally:  # a run that is stopped goes on from here
        records.flush()
    return out


def threads(dataset: Dataset, job: Job) -> int:
    """As many cases at once as there are cores, and as fit into the memory that may be used."""
    largest = max((prod(c.shape_zyx or (1, 1, 1)) * (BYTES_PER_VOXEL + 4 * len(c.images)) for c in dataset.cases), default=1)
    allowed = job.max_ram_bytes or memory_limit_bytes() // 2
    return max(1, min(job.threads or cores(), allowed // max(largest, 1)))


def _examined(dataset: Dataset, cases: tuple[Case, ...], records: Records, known: dict[str, str], count: int) -> Iterator[Examined]:
    def one(case: Case) -> Examined:
        hashes: tuple[FileHash, ...] = ()
        try:
            hashes = _hashes(dataset, case, known)
            name = record_key(dataset, case, {h.path: h.sha256 for h in hashes})
            record = records.get(name)
            if record is None:
                record = examine(dataset, case)
                records.add(name, record)
        except UserError as refused:
            problem = error("unreadable", refused.problem, "a case that can be read", refused.fix, case.id)
            return Examined(case, None, problem, hashes)
        except (MemoryError, OSError) as failure:
            return Examined(case, None, _failed(case, failure), hashes)
        return Examined(case, record, None, hashes)

    return in_threads(one, cases, count)


def _failed(case: Case, failure: MemoryError | OSError) -> Problem:
    """What the machine could not do for one case."""
    if isinstance(failure, MemoryError):
        needed = prod(case.shape_zyx or (1, 1, 1)) * BYTES_PER_VOXEL / 1e9
        return error(
            "memory", f"looking at it takes about {needed:.1f} GB", "as much memory", "use --threads 1, or a larger machine", case.id
        )
    found = f"a file cannot be read ({failure.strerror or failure})"
    return error("unreadable", found, "a case that can be read", "check the disk or the network share", case.id)


def _hashes(dataset: Dataset, case: Case, known: dict[str, str]) -> tuple[FileHash, ...]:
    paths = {f.path for f in (*case.images, *([case.label] if case.label else []), *(m.file for m in case.masks))}
    if paths <= set(known):
        return tuple(FileHash(path=p, sha256=known[p]) for p in sorted(paths))
    return hash_files(dataset, case)
