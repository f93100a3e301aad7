"""The file object that writers are handed: it writes all it is given, and hashes it on the way."""

import errno
import io
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from autounet.store import calls
from autounet.store.digest import CHUNK, Digest, digest_file, holds
from autounet.store.disk import explained

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Sink(io.BufferedIOBase):
    """A file open for writing that writes all it is given, and hashes it on the way."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.size = 0
        self._descriptor, self._path = descriptor, path
        self._position = 0  # of the next write, the pending bytes included
        self._pending = bytearray()
        self._hash, self._crc, self._straight = sha256(), 0, True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes; the file is then hashed when it is read back."""
        return True

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._position

    def write(self, data: "ReadableBuffer", /) -> int:
        """Take all of it."""
        view = memoryview(data)
        if not view.nbytes:
            return 0
        view = view.cast("B")
        if self._straight:
            self._hash.update(view)
            self._crc = crc32(view, self._crc)
        self._position += view.nbytes
        self.size = max(self.size, self._position)
        if len(self._pending) + view.nbytes <= CHUNK:
            self._pending += view
        else:
            self.flush()
            self._put(view)
        return view.nbytes

    def flush(self) -> None:
        """Hand everything to the system."""
        pending, self._pending = self._pending, bytearray()
        if pending:
            self._put(memoryview(pending))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go on elsewhere."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset != self._position:
            self.flush()
            self._straight = False  # what the disk holds is hashed when it is read back
            self._position = os.lseek(self._descriptor, base + offset, os.SEEK_SET)
        return self._position

    def close(self) -> None:
        """Nothing: `publish` closes the descriptor, also under a writer that thinks it owns the file."""

    def check(self, path: Path) -> Digest | None:
        """The digest of what was written, when the closed file at `path` holds just that; None when it does not."""
        if self._straight:
            return Digest(self.size, self._hash.hexdigest()) if holds(path, self.size, self._crc) else None
        digest = digest_file(path)  # written to and fro, so only the disk knows the whole
        return digest if digest.size == self.size else None

    def _put(self, view: memoryview) -> None:
        empty_writes = 0
        while view.nbytes:
            with explained(self._path, lambda: self.size):
                try:
                    count = calls.write(self._descriptor, view)
                except (InterruptedError, BlockingIOError):
                    count = 0
                empty_writes = 0 if count else empty_writes + 1
                if empty_writes > 100:
                    raise OSError(errno.EIO, "the disk takes no bytes")
                if not count:
                    time.sleep(0.001 * empty_writes)
            view = view[count:]
