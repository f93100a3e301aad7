"""What the tags of a TIFF say that Pillow would pass over: bits it would drop, and pages that are channels or times, not slices."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from autounet.images.source import Source

_BITS, _SAMPLE_FORMAT, _DESCRIPTION = 258, 339, 270
_SIGNED = 2


@dataclass(frozen=True, slots=True)
class Pages:
    """How the pages of a file are ordered: channels vary fastest, as ImageJ has it."""

    channels: int
    slices: int


def check_bits(source: Source, picture: Any, channels: int) -> None:
    """Refuse numbers that Pillow would shorten to eight bits or take for unsigned."""
    bits = max(np.atleast_1d(picture.tag_v2.get(_BITS, 1)).tolist())
    formats = np.atleast_1d(picture.tag_v2.get(_SAMPLE_FORMAT, 1)).tolist()
    signed = _SIGNED in formats and picture.mode in ("L", "I;16", "I;16B", "RGB")
    if (bits > 8 and channels == 3) or signed:
        kind = "signed " if signed else ""
        raise source.refuse(
            f"has {channels} channels of {kind}{bits} bits", "save each channel as one gray TIFF of unsigned 16 bits, or as .nii.gz"
        )


def pages(source: Source, picture: Any, count: int) -> Pages:
    """The order of the pages by what ImageJ or OME wrote into the first; without them every page is a slice."""
    text = str(picture.tag_v2.get(_DESCRIPTION, ""))[:100_000]
    if text.startswith("ImageJ="):
        said = {key: int(value) for key, value in re.findall(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", text, re.MULTILINE)}
    elif "<OME" in text and (found := re.search(r"<Pixels\b[^>]*>", text)):
        sizes = {key: int(value) for key, value in re.findall(r'\bSize([CZT])="(\d{1,9})"', found.group())}
        order = re.search(r'DimensionOrder="([A-Z]{5})"', found.group())
        said = {"channels": sizes.get("C", 1), "slices": sizes.get("Z", 1), "frames": sizes.get("T", 1)}
        if said["channels"] > 1 and said["slices"] > 1 and (order is None or not order.group(1).startswith("XYC")):
            raise source.refuse("lists its channels behind its slices (OME-TIFF)", "save each channel as one TIFF")
    else:
        return Pages(1, count)
    channels, frames = said.get("channels", 1), said.get("frames", 1)
    if frames > 1:
        raise source.refuse(f"holds {frames} points in time", "save each of them as one file")
    declared = said.get("images", channels * said.get("slices", 1))
    if channels < 1 or declared != count or count % channels:
        raise source.refuse(f"holds {count} of the {declared} pages its description lists", "save it again as a plain TIFF stack")
    return Pages(channels, count // channels)
