"""Every case of a dataset as the networks want it, in a cache that knows what it was made from."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from functools import partial
from math import prod
from os import strerror
from pathlib import Path
from threading import Condition

from autounet import machine, stop
from autounet.arrays.prepare import CaseOnGrid
from autounet.arrays.threads import single_blas_thread
from autounet.data.dataset import Case, Dataset
from autounet.data.prepared import DAMAGED, DamageError, PreparedCase, PreparedTable, grain_of, table_path, write_prepared
from autounet.data.prepared_key import case_key, plan_key
from autounet.data.shared_cache import enrol, used_by_others
from autounet.data.voxels import CaseVoxels, read_case
from autounet.images.read import read_header
from autounet.job import Job
from autounet.rng import generator
from autounet.store.cache import RECORD, Cache
from autounet.store.disk import explained, free_bytes, human
from autounet.store.lock import holder, lock
from autounet.store.strict import read_value, write_value
from autounet.store.sweep import sweep
from planners.errors import UserError
from planners.plan import Configuration, Plan

WAIT_SECONDS = 3600
LOCATIONS_SEED = 1234  # which voxels are remembered belongs to the entry, not to a run
UNKNOWN_ZYX = (256, 256, 256)  # a header that does not say
RUN_BYTES = 2**28  # room for what is not a case: the interpreter, libraries, slabs on their way


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case that could not be prepared, and why."""

    case: str
    error: UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What a call did."""

    made: int  # entries
    found: int  # that were there before
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One case and the configurations that still need it."""

    case: Case
    wanted: tuple[tuple[Configuration, str], ...]  # each with the key of its entry
    bytes_needed: int


def prepare(
    dataset: Dataset,
    plan: Plan,
    job: Job,
    *,
    cache: Path | None = None,
    configurations: Iterable[str] | None = None,
    verify: bool = False,
) -> PrepareReport:
    """Make what the cache lacks; `verify` checks what it has, chunk by chunk, and makes the damaged anew."""
    store = Cache(cache or job.work / "cache")
    chosen = [plan.configuration(name) for name in (configurations or plan.train)]
    keys = _entry_keys(dataset, plan, chosen)
    if store.root.is_dir():
        sweep(store.root)  # what a killed run left half written
    if verify:
        _discard_damaged(store, keys, job)
    work = _missing(dataset, store, keys, chosen)
    found = len({key for table in keys.values() for key in table.values()}) - sum(len(one.wanted) for one in work)
    _warn_of_room(work, store, job)
    preparer = _Preparer(dataset, plan, job, store, Cache(job.work / "cache"))
    if work:
        preparer.run(work)
    failures = tuple(preparer.failures)
    if cache is not None:
        enrol(cache, job.work)
    failed = frozenset(failure.case for failure in failures)
    for configuration in chosen:
        table = _write_table(store, plan, configuration, keys[configuration.name], job, cache is None)
        for case in keys[configuration.name].keys() - dict(table.cases).keys() - failed:
            job.progress.warn(f"{case}: what was prepared vanished from {store.root}; type the command again")
    if failures and len(failures) == len({case for table in keys.values() for case in table}):
        raise failures[0].error
    return PrepareReport(made=preparer.made, found=found, failures=failures)


def prune(plan: Plan, job: Job, *, cache: Path | None = None) -> int:
    """Remove entries that neither the plan nor another work folder which shares the cache uses; how many bytes that freed."""
    keep: set[str] = set()
    for configuration in plan.configurations:
        path = table_path(job.work, configuration.name)
        if path.is_file():
            keep.update(key for _, key in read_value(path, PreparedTable).cases)
    return Cache(cache or job.work / "cache").prune(keep | (used_by_others(cache, job.work) if cache else set()))


def _entry_keys(dataset: Dataset, plan: Plan, chosen: list[Configuration]) -> dict[str, dict[str, str]]:
    """Per configuration: case → key of its entry. Configurations that prepare alike share entries."""
    broken = set(dataset.broken)
    cases = [case for case in dataset.training if case.id not in broken]
    if not cases:
        raise UserError("no case with a label is left to prepare", "look at what `autounet check` reports")
    return {c.name: {case.id: case_key(dataset, case, plan_key(plan, c)) for case in cases} for c in chosen}


def _missing(dataset: Dataset, store: Cache, keys: dict[str, dict[str, str]], chosen: list[Configuration]) -> list[_Work]:
    """What has to be made, big cases first: they decide how long it takes."""
    work = []
    for key in {key for table in keys.values() for key in table.values()}:
        if (store.path(key) / DAMAGED).exists():
            store.discard(key)
    for case_id in next(iter(keys.values())):
        wanted = {keys[c.name][case_id]: c for c in reversed(chosen) if store.get(keys[c.name][case_id]) is None}
        if wanted:
            case = dataset.case(case_id)
            work.append(_Work(case=case, wanted=tuple((c, key) for key, c in wanted.items()), bytes_needed=_most_bytes(case)))
    return sorted(work, key=lambda one: -one.bytes_needed)


def _most_bytes(case: Case) -> int:
    """What a case can take at most: voxels of all channels and of the label as they are read, whatever their type."""
    channels = len(case.images)  # from several files they are there twice while they are stacked
    return prod(case.shape_zyx or UNKNOWN_ZYX) * (4 * (channels if channels == 1 else 2 * channels) + 6)


def _bytes_by_header(dataset: Dataset, case: Case) -> int:
    """The same with the types that the files' headers tell: most images are 16 bit, most labels 8."""
    if case.label is None or any(file.kind != "image" for file in (*case.images, case.label)):
        return _most_bytes(case)
    sizes = {file.path: read_header(dataset.folder / file.path).voxel_bytes for file in (*case.images, case.label)}
    image = sum(sizes[path] for path in {file.path for file in case.images})
    return image * (1 if len(case.images) == 1 else 2) + sizes[case.label.path] + 2 * prod(case.shape_zyx or UNKNOWN_ZYX)


def _warn_of_room(work: list[_Work], store: Cache, job: Job) -> None:
    """Say before the work what it may take on the disk; packed it is less, so it is no reason to refuse."""
    needed = sum(_stored_bytes(one.case, configuration) for one in work for configuration, _ in one.wanted)
    free = free_bytes(store.root)
    if needed > free:
        job.progress.warn(f"the prepared cases take up to {human(needed)} in {store.root}, {human(free)} are free; another folder: --cache")


def _stored_bytes(case: Case, configuration: Configuration) -> int:
    """Of a case on the configuration's grid, unpacked; whatever way it lies, its volume is the same."""
    if case.shape_zyx is None or case.spacing_zyx_mm is None:
        return 0
    volume_mm3 = prod(case.shape_zyx) * prod(case.spacing_zyx_mm)
    voxel_mm3 = prod(configuration.spacing_zyx_mm) if configuration.dimensions == 3 else prod(configuration.spacing_zyx_mm[1:])
    slices_mm = 1.0 if configuration.dimensions == 3 else max(case.spacing_zyx_mm)
    return int(volume_mm3 / voxel_mm3 / slices_mm) * (4 * len(case.images) + 1)


def _discard_damaged(store: Cache, keys: dict[str, dict[str, str]], job: Job) -> None:
    entries = {key: case for table in keys.values() for case, key in table.items() if store.get(key) is not None}
    with job.progress.task("verify", total=len(entries), unit="case") as task:
        for key, case in entries.items():
            stop.check()
            try:
                PreparedCase(case, store.path(key)).verify()
                sound = store.verify(key)
            except UserError:
                store.discard(key)
                sound = False
            if not sound:
                job.progress.warn(f"{case}: what was prepared is damaged on disk; it is made anew")
            task.step(doing=case)


def _write_table(store: Cache, plan: Plan, configuration: Configuration, keys: dict[str, str], job: Job, own_cache: bool) -> PreparedTable:
    there = tuple((case, key) for case, key in keys.items() if store.get(key) is not None)
    table = PreparedTable(
        configuration=configuration.name,
        plan_key=plan_key(plan, configuration),
        cache="" if own_cache else str(store.root.absolute()),
        cases=there,
    )
    write_value(table_path(job.work, configuration.name), table)
    return table


class _Preparer:
    """Cases side by side, as many as memory and cores allow."""

    def __init__(self, dataset: Dataset, plan: Plan, job: Job, store: Cache, shared: Cache) -> None:
        self._dataset, self._plan, self._job, self._store, self._shared = dataset, plan, job, store, shared
        self._cores = job.threads or machine.cores()
        used = machine.process_tree_bytes(kind="rss")
        limit = job.max_ram_bytes or machine.memory_available_bytes() + used
        self._free_bytes = limit - used - RUN_BYTES
        self._room = _Room(limit, self._free_bytes)
        self._too_large_together: list[_Work] = []
        self.made = 0
        self.failures: list[Failure] = []

    def run(self, work: list[_Work]) -> None:
        """Prepare all; a bad case is reported and the others go on."""
        with self._job.progress.task("prepare", total=len(work), unit="case") as task, single_blas_thread():

            def note(one: _Work, outcome: int | UserError) -> None:
                if isinstance(outcome, UserError):
                    self.failures.append(Failure(case=one.case.id, error=outcome))
                    self._job.progress.warn(str(outcome))
                else:
                    self.made += outcome
                task.step(doing=one.case.id)

            # What another process is busy with comes last: by then it is in the cache, or that process is gone.
            busy = self._side_by_side(work, 0, note)
            left = self._side_by_side(busy, WAIT_SECONDS, note)
            for one in self._too_large_together:
                note(one, self._alone(one))
        if left:
            raise UserError(
                f"another process has been preparing {left[0].case.id} for {WAIT_SECONDS // 60} minutes", "wait for it, or end it"
            )

    def _side_by_side(self, work: list[_Work], wait_seconds: int, note: Callable[[_Work, int | UserError], None]) -> list[_Work]:
        """Work through the list; returns what others hold."""
        busy = []
        with ThreadPoolExecutor(self._cores) as pool:
            running = {pool.submit(self._locked, one, self._threads(one, len(work)), wait_seconds): one for one in work}
            try:
                for future in as_completed(running):
                    try:
                        outcome = future.result()
                    except MemoryError:  # beside the others; perhaps not alone
                        self._too_large_together.append(running[future])
                        continue
                    if outcome is None:
                        busy.append(running[future])
                    else:
                        note(running[future], outcome)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # cases in work are finished, no other begins
                raise
        return busy

    def _alone(self, one: _Work) -> int | UserError:
        """Once more, with all the memory there is."""
        try:
            made = self._locked(one, self._cores, WAIT_SECONDS)
        except MemoryError:
            made = UserError("the machine had not enough memory to prepare it, not even alone", "use a larger one", one.case.id)
        return 0 if made is None else made

    def _threads(self, one: _Work, cases: int) -> int:
        """Cores for one case: what is left when as many as fit into memory run beside it."""
        beside = min(self._cores, cases, max(1, self._free_bytes // max(1, one.bytes_needed)))
        return max(1, self._cores // beside)

    def _locked(self, one: _Work, threads: int, wait_seconds: int) -> int | UserError | None:
        """How many entries were made of a case, or why none; None when somebody else is at it."""
        stop.check()
        with ExitStack() as held:
            for key in sorted(key for _, key in one.wanted):  # in one order everywhere, or two runs wait for each other
                path = self._store.root / "locks" / f"{key}.lock"
                try:
                    held.enter_context(lock(path, f"preparing {one.case.id}", wait_seconds))
                except UserError:
                    if wait_seconds and holder(path) is None:
                        raise  # nobody has it, so it cannot be had
                    return None
            try:
                return self._make(one, threads)
            except UserError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in (ENOSPC, EDQUOT):
                    raise  # a full disk is full for every case
                return error if error.case else UserError(error.problem, error.fix, one.case.id)

    def _make(self, one: _Work, threads: int) -> int:
        wanted = [(configuration, key) for configuration, key in one.wanted if not self._there(key)]
        if not wanted:
            return 0
        needed = one.bytes_needed if one.bytes_needed <= self._free_bytes else _bytes_by_header(self._dataset, one.case)
        with self._room.take(needed, one.case.id):
            voxels = read_case(self._dataset, one.case)
            for configuration, key in wanted:
                stop.check()
                self._store.put(key, partial(self._fill, voxels=voxels, configuration=configuration, threads=threads))
        return len(wanted)

    def _there(self, key: str) -> bool:
        """Whether an entry is in the cache, if need be brought from the work folder's to this node's."""
        shared = None if self._shared.root == self._store.root else self._shared.get(key)
        if self._store.get(key) is None and shared is not None:
            with suppress(DamageError):  # then it is made anew
                self._store.put(key, partial(_copy, shared))
        return self._store.get(key) is not None

    def _fill(self, folder: Path, *, voxels: CaseVoxels, configuration: Configuration, threads: int) -> None:
        case = CaseOnGrid(voxels.image_czyx, voxels.label_zyx, voxels.geometry, self._plan, configuration)
        needed = prod(case.frame.shape_zyx) * (4 * case.channels + 1)
        grain, rng = grain_of(configuration.patch_zyx), generator(LOCATIONS_SEED, "locations")
        with explained(folder, lambda: needed), ThreadPoolExecutor(threads) as pool:
            if free_bytes(folder) < needed:
                raise OSError(ENOSPC, strerror(ENOSPC))
            write_prepared(folder, case, grain, rng, pool=pool, threads=threads)


def _copy(entry: Path, folder: Path) -> None:
    """The files of a sound entry, but for the cache's own record."""
    PreparedCase(entry.name, entry).verify()
    for name in (path.name for path in entry.iterdir() if path.name != RECORD):
        shutil.copyfile(entry / name, folder / name)


class _Room:
    """Memory for cases: each waits until what it needs is free. The largest come first, so none starves."""

    def __init__(self, limit_bytes: int, free_bytes: int) -> None:
        self._limit, self._total, self._free = limit_bytes, free_bytes, free_bytes
        self._changed = Condition()

    @contextmanager
    def take(self, size: int, case: str) -> Iterator[None]:
        """Hold `size` bytes inside this block."""
        if size > self._total:
            raise UserError(
                f"preparing it takes about {human(size + RUN_BYTES)} of memory, {human(self._limit)} are allowed",
                "raise --max-ram, or crop the image",
                case,
            )
        with self._changed:
            while self._free < size:
                self._changed.wait(1)
                stop.check()
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
