"""Streams that are read to their very end: checksums compared, and not one byte too many or too few.

Other readers take half a file for a whole one and fill the rest with zeros; then the last organs are
silently missing. Here a stream that ends early, goes on, or fails its checksum is an error.
"""

import io
from collections.abc import Iterator
from typing import Any, Protocol, cast

from isal import isal_zlib

from autounet.images.source import Source
from planners.errors import UserError

OUTPUT = 1 << 20  # bytes inflated at a time
INPUT = 1 << 18  # compressed bytes read at a time
GZIP_MAGIC = b"\x1f\x8b"
LEVEL = 2  # masks: as small as zlib's 1 at a hundred times its speed
DEEPEST_RATIO = 1032  # no deflate stream holds more per byte


class Stream(Protocol):
    """Bytes from a file, as they are or inflated."""

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the stream goes; how many bytes that were."""

    def extra(self) -> int:
        """Read on to the end; how many bytes there were (counting stops somewhere)."""


class Plain:
    """The bytes of a file as they are, from an offset on, to its end or as many as asked."""

    def __init__(self, source: Source, offset: int = 0, length: int | None = None) -> None:
        self._source = source
        self._end = source.size if length is None else offset + length
        source.file.seek(offset)

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the file goes."""
        filled = 0
        while filled < len(view):
            count = self._source.file.readinto(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def extra(self) -> int:
        """How many bytes are left."""
        return self._end - self._source.file.tell()


class Window:
    """The next so many bytes of a stream; what comes behind them is not its business."""

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream, self._left = stream, length

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the window goes."""
        count = self._stream.readinto(view[: self._left])
        self._left -= count
        return count

    def extra(self) -> int:
        """How many bytes are left."""
        return self._left


def skip(stream: Stream, count: int) -> int:
    """Read and forget so many bytes; how many there were."""
    scratch, done = bytearray(min(count, OUTPUT)), 0
    while done < count:
        got = stream.readinto(memoryview(scratch)[: count - done])
        if not got:
            break
        done += got
    return done


class Inflated:
    """The inflated bytes of one gzip file (of any number of members) or one zlib stream, from an offset on."""

    def __init__(self, source: Source, *, wbits: int = 31, offset: int = 0, read_bytes: int = INPUT) -> None:
        self._source, self._wbits, self._read_bytes = source, wbits, read_bytes
        self._input: io.FileIO = source.file
        self._input.seek(offset)
        self._member = _decompressor(wbits)
        self._pending = b""

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the stream goes."""
        filled = 0
        while filled < len(view):
            block = self._next(min(OUTPUT, len(view) - filled))
            if not block:
                break
            view[filled : filled + len(block)] = block
            filled += len(block)
        return filled

    def extra(self) -> int:
        """How many bytes are left."""
        count = 0
        while count <= OUTPUT and (block := self._next(OUTPUT)):
            count += len(block)
        return count

    def _next(self, limit: int) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = self._pending or self._input.read(self._read_bytes) or b""
            try:
                block = cast(bytes, self._member.decompress(data, limit))
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub says it is no class
                raise self._damaged(str(error)) from None
            self._pending = self._member.unconsumed_tail
            if block:
                return block
            if not data and not self._member.eof:
                raise self._damaged("the file ends in the middle of its compressed data, so it was cut")

    def _next_member(self) -> bool:
        rest: bytes = self._member.unused_data
        rest += self._input.read(INPUT) or b"" if len(rest) < len(GZIP_MAGIC) else b""
        if not rest:
            return False
        if self._wbits != 31 or not rest.startswith(GZIP_MAGIC):
            count = len(rest) + self._source.size - self._input.tell()
            raise self._source.refuse(f"has {count:,} extra bytes behind its compressed data", "copy or export the file again")
        self._member, self._pending = _decompressor(self._wbits), rest
        return True

    def _damaged(self, how: str) -> UserError:
        return self._source.refuse(f"is damaged: {how.removeprefix('Error ')}", "copy the file again from where it came from")


def deflated(blocks: Iterator[memoryview | bytes], *, gzip: bool = True) -> Iterator[bytes]:
    """The blocks as one gzip (or zlib) stream; equal input gives equal bytes, so no time or name is in it."""
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 31 if gzip else 15)
    for block in blocks:
        view = memoryview(block).cast("B")
        for start in range(0, len(view), OUTPUT):
            if piece := compressor.compress(view[start : start + OUTPUT]):
                yield piece
    yield compressor.flush()


def _decompressor(wbits: int) -> Any:
    return isal_zlib.decompressobj(wbits=wbits)
