"""A slice with outlines as one SVG: the gray values as a small WebP inside it, truth in white, predictions in their colours."""

import io
from base64 import b64encode
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from autounet.report.looks import Plane, Targets, any_of
from autounet.report.outlines import outline

LONGEST = 360  # pixels of an edge of the picture that is kept
QUALITY = 78
COLOURS = 8  # of targets on pictures; the ninth looks as the first


def draw(plane: Plane, targets: Targets, *, title: str) -> Markup:
    """The whole picture. With a prediction the truth is white and the prediction coloured, else the truth is coloured."""
    step = max(1, -(-max(plane.gray_cyx.shape[1:]) // LONGEST))
    height, width = (-(-size // step) for size in plane.gray_cyx.shape[1:])
    mm_y, mm_x = plane.spacing_yx_mm
    tall = height * mm_y / mm_x
    lines = []
    for index, (name, values) in enumerate(targets):
        colour = f"k{index % COLOURS + 1}"
        for mask_yx, kind in ((plane.truth_yx, "truth"), (plane.predicted_yx, "mask")):
            if mask_yx is None:
                continue
            path = outline(any_of(mask_yx[::step, ::step], values))
            if path:
                style = f"{kind} {colour}" if kind == "mask" or plane.predicted_yx is None else kind
                lines.append((kind == "mask", f'<path class="{style}" d="{path}"><title>{escape(name)}</title></path>'))
    scale = f'transform="scale(.5 {tall / height / 2:.5g})"'
    drawn = "".join(line for _, line in sorted(lines, key=lambda entry: entry[0]))  # predictions on top
    return Markup(
        f'<svg class="slice" viewBox="0 0 {width} {tall:.5g}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
        f'<image href="{data_uri(shrunk(plane.gray_cyx, step))}" width="{width}" height="{tall:.5g}" preserveAspectRatio="none"/>'
        f"<g {scale}>{drawn}</g></svg>"
    )


def shrunk(gray_cyx: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Means of blocks of step x step; what is left over at the end is a smaller block."""
    if step == 1:
        return gray_cyx
    sums: NDArray[Any] = gray_cyx.astype(np.float32)
    for axis in (1, 2):
        starts = np.arange(0, gray_cyx.shape[axis], step)
        counts = np.diff([*starts, gray_cyx.shape[axis]])
        shape = [1, 1, 1]
        shape[axis] = len(counts)
        sums = np.add.reduceat(sums, starts, axis) / counts.reshape(shape)
    return sums.astype(np.uint8)


def data_uri(gray_cyx: NDArray[np.uint8]) -> str:
    """The picture inside the page: WebP, or JPEG where Pillow was built without it."""
    from PIL import Image, features

    pixels = gray_cyx[0] if len(gray_cyx) == 1 else np.moveaxis(gray_cyx, 0, -1)
    kind = "webp" if features.check("webp") else "jpeg"
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
