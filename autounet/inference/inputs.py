"""Images to be predicted, as cases of the channels a model wants: plain files, numbered channels, or any layout of a dataset."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autounet.data.dataset import Dataset
from autounet.data.open import understand
from autounet.data.voxels import read_stored
from autounet.images.image import Image
from autounet.images.read import read_image
from planners.errors import UserError
from planners.plan import Plan

SUFFIXES = (
    ".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".gipl.gz", ".gipl", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp",
)  # fmt: skip
CHANNEL = re.compile(r"^(.*)_(\d{4})$")
MASK_SUFFIX = {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha", ".nhdr": ".nrrd", "": ".nii.gz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """One case: one file, one file a channel, or a case of a dataset."""

    id: str
    files: tuple[Path, ...]
    dataset: Dataset | None = None
    problem: UserError | None = None  # known from the names alone

    @property
    def suffix(self) -> str:
        """Of the mask: that of the image; lossy pictures get a lossless one, DICOM a NIfTI."""
        found = suffix_of(self.files[0])
        return MASK_SUFFIX.get(found, found)


def list_inputs(source: Path, plan: Plan) -> tuple[InputCase, ...]:
    """The cases in a file or a folder."""
    if not source.exists():
        raise UserError(f"there is no {source.name}", "name an image or a folder of images")
    if source.is_file() and suffix_of(source):
        return (InputCase(id=_id(stem(source)), files=(source,)),)
    if source.is_file():
        return _from_dataset(source)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and suffix_of(path) and not path.name.startswith(".")]
    numbered = [CHANNEL.match(stem(path)) for path in files]
    if files and all(numbered):
        return _numbered(source, files, len(plan.channels))
    if not files or len(plan.channels) > 1:
        return _from_dataset(source)
    return _unique(InputCase(id=_id((path.parent.relative_to(source) / stem(path)).as_posix()), files=(path,)) for path in files)


def read_input(case: InputCase) -> Image:
    """All channels of a case on one grid."""
    if case.problem is not None:
        raise case.problem
    if case.dataset is not None:
        stored = read_stored(case.dataset, case.dataset.case(case.id), with_label=False)
        return Image(voxels_czyx=stored.image_czyx, geometry=stored.geometry, header=stored.header, notes=stored.notes)
    images = [read_image(path) for path in case.files]
    first = images[0]
    for one in images[1:]:
        if one.geometry.shape_zyx != first.geometry.shape_zyx:
            raise UserError(
                f"its channels have {one.geometry.shape_zyx} and {first.geometry.shape_zyx} voxels", "resample them onto one grid", case.id
            )
        if not first.geometry.flat and first.geometry.corner_distance_mm(one.geometry) > max(first.geometry.spacing_zyx_mm):
            raise UserError("its channels lie in different places", "register and resample them onto one grid", case.id)
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


def _numbered(source: Path, files: list[Path], channels: int) -> tuple[InputCase, ...]:
    """CASE_0000, CASE_0001, …: the numbers are the channels, and each must be there."""
    groups: dict[str, dict[int, Path]] = {}
    for path in files:
        match = CHANNEL.match(stem(path))
        assert match is not None, "only numbered files come here"
        groups.setdefault((path.parent.relative_to(source) / match[1]).as_posix(), {})[int(match[2])] = path
    cases = []
    for name, by_number in sorted(groups.items()):
        problem = None
        if sorted(by_number) != list(range(channels)):
            found = ", ".join(f"{number:04d}" for number in sorted(by_number))
            problem = UserError(f"it has the channels {found}, the model wants 0000 to {channels - 1:04d}", "give every channel its file")
        cases.append(InputCase(id=_id(name), files=tuple(by_number[n] for n in sorted(by_number)), problem=problem))
    return _unique(cases)


def _from_dataset(source: Path) -> tuple[InputCase, ...]:
    """Any other layout is understood as a dataset is; masks that lie there are not looked at."""
    dataset = understand(source)
    broken = {problem.case: problem.as_error() for problem in dataset.problems if problem.severity == "error" and problem.case}
    cases = []
    for case in dataset.cases:
        files = tuple(dict.fromkeys(dataset.folder / image.path for image in case.images))
        cases.append(InputCase(id=case.id, files=files, dataset=dataset, problem=broken.get(case.id)))
    if not cases:
        raise UserError(f"{source.name} holds no image", f"name a folder with files ending in {', '.join(SUFFIXES[:4])}, …")
    return tuple(cases)


def _unique(cases: Iterable[InputCase]) -> tuple[InputCase, ...]:
    """Two files that would make one mask are an error, not a matter of order."""
    found: dict[str, InputCase] = {}
    for case in cases:
        if case.id in found:
            raise UserError(
                f"{found[case.id].files[0].name} and {case.files[0].name} would both become the mask {case.id}", "rename one of them"
            )
        found[case.id] = case
    return tuple(found.values())


def _id(text: str) -> str:
    return text.replace("/", "_")
