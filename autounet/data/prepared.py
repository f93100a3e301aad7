"""A prepared case on disk: compressed chunks that can be read box by box, each with its checksum."""

import threading
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from errno import EIO, ENOSPC
from json import dumps
from math import prod
from os import strerror
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
from autounet.store.strict import read_value
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Plan
from planners.strict_json import to_plain

SCHEMA = 1
DAMAGED = "damaged"  # put into an entry by whoever finds it so; the next prepare makes it anew
IMAGE, LABEL, LOCATIONS, RECORD = "image.b2nd", "label.b2nd", "locations.npy", "case.json"
CHUNK_VOXELS = 3 * 2**19  # 6 MiB of float32: what is checked, and lost, together
SLAB_VOXELS = 2**24  # a row of chunks is made at once: 64 MiB of float32
THIN, FLAT = 8, 32
THREADED_VOXELS = 2**21
BLOCK_VOXELS = 2**15  # what is unpacked together: 128 KiB of float32 stay in a core's cache
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """What the arrays of a prepared case are."""

    schema: int = SCHEMA
    frame: Frame
    channels: int
    image_checks: tuple[int, ...]  # CRC-32 of each compressed chunk
    label_checks: tuple[int, ...] | None


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
        self._record = read_value(folder / RECORD, CaseRecord)
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
        return self._record.label_checks is not None

    @property
    def locations(self) -> Locations:
        """Where each class is."""
        if self._locations is None:
            self._locations = read_locations(self.folder / LOCATIONS, self.shape_zyx)
        return self._locations

    def read(self, box_zyx: Box) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """The image (c, z, y, x) and the label (z, y, x) in a box, from the chunks it touches."""
        image = self._read(IMAGE, self._record.image_checks, (slice(0, self.channels), *box_zyx))
        if self._record.label_checks is None:
            return image, None
        return image, self._read(LABEL, self._record.label_checks, box_zyx)

    def read_all(self) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """All of it."""
        z, y, x = (slice(0, size) for size in self.shape_zyx)
        return self.read((z, y, x))

    def verify(self) -> None:
        """Read and check every chunk; a damaged one is a UserError."""
        for name, checks in ((IMAGE, self._record.image_checks), (LABEL, self._record.label_checks or ())):
            for chunk in range(len(checks)):
                self._check(name, checks, chunk)

    def _read(self, name: str, checks: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[Any]:
        array = self._array(name)
        for chunk in _chunks_touched(array.shape, array.chunks, box):
            if (name, chunk) not in self._checked:
                self._check(name, checks, chunk)
        try:
            voxels: NDArray[Any] = array[box]
        except RuntimeError as error:
            raise self._damage(f"{self.folder / name} cannot be unpacked") from error
        return voxels

    def _array(self, name: str) -> Any:
        import blosc2

        opened = getattr(self._own, name, None)
        if opened is None:
            try:
                opened = blosc2.open(str(self.folder / name), mode="r", mmap_mode="r", dparams={"nthreads": 1})
            except (RuntimeError, ValueError) as error:  # the damage is in the frame around the chunks
                raise self._damage(f"{self.folder / name} cannot be opened as it was written") from error
            if opened.shape != ((self.channels, *self.shape_zyx) if name == IMAGE else self.shape_zyx):
                raise self._damage(f"{self.folder / name} has lost its shape")
            setattr(self._own, name, opened)
        return opened

    def _check(self, name: str, checks: tuple[int, ...], chunk: int) -> None:
        """Compare a chunk's checksum once in the life of this object: what was sound when read stays in memory's care."""
        try:
            sound = crc32(self._array(name).schunk.get_chunk(chunk)) == checks[chunk]
        except (RuntimeError, ValueError, IndexError):
            sound = False
        if not sound:
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
    label_checks = None
    if case.labelled:
        label = _create(folder / LABEL, shape, chunks, case.label_dtype)
        runs = _write_label(label, case, chunks[0], pool, threads)
        label_checks = _checks(label)
        write_locations(folder / LOCATIONS, locate(runs, shape, case.ignore_index, rng))
    record = CaseRecord(frame=case.frame, channels=case.channels, image_checks=_checks(image), label_checks=label_checks)
    (folder / RECORD).write_text(dumps(to_plain(record)))  # the cache syncs the folder as a whole


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


def write_locations(path: Path, locations: Locations) -> None:
    """Two plain arrays, one behind the other, in one file."""
    with path.open("wb") as file:
        np.save(file, locations.table, allow_pickle=False)
        np.save(file, locations.voxels, allow_pickle=False)


def read_locations(path: Path, shape_zyx: Triple) -> Locations:
    """What `write_locations` wrote."""
    with path.open("rb") as file:
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
        full = free_bytes(Path(array.urlpath).parent) < slab.nbytes
        number = ENOSPC if full else EIO
        raise OSError(number, strerror(number), array.urlpath) from error


def _checks(array: Any) -> tuple[int, ...]:
    return tuple(crc32(array.schunk.get_chunk(chunk)) for chunk in range(array.schunk.nchunks))


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
