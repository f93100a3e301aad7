"""A prepared case on disk: compressed chunks that can be read box by box, each with its checksum."""

import threading
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from errno import EFBIG, EIO, ENOSPC
from io import BytesIO
from json import dumps
from math import inf, prod
from os import SEEK_END, strerror
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.frame import Frame
from autounet.arrays.locations import Locations, Runs, joined, locate, runs_of
from autounet.arrays.prepare import CaseOnGrid
from autounet.store.cache import Cache
from autounet.store.disk import free_bytes
from autounet.store.files import publish_bytes
from autounet.store.strict import read_json, read_value, value_of
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Plan
from planners.strict_json import to_plain

SCHEMA = 1
DAMAGED = "damaged"  # put into an entry by whoever finds it so; the next prepare makes it anew
IMAGE, LABEL, LOCATIONS, RECORD = "image.b2nd", "label.b2nd", "locations.npy", "case.json"
HEAD_BYTES = 1024  # more than the header has
CHUNK_VOXELS = 3 * 2**19  # 6 MiB of float32: what is checked, and lost, together
SLAB_VOXELS = 2**24  # a row of chunks is made at once: 64 MiB of float32
THIN, FLAT = 8, 32
THREADED_VOXELS = 2**21
BLOCK_VOXELS = 2**15  # what is unpacked together: 128 KiB of float32 stay in a core's cache
Box = tuple[slice, slice, slice]
NOWHERE = Locations((0, 0, 0), np.empty(0, np.uint32), np.empty((0, 4), np.int64))  # of a case without a label


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChecks:
    """CRC-32 of each compressed chunk, and of what lies before and behind the chunks: a damaged frame can crash its reader."""

    chunks: tuple[int, ...]
    head: int
    tail_bytes: int
    tail: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """What the arrays of a prepared case are."""

    schema: int = SCHEMA
    frame: Frame
    channels: int
    image: FileChecks
    label: FileChecks | None
    locations: int | None  # CRC-32 of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTable:
    """Which cache entry holds which case of one configuration."""

    schema: int = SCHEMA
    configuration: str
    plan_key: str  # of the part of the plan that the entries depend on
    cache: str  # the cache's folder; empty: the one this table lies in
    cases: tuple[tuple[str, str], ...]  # (case, key of its entry)


class DamageError(UserError):
    """A chunk whose bytes are not the ones that were written."""


class PreparedCase:
    """One case of the cache. Any number of threads may read it at once."""

    def __init__(self, case: str, folder: Path) -> None:
        self.id, self.folder = case, folder
        self._record = self._read_record()
        self._own = threading.local()  # a handle has one decompression context, so every thread has its own
        self._checked: set[tuple[str, int]] = set()
        self._locations: Locations | None = None

    def __reduce__(self) -> tuple[type["PreparedCase"], tuple[str, Path]]:
        return PreparedCase, (self.id, self.folder)

    @property
    def frame(self) -> Frame:
        """How the stored volume became this one."""
        return self._record.frame

    @property
    def shape_zyx(self) -> Triple:
        """Voxels on the network grid."""
        return self._record.frame.shape_zyx

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self._record.channels

    @property
    def labelled(self) -> bool:
        """Whether the case has a label."""
        return self._record.label is not None

    @property
    def locations(self) -> Locations:
        """Where each class is."""
        if self._locations is None:
            if self._record.locations is None:
                return NOWHERE
            data = (self.folder / LOCATIONS).read_bytes()
            if crc32(data) != self._record.locations:
                raise self._damage(f"{self.folder / LOCATIONS} is not what was written")
            self._locations = unpacked_locations(data, self.shape_zyx)
        return self._locations

    def read(self, box_zyx: Box) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """The image (c, z, y, x) and the label (z, y, x) in a box, from the chunks it touches."""
        image = self._read(IMAGE, self._record.image, (slice(0, self.channels), *box_zyx))
        if self._record.label is None:
            return image, None
        return image, self._read(LABEL, self._record.label, box_zyx)

    def read_all(self) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """All of it."""
        z, y, x = (slice(0, size) for size in self.shape_zyx)
        return self.read((z, y, x))

    def verify(self) -> None:
        """Read and check every chunk and all beside them; damage is a UserError."""
        assert self.locations is not None
        for name, checks in ((IMAGE, self._record.image), (LABEL, self._record.label)):
            if checks is not None:
                for chunk in range(len(checks.chunks)):
                    self._check(name, checks, chunk)

    def _read_record(self) -> CaseRecord:
        try:
            plain = read_json(self.folder / RECORD)
        except UserError:
            plain = None
        if not isinstance(plain, dict) or plain.get("check") != crc32(dumps(plain.get("record")).encode()):
            raise self._damage(f"{self.folder / RECORD} is not what was written")
        return value_of(plain["record"], CaseRecord, str(self.folder / RECORD))

    def _read(self, name: str, checks: FileChecks, box: tuple[slice, ...]) -> NDArray[Any]:
        array = self._array(name, checks)
        for chunk in _chunks_touched(array.shape, array.chunks, box):
            if (name, chunk) not in self._checked:
                self._check(name, checks, chunk)
        try:
            voxels: NDArray[Any] = array[box]
        except RuntimeError as error:  # sound when it was checked, and overwritten since
            raise self._damage(f"{self.folder / name} is no longer what was written") from error
        return voxels

    def _array(self, name: str, checks: FileChecks) -> Any:
        import blosc2

        opened = getattr(self._own, name, None)
        if opened is None:
            if _frame_checks(self.folder / name, checks.tail_bytes) != (checks.head, checks.tail):
                raise self._damage(f"the frame of {self.folder / name} is not what was written")
            opened = blosc2.open(str(self.folder / name), mode="r", mmap_mode="r", dparams={"nthreads": 1})
            setattr(self._own, name, opened)
        return opened

    def _check(self, name: str, checks: FileChecks, chunk: int) -> None:
        """Compare a chunk's checksum once in the life of this object: what was sound when read stays in memory's care."""
        try:
            found = crc32(self._array(name, checks).schunk.get_chunk(chunk))
        except RuntimeError:  # its own header is damaged
            found = -1
        if found != checks.chunks[chunk]:
            raise self._damage(f"chunk {chunk} of {self.folder / name} is not what was written")
        self._checked.add((name, chunk))

    def _damage(self, problem: str) -> DamageError:
        with suppress(OSError, UserError):  # a cache that cannot be written is checked with --verify by somebody who can
            publish_bytes(self.folder / DAMAGED, problem.encode())
        return DamageError(problem, "run the command again, or `autounet prepare`: the case is made anew", self.id)


def open_prepared(work: Path, plan: Plan, configuration_name: str, case_ids: Iterable[str] | None = None) -> dict[str, PreparedCase]:
    """The prepared cases of a configuration, in the order asked for; all when nobody asks for some."""
    from autounet.data.prepared_key import plan_key

    configuration = plan.configuration(configuration_name)
    path = table_path(work, configuration_name)
    if not path.is_file():
        raise UserError(f"nothing is prepared for {configuration_name}", "run `autounet prepare` first")
    table = read_value(path, PreparedTable)
    if table.plan_key != plan_key(plan, configuration):
        raise UserError(f"what is prepared for {configuration_name} was made with another plan", "run `autounet prepare` again")
    cache, keys = Cache(Path(table.cache) if table.cache else path.parent), dict(table.cases)
    opened = {}
    for case in keys if case_ids is None else case_ids:
        folder = cache.get(keys[case]) if case in keys else None
        if folder is None:
            raise UserError(
                f"{configuration_name} has no prepared data of this case", "run `autounet prepare`, and look at what it reports", case
            )
        opened[case] = PreparedCase(case, folder)
    return opened


def table_path(work: Path, configuration_name: str) -> Path:
    """Where the stage notes which entry holds which case."""
    return work / "cache" / f"{configuration_name}.json"


def write_prepared(folder: Path, case: CaseOnGrid, grain_zyx: Triple, rng: np.random.Generator, *, pool: Executor, threads: int) -> None:
    """Resample a case slab by slab into the chunks of a fresh folder."""
    shape = case.frame.shape_zyx
    chunks = chunk_shape(shape, grain_zyx)
    image = _create(folder / IMAGE, (case.channels, *shape), (1, *chunks), np.float32)
    for channel in range(case.channels):
        stream = case.image_stream(channel, pool, threads)
        rows = _whole_chunks(stream.comfortable_rows, chunks[0])
        slab = np.empty((min(rows, shape[0]), *shape[1:]), np.float32)
        for start in range(0, shape[0], rows):
            stop = min(start + rows, shape[0])
            stream.rows(start, stop, slab[: stop - start])
            _put(image, (channel, slice(start, stop)), slab[: stop - start])
        del stream, slab
    label_checks, locations = None, None
    if case.labelled:
        label = _create(folder / LABEL, shape, chunks, case.label_dtype)
        runs = _write_label(label, case, chunks[0], pool, threads)
        label_checks = _checks(label, folder / LABEL)
        packed = packed_locations(locate(runs, shape, case.ignore_index, rng))
        locations = crc32(packed)
        (folder / LOCATIONS).write_bytes(packed)  # the cache syncs the folder as a whole
    record = to_plain(
        CaseRecord(frame=case.frame, channels=case.channels, image=_checks(image, folder / IMAGE), label=label_checks, locations=locations)
    )
    (folder / RECORD).write_text(dumps({"check": crc32(dumps(record).encode()), "record": record}))


def _write_label(label: Any, case: CaseOnGrid, chunk_rows: int, pool: Executor, threads: int) -> Runs:
    shape, parts = case.frame.shape_zyx, []
    rows = _whole_chunks(64, chunk_rows)
    stream = case.label_stream(pool, threads)
    slab = np.empty((min(rows, shape[0]), *shape[1:]), case.label_dtype)
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        stream.rows(start, stop, slab[: stop - start])
        _put(label, (slice(start, stop),), slab[: stop - start])
        parts.append(runs_of(slab[: stop - start], start))
    return joined(parts)


def chunk_shape(shape_zyx: Triple, grain_zyx: Triple) -> Triple:
    """The grain or up to twice as much, in equal parts: a last chunk of mostly padding is packed and read like a full one."""
    parts = [max(1, size // grain) for size, grain in zip(shape_zyx, grain_zyx, strict=True)]
    while True:
        z, y, x = (-(-size // part) for size, part in zip(shape_zyx, parts, strict=True))
        if z * shape_zyx[1] * shape_zyx[2] > SLAB_VOXELS and z > THIN:
            parts[0] += 1
        elif z * y * x > CHUNK_VOXELS:
            # Flat chunks are read for one slice of them; but until there, thin slabs are the better way to be small.
            parts[0 if z > FLAT else (z, y, x).index(max(z, y, x))] += 1
        else:
            return z, y, x


def grain_of(patch_zyx: Triple) -> Triple:
    """Powers of two up to the patch: plans whose patches differ a little share their chunks."""
    z, y, x = (1 << (int(edge).bit_length() - 1) for edge in patch_zyx)
    return z, y, x


def packed_locations(locations: Locations) -> bytes:
    """Two plain arrays, one behind the other."""
    file = BytesIO()
    np.save(file, locations.table, allow_pickle=False)
    np.save(file, locations.voxels, allow_pickle=False)
    return file.getvalue()


def unpacked_locations(data: bytes, shape_zyx: Triple) -> Locations:
    """What `packed_locations` packed."""
    file = BytesIO(data)
    table = np.load(file, allow_pickle=False)
    return Locations(shape_zyx, np.load(file, allow_pickle=False), table)


def _create(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> Any:
    import blosc2

    # Packing holds the interpreter's lock, so it brings threads of its own. Their number is written into the
    # file; it depends on the size alone, and equal cases give equal bytes on any machine.
    threads = 4 if prod(shape) > THREADED_VOXELS else 1

    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": threads}
    return blosc2.empty(
        shape,
        dtype=np.dtype(dtype),
        urlpath=str(path),
        mode="w",
        contiguous=True,
        chunks=chunks,
        blocks=_halved(chunks, BLOCK_VOXELS),
        cparams=cparams,
    )


def _put(array: Any, where: tuple[int | slice, ...], slab: NDArray[Any]) -> None:
    try:
        array[where] = slab
    except RuntimeError as error:  # all that blosc2 says of a disk that takes no more
        number = _refusal(Path(array.urlpath), slab.nbytes)
        raise OSError(number, strerror(number), array.urlpath) from error


def _refusal(path: Path, size: int) -> int:
    """Why so many bytes could not be added to a file: the disk is asked, for the library does not say."""
    if path.stat().st_size + size > _largest_file():
        return EFBIG
    if free_bytes(path.parent) < size:
        return ENOSPC
    probe = path.with_name("probe")
    try:
        publish_bytes(probe, bytes(min(size, 2**22)))
        probe.unlink()
    except UserError as error:
        return error.__cause__.errno or EIO if isinstance(error.__cause__, OSError) else EIO
    return EIO


def _largest_file() -> float:
    """Bytes that a file of this process may have."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit
    except ImportError:  # not on every system
        return inf
    limit = getrlimit(RLIMIT_FSIZE)[0]
    return inf if limit == RLIM_INFINITY else limit


def _checks(array: Any, path: Path) -> FileChecks:
    chunks = tuple(crc32(array.schunk.get_chunk(chunk)) for chunk in range(array.schunk.nchunks))
    tail_bytes = max(0, path.stat().st_size - int(array.schunk.cbytes))  # the index and the trailer, and as many bytes as the head has
    head, tail = _frame_checks(path, tail_bytes)
    return FileChecks(chunks=chunks, head=head, tail_bytes=tail_bytes, tail=tail)


def _frame_checks(path: Path, tail_bytes: int) -> tuple[int, int]:
    """CRC-32 of a file's first and last bytes."""
    with path.open("rb") as file:
        head = crc32(file.read(HEAD_BYTES))
        file.seek(-min(tail_bytes, path.stat().st_size), SEEK_END)
        return head, crc32(file.read())


def _halved(shape: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    edges = list(shape)
    while prod(edges) > voxels:
        longest = edges.index(max(edges))
        edges[longest] = -(-edges[longest] // 2)
    return tuple(edges)


def _whole_chunks(rows: int, chunk_rows: int) -> int:
    return max(1, rows // chunk_rows) * chunk_rows


def _chunks_touched(shape: tuple[int, ...], chunks: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[np.intp]:
    """Numbers of the chunks that a box (starts and stops, no steps) touches, in C order of the chunk grid."""
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    ranges = []
    for part, size, chunk in zip(box, shape, chunks, strict=True):
        start, stop, _ = part.indices(size)
        ranges.append(np.arange(start // chunk, -(-stop // chunk)) if stop > start else np.arange(0))
    touched: NDArray[np.intp] = np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), counts).ravel()
    return touched
