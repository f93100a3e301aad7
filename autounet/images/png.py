"""What Pillow does not look at in a PNG: the checksums of its pixels, and how many bits they really have."""

import struct
import zlib

from autounet.images.source import Source

_SIGNATURE = 8
_GRAY, _PALETTE = 0, 3


def gray_step(source: Source, start: bytes) -> int:
    """By what Pillow multiplies gray values of few bits; labels need the values as stored."""
    if len(start) < 33 or start[12:16] != b"IHDR":
        raise source.refuse("has no PNG header", "open and save the picture again")
    bits, colour = start[24], start[25]
    if bits == 16 and colour != _GRAY:
        raise source.refuse("has colours of 16 bits, which would lose their lower half", "save each channel as one 16-bit gray PNG")
    return {2: 85, 4: 17}.get(bits, 1) if colour == _GRAY else 1


def check_chunks(source: Source) -> None:
    """Walk the chunks and compare their checksums."""
    position = _SIGNATURE
    while True:
        source.file.seek(position)
        head = source.file.read(8) or b""
        if len(head) < 8:
            raise source.refuse("ends before its last chunk, so it was cut", "copy the file again from where it came from")
        length, kind = struct.unpack(">I4s", head)
        if position + 12 + length > source.size:
            raise source.refuse(f"holds {source.size:,} of {position + 12 + length:,} bytes", "copy the file again, it was cut")
        found, left = zlib.crc32(kind), length
        while left and (block := source.file.read(min(left, 1 << 20))):
            found, left = zlib.crc32(block, found), left - len(block)
        if found != int.from_bytes(source.file.read(4) or b"", "big"):
            raise source.refuse(f"is damaged: the checksum of its {kind.decode('latin1')!r} chunk is wrong", "copy the file again")
        position += 12 + length
        if kind == b"IEND":
            return
