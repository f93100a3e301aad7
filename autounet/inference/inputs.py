"""Images to be predicted, as cases of the channels a model wants."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autounet.images.image import Image
from autounet.images.read import read_image
from planners.errors import UserError
from planners.plan import Plan

SUFFIXES = (
    ".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".gipl.gz", ".gipl", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp",
)  # fmt: skip
CHANNEL = re.compile(r"^(.*)_(\d{4})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """One case: one file, or one file a channel."""

    id: str
    files: tuple[Path, ...]

    @property
    def suffix(self) -> str:
        """Of the mask: that of the image; lossy pictures get a lossless one."""
        found = suffix_of(self.files[0]) or ".nii.gz"
        return {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha", ".nhdr": ".nrrd"}.get(found, found)


def list_inputs(source: Path, plan: Plan) -> tuple[InputCase, ...]:
    """The cases in a file or a folder."""
    if not source.exists():
        raise UserError(f"there is no {source.name}", "name an image or a folder of images")
    if source.is_file():
        return (InputCase(id=_id(stem(source)), files=(source,)),)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and suffix_of(path) and not path.name.startswith(".")]
    if not files:
        raise UserError(f"{source.name} holds no image", f"name a folder with files ending in {', '.join(SUFFIXES[:4])}, …")
    numbered = [CHANNEL.match(stem(path)) for path in files]
    if all(numbered):
        groups: dict[str, list[Path]] = {}
        for path, match in zip(files, numbered, strict=True):
            groups.setdefault(str((path.parent.relative_to(source) / (match[1] if match else "")).as_posix()), []).append(path)
        return tuple(InputCase(id=_id(name), files=tuple(paths)) for name, paths in sorted(groups.items()))
    return tuple(InputCase(id=_id((path.parent.relative_to(source) / stem(path)).as_posix()), files=(path,)) for path in files)


def read_input(case: InputCase, plan: Plan) -> Image:
    """All channels of a case on one grid."""
    images = [read_image(path) for path in case.files]
    first = images[0]
    for one in images[1:]:
        if one.geometry.shape_zyx != first.geometry.shape_zyx:
            raise UserError(
                f"its channels have {one.geometry.shape_zyx} and {first.geometry.shape_zyx} voxels", "resample them onto one grid", case.id
            )
    if len(images) == 1:
        return first
    voxels = np.concatenate([one.voxels_czyx for one in images])
    notes = tuple(note for one in images for note in one.notes)
    return Image(voxels_czyx=voxels, geometry=first.geometry, header=first.header, notes=notes)


def suffix_of(path: Path) -> str:
    """The image suffix of a file name, or nothing."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def stem(path: Path) -> str:
    """The file name without it."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.name


def _id(text: str) -> str:
    return text.replace("/", "_")
