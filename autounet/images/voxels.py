"""Voxels from streams: read straight into their array, in native byte order, scaled, finite."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.image import ReadOptions
from autounet.images.inflate import Stream
from autounet.images.source import Named
from planners.errors import UserError

MAX_VOXELS = 2**31  # a header that declares more is refused, unless the user sets a budget of bytes
MOST_VOXELS = 2**40
BLOCK = 1 << 18  # voxels that stay in the processor's cache
_PADDINGS = (-2000, -2048, -3024, -9999, -10000, -32768)  # values that scanners paint outside their field of view


def check_possible(source: Named, shape: tuple[int, ...], dtype: np.dtype[Any], options: ReadOptions) -> int:
    """The bytes of an array, if any scanner or microscope makes so many voxels."""
    count = prod(shape)
    if count > (MAX_VOXELS if options.max_bytes is None else MOST_VOXELS):
        raise _too_large(source, shape, count * dtype.itemsize, f"at most {MAX_VOXELS:,} voxels are read")
    return count * dtype.itemsize


def check_budget(source: Named, shape: tuple[int, ...], dtype: np.dtype[Any], options: ReadOptions) -> int:
    """The bytes of an array, if that many are allowed."""
    needed = check_possible(source, shape, dtype, options)
    allowed = _allowed_bytes(options)
    if needed > allowed:
        raise _too_large(source, shape, needed, f"{_size(allowed)} are allowed")
    return needed


def _too_large(source: Named, shape: tuple[int, ...], needed: int, limit: str) -> UserError:
    sizes = " x ".join(str(size) for size in shape[::-1])
    return source.refuse(f"declares {sizes} voxels, {_size(needed)}; {limit}", "check the header, crop the image, or raise --max-ram")


def read_array(source: Named, stream: Stream, shape: tuple[int, ...], stored: np.dtype[Any], *, before: int = 0) -> NDArray[Any]:
    """An array of the shape from the stream, which must hold it to the byte; `before` bytes of the file's total were read already."""
    array = np.empty(shape, stored)
    wanted = array.nbytes
    if (got := stream.readinto(memoryview(array.reshape(-1).view(np.uint8).data))) != wanted:
        raise source.refuse(
            f"holds {before + got:,} of {before + wanted:,} bytes that its header declares",
            "copy the file again, it was cut or its header is wrong",
        )
    if extra := stream.extra():
        more = "more than " if extra > BLOCK else ""
        raise source.refuse(
            f"holds more data than declared: {more}{extra:,} extra bytes behind {' x '.join(map(str, shape[::-1]))} voxels",
            "copy or export the file again, its header does not fit its voxels",
        )
    return native(array)


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in this machine's byte order, swapped in place."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def decoded_dtype(stored: np.dtype[Any], *, scaled: bool) -> np.dtype[Any]:
    """What `read_image` gives: integers as stored, everything else float32."""
    return stored.newbyteorder("=") if stored.kind in "iu" and not scaled else np.dtype(np.float32)


def scaled(source: Named, array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """The voxels as the file means them: integers as they are, or float32 after slope and intercept."""
    if (slope, intercept) == (1.0, 0.0):
        if array.dtype.kind in "iu" or array.dtype == np.float32:
            return array
        slope = 1.0
    out = np.empty(array.shape, np.float32)
    flat_in, flat_out = array.reshape(-1), out.reshape(-1)
    for start in range(0, flat_in.size, BLOCK):
        block = flat_in[start : start + BLOCK].astype(np.float64)
        if (slope, intercept) != (1.0, 0.0):
            block *= slope
            block += intercept
        with np.errstate(over="ignore"):
            flat_out[start : start + BLOCK] = block
        if not np.isfinite(flat_out[start : start + BLOCK]).all() and (np.abs(block[np.isfinite(block)]) > np.finfo(np.float32).max).any():
            value = block[np.isfinite(block)][np.abs(block[np.isfinite(block)]).argmax()]
            raise source.refuse(f"holds the value {value:.6g}, which single precision cannot", "rescale the intensities of the image")
    return out


def made_finite(source: Named, voxels_czyx: NDArray[Any], options: ReadOptions) -> tuple[str, ...]:
    """Notes about the values. NaN and infinity are refused, or replaced in place if the user said by what."""
    low, high, finite = _extremes(voxels_czyx)
    if not finite:
        notes = _filled(source, voxels_czyx, options)
        low, high, _ = _extremes(voxels_czyx)
        return (*notes, *_value_notes(voxels_czyx, low, high))
    return _value_notes(voxels_czyx, low, high)


def _filled(source: Named, voxels_czyx: NDArray[Any], options: ReadOptions) -> tuple[str, ...]:
    count, first = 0, -1
    flat = voxels_czyx.reshape(-1)
    for start, block in _blocks(flat):
        if bad := int((odd := ~np.isfinite(block)).sum()):
            first = start + int(odd.argmax()) if first < 0 else first
            count += bad
            if options.fill_nonfinite is not None:
                block[odd] = options.fill_nonfinite
    _, z, y, x = (int(i) for i in np.unravel_index(first, voxels_czyx.shape))
    if options.fill_nonfinite is None:
        value = flat[first]
        raise source.refuse(
            f"holds {count:,} voxels that are NaN or infinite, the first is {value} at x={x}, y={y}, z={z}",
            "repair the image, or set fill_nonfinite = 0.0 under [dataset] in autounet.toml to replace them",
        )
    return (f"{count:,} voxels that were NaN or infinite became {options.fill_nonfinite:g}",)


def _extremes(voxels: NDArray[Any]) -> tuple[float, float, bool]:
    lows, highs = [], []
    for _, block in _blocks(voxels.reshape(-1)):
        lows.append(block.min())
        highs.append(block.max())
    low, high = float(min(lows)), float(max(highs))
    finite = voxels.dtype.kind != "f" or bool(np.isfinite(lows).all() and np.isfinite(highs).all())
    return low, high, finite


def _value_notes(voxels: NDArray[Any], low: float, high: float) -> tuple[str, ...]:
    if low == high:
        return (f"every voxel is {low:g}",)
    if low in _PADDINGS:
        return (f"the lowest value {low:g} looks like padding outside the scanner's field of view",)
    return ()


def _blocks(flat: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, flat.size, BLOCK):
        yield start, flat[start : start + BLOCK]


def smallest_unsigned(source_name: str, highest: int, lowest: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds every value of a mask."""
    if lowest < 0:
        raise UserError(f"{source_name} would hold the negative value {lowest}", "write masks with values of 0 and above")
    return np.dtype(np.min_scalar_type(highest))


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _allowed_bytes(options: ReadOptions) -> int:
    if options.max_bytes is not None:
        return options.max_bytes
    from autounet.machine import memory_limit_bytes

    return memory_limit_bytes()
