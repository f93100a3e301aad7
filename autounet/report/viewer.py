"""The viewer of whole volumes: NiiVue and the volumes as scripts beside the page, so that it works from a file without network.

A browser lets a page that was opened from a file load scripts but fetch nothing; so a volume is a script that hands over its
bytes. Scripts are loaded when somebody asks for a case: the page itself stays small.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.nifti import encode_nifti
from autounet.report.looks import Look, Targets
from autounet.store.files import publish_bytes, publish_text
from planners.fingerprint import TripleMm

FOLDER = "viewer"
NIIVUE = "niivue.umd.js"
NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of the file as its npm package has it
LICENCES = "niivue.LICENSES.txt"
MOST_VOXELS = 1_500_000  # of one volume; finer ones are averaged
MOST_BYTES = 8_000_000  # of all volumes together, as scripts
MARGIN = 0.3  # of the extent of what is drawn, on each side
MISSED, INVENTED, CONFUSED = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One case for the viewer: compressed NIfTI files that know no place, no name and no date."""

    case: str
    dice: float
    image: bytes
    predicted: bytes
    truth: bytes
    differing: bytes  # 1 missed, 2 invented, 3 another class

    @property
    def script(self) -> str:
        """What the page loads."""
        parts = (("image", self.image), ("predicted", self.predicted), ("truth", self.truth), ("differing", self.differing))
        return "autounetVolumes({" + ",".join(f'{name}:"{b64encode(data).decode()}"' for name, data in parts) + "});\n"


def volume_of(look: Look, targets: Targets, dice: float) -> Volume:
    """Cut to what is drawn, with some surroundings, and made coarse enough."""
    assert look.truth_zyx is not None and look.predicted_zyx is not None, "only cases with both are shown"  # noqa: PT018
    truth, predicted = (numbered(values, targets) for values in (look.truth_zyx, look.predicted_zyx))
    box = surroundings(truth | predicted, look.spacing_zyx_mm)
    step = steps(tuple(s.stop - s.start for s in box), look.spacing_zyx_mm)
    spacing = tuple(float(mm * k) for mm, k in zip(look.spacing_zyx_mm, step, strict=True))
    thin = tuple(slice(k // 2, None, k) for k in step)
    image = blocks(look.gray_czyx[0][box], step)
    truth, predicted = (values[box][thin][tuple(slice(0, n) for n in image.shape)] for values in (truth, predicted))
    differing = np.where(truth == predicted, 0, np.where(predicted == 0, MISSED, np.where(truth == 0, INVENTED, CONFUSED)))
    image, truth, predicted, differing = (a[tuple(slice(0, n) for n in truth.shape)] for a in (image, truth, predicted, differing))
    said = (spacing[0], spacing[1], spacing[2])
    return Volume(
        case=look.case,
        dice=dice,
        image=_nifti(image, said),
        predicted=_nifti(predicted, said),
        truth=_nifti(truth, said),
        differing=_nifti(differing.astype(np.uint8), said),
    )


def numbered(values_zyx: NDArray[Any], targets: Targets) -> NDArray[np.uint8]:
    """Targets numbered from 1, later ones on top; the 255th and all behind it share a number."""
    number = {value: min(index, 255) for index, (_, values) in enumerate(targets, 1) for value in values}
    out = np.zeros(values_zyx.shape, np.uint8)
    for z, slice_yx in enumerate(values_zyx):  # one look at each voxel, however many targets there are
        found, place = np.unique(slice_yx, return_inverse=True)
        if len(found) > 1 or found[0] in number:
            out[z] = np.array([number.get(int(v), 0) for v in found], np.uint8)[place].reshape(slice_yx.shape)
    return out


def surroundings(drawn_zyx: NDArray[Any], spacing_zyx_mm: TripleMm) -> tuple[slice, slice, slice]:
    """The box of what is drawn, and a margin of the same length on every axis; everything when nothing is drawn."""
    spans = [np.flatnonzero(drawn_zyx.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(spans[0]):
        z, y, x = (slice(0, size) for size in drawn_zyx.shape)
        return z, y, x
    longest = max((int(s[-1] - s[0]) + 1) * mm for s, mm in zip(spans, spacing_zyx_mm, strict=True))
    box = []
    for span, mm, size in zip(spans, spacing_zyx_mm, drawn_zyx.shape, strict=True):
        more = int(np.ceil(MARGIN * longest / mm))
        box.append(slice(max(0, int(span[0]) - more), min(size, int(span[-1]) + 1 + more)))
    return box[0], box[1], box[2]


def steps(shape_zyx: Sequence[int], spacing_zyx_mm: TripleMm, most: int = MOST_VOXELS) -> tuple[int, int, int]:
    """How many voxels of each axis become one: the finest axis first, until there are few enough."""
    step = [1, 1, 1]
    while prod(-(-size // k) for size, k in zip(shape_zyx, step, strict=True)) > most:
        finest = min((a for a in range(3) if step[a] < shape_zyx[a]), key=lambda a: (spacing_zyx_mm[a] * step[a], -shape_zyx[a]))
        step[finest] += 1
    return step[0], step[1], step[2]


def blocks(image_zyx: NDArray[np.uint8], step: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Means of blocks."""
    if step == (1, 1, 1):
        return np.ascontiguousarray(image_zyx)
    sums: NDArray[Any] = image_zyx.astype(np.float32)
    for axis, k in enumerate(step):
        starts = np.arange(0, image_zyx.shape[axis], k)
        shape = [1, 1, 1]
        shape[axis] = len(starts)
        sums = np.add.reduceat(sums, starts, axis) / np.diff([*starts, image_zyx.shape[axis]]).reshape(shape)
    return sums.astype(np.uint8)


def _nifti(voxels_zyx: NDArray[np.uint8], spacing_zyx_mm: TripleMm) -> bytes:
    """Canonical axes around the origin: where in the scanner it was is nobody's business here."""
    origin = tuple(-mm * (size - 1) / 2 for mm, size in zip(spacing_zyx_mm[::-1], voxels_zyx.shape[::-1], strict=True))
    geometry = Geometry(
        shape_zyx=(voxels_zyx.shape[0], voxels_zyx.shape[1], voxels_zyx.shape[2]),
        spacing_zyx_mm=spacing_zyx_mm,
        origin_xyz_mm=(origin[0], origin[1], origin[2]),
        direction=STRAIGHT,
    )
    return b"".join(encode_nifti(np.ascontiguousarray(voxels_zyx)[None], geometry, None, compressed=True))


def publish_viewer(folder: Path, volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """The viewer and the volumes that fit beside the page; what an earlier report left there is taken away."""
    clear_viewer(folder)
    left, kept = MOST_BYTES, list[Volume]()
    for volume in volumes:
        script = volume.script
        if len(script) <= left:
            left -= len(script)
            publish_text(folder / FOLDER / f"case_{len(kept)}.js", script)
            kept.append(volume)
    if kept:
        for name in (NIIVUE, LICENCES):
            publish_bytes(folder / FOLDER / name, asset(name))
    return tuple(kept)


def clear_viewer(folder: Path) -> None:
    """Pictures of patients do not stay beside a public page."""
    for path in (folder / FOLDER).glob("*"):
        if path.name in (NIIVUE, LICENCES) or (path.name.startswith("case_") and path.suffix == ".js"):
            path.unlink()


def asset(name: str) -> bytes:
    """A file that came with this package."""
    return (files("autounet.report") / "assets" / name).read_bytes()
