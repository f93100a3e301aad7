"""Stored pixels of DICOM frames: exactly as many as declared, without the overlay bits above them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.dicom_files import pydicom, whole
from autounet.images.guarded import said
from autounet.images.source import Source, printable

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "")
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_LARGEST = 2**31


def stored_frames(source: Source, dataset: Any) -> NDArray[Any]:
    """The pixels of all frames of a gray image (frame, y, x), as stored: no rescaling, no inversion."""
    frames, rows, columns = whole(source, dataset, "NumberOfFrames", 1), whole(source, dataset, "Rows"), whole(source, dataset, "Columns")
    syntax = transfer_syntax(dataset)
    dtype = pixel_dtype(source, dataset, big_endian=syntax == _BIG_ENDIAN)
    wanted = frames * rows * columns * dtype.itemsize
    data = dataset.get("PixelData")
    if not isinstance(data, bytes) or not data:
        raise source.refuse("holds no pixels (PixelData)", "export the file again, or remove it")
    if wanted > _LARGEST:
        raise source.refuse(
            f"declares {frames} frames of {columns} x {rows} pixels, {wanted / 1e9:.2f} GB", "check Rows, Columns and NumberOfFrames"
        )
    if syntax in _NATIVE:
        if len(data) < wanted:
            raise source.refuse(f"holds {len(data):,} of {wanted:,} bytes of pixels", "copy the file again, it was cut")
        if len(data) > wanted + 1:  # one byte pads to an even length
            raise source.refuse(
                f"holds {len(data) - wanted:,} bytes of pixels more than its Rows and Columns declare", "export the file again"
            )
        pixels = np.frombuffer(data, dtype, frames * rows * columns).reshape(frames, rows, columns)
        pixels = pixels.astype(dtype.newbyteorder("="))
    else:
        pixels = decoded(source, dataset, syntax).reshape(-1, rows, columns)
        if len(pixels) != frames:
            raise source.refuse(f"holds {len(pixels)} of {frames} frames", "copy the file again, it was cut")
    return _without_overlays(source, dataset, pixels)


def pixel_dtype(source: Source, dataset: Any, *, big_endian: bool = False) -> np.dtype[Any]:
    """The number type of the stored pixels; colours are refused."""
    colours, samples = str(dataset.get("PhotometricInterpretation") or ""), whole(source, dataset, "SamplesPerPixel", 1)
    if samples != 1 or not colours.startswith("MONOCHROME"):
        raise source.refuse(
            f"holds colours ({printable(colours, 30)}, {samples} samples per pixel)", "save its gray values, or its frames as PNG pictures"
        )
    bits, signed = whole(source, dataset, "BitsAllocated"), whole(source, dataset, "PixelRepresentation")
    if bits not in (8, 16, 32):
        raise source.refuse(f"has pixels of {bits} bits (BitsAllocated)", "export the file again with 8, 16 or 32 bits")
    return np.dtype(f"{'i' if signed else 'u'}{bits // 8}").newbyteorder(">" if big_endian else "<")


def transfer_syntax(dataset: Any) -> str:
    """The UID of the transfer syntax; empty when the file has none."""
    return str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "") or "")


def decoded(source: Source, dataset: Any, syntax: str) -> NDArray[Any]:
    """The pixels of a compressed transfer syntax, by whatever decoder is installed."""
    library = pydicom()
    try:
        library.pixels.get_decoder(syntax)
        return np.asarray(library.pixels.pixel_array(dataset, raw=True))
    except Exception as error:  # decoders raise whatever the damage leads to
        name = library.uid.UID(syntax).name if syntax else "unknown"
        if isinstance(error, RuntimeError | NotImplementedError | ImportError):
            what = "cannot be decoded with what is installed"
            fix = "type: pip install pylibjpeg[all] python-gdcm, or export the series uncompressed"
        else:
            what, fix = f"is damaged ({said(error)})", "copy the file again from where it came from"
        raise source.refuse(f"has the transfer syntax {printable(name, 80)} ({printable(syntax, 64)}) and {what}", fix) from None


def _without_overlays(source: Source, dataset: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Old scanners hide graphics in the bits above the pixel's; shifted out, and the sign brought down again."""
    allocated, stored = 8 * pixels.dtype.itemsize, whole(source, dataset, "BitsStored")
    high = whole(source, dataset, "HighBit", stored - 1)
    if not 0 < stored < allocated or high != stored - 1:
        return pixels
    return (pixels << (allocated - stored)) >> (allocated - stored)
