"""Images to be predicted, as cases of the channels a model wants: plain files, numbered or named channels, or any layout of a dataset.

What the user decided about files that leave something open (autounet.toml) holds here as it does in training. It is
looked for in the output folder, in the input, and beside it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autounet.data.config import find_config, read_config
from autounet.data.dataset import Case, Dataset, Problem, Reading
from autounet.data.layouts.table import NAME as TABLE
from autounet.data.listing import Listing, list_folder
from autounet.data.open import LAYOUTS, understand
from autounet.data.voxels import read_stored
from autounet.images.formats import SUPPORTED, suffix_of
from autounet.images.image import Image, ImageInfo, ReadOptions
from autounet.images.read import read_header, read_image
from planners.errors import UserError
from planners.plan import Plan

CHANNEL = re.compile(r"^(.*)_(\d{4})$")
MOST_CHANNELS = 64  # a higher number at the end of a name is a year or a slice, no channel
SEPARATORS = "-_. "
SURE = 0.5  # a layout that is recognised less surely is a folder of plain images
TABLES = (".csv", ".tsv", ".json")
MASK_SUFFIX = {
    ".jpg": ".png", ".jpeg": ".png", ".bmp": ".png", ".mhd": ".mha", ".nhdr": ".nrrd", ".hdr": ".nii", ".img": ".nii",
    **dict.fromkeys(("", ".dcm", ".dicom", ".ima"), ".nii.gz"),
}  # fmt: skip

UNDECIDED = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """One case: one file, one file a channel, or a case of a dataset."""

    id: str
    files: tuple[Path, ...]
    dataset: Dataset | None = None
    reading: Reading = UNDECIDED
    problem: UserError | None = None  # known from the names or headers alone
    notes: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """Of the mask: that of the image; lossy pictures get a lossless one, DICOM a NIfTI."""
        found = suffix_of(self.files[0].name) if self.files else ""
        return MASK_SUFFIX.get(found, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """How the input is to be understood, when the user says so."""

    layout: str | None = None
    work: Path | None = None  # where autounet.toml may lie beside the input


AS_FOUND = InputOptions()


def list_inputs(source: Path, plan: Plan, options: InputOptions = AS_FOUND) -> tuple[InputCase, ...]:
    """The cases in a file, a table or a folder."""
    if not source.exists():
        raise UserError(f"there is no {source.name}", "name an image or a folder of images")
    config = find_config(source, options.work)
    said = read_config(config)
    if source.is_file() and suffix_of(source.name):
        return (InputCase(id=stem(source), files=(source,), reading=said.reading),)
    if source.is_file() and source.suffix.lower() not in TABLES:
        raise UserError(f"{source.name} is no image that can be read", f"name an image, a folder or a table; images can be {SUPPORTED}")
    layout = TABLE if source.is_file() else options.layout or said.layout
    listing = None if source.is_file() else list_folder(source, follow_outside=said.reading.follow_symlinks)
    if listing is None or layout is not None or not listing.images or _surely_a_dataset(listing):
        return _from_dataset(source, plan, layout, config)
    return _from_files(source, listing, plan, config)


def read_input(case: InputCase) -> Image:
    """All channels of a case on one grid."""
    if case.problem is not None:
        raise case.problem
    if case.dataset is not None:
        stored = read_stored(case.dataset, case.dataset.case(case.id), with_label=False)
        return Image(voxels_czyx=stored.image_czyx, geometry=stored.geometry, header=stored.header, notes=(*case.notes, *stored.notes))
    options = _read_options(case.reading)
    images = [read_image(path, options) for path in case.files]
    first = images[0]
    for path, one in zip(case.files[1:], images[1:], strict=True):
        _check_grid(case, first, one, path)
    if len(images) == 1:
        return first
    voxels = np.concatenate([one.voxels_czyx for one in images])
    notes = tuple(note for one in images for note in one.notes)
    return Image(voxels_czyx=voxels, geometry=first.geometry, header=first.header, notes=(*case.notes, *notes))


def stem(path: Path) -> str:
    """The file name without its image suffix."""
    suffix = suffix_of(path.name)
    return path.name[: -len(suffix)] if suffix else path.name


def _check_grid(case: InputCase, first: Image, other: Image, path: Path) -> None:
    ours, theirs = first.geometry, other.geometry
    if theirs.shape_zyx != ours.shape_zyx:
        raise UserError(
            f"{path.name} has {theirs.shape_zyx} voxels, {case.files[0].name} has {ours.shape_zyx}", "resample them onto one grid", case.id
        )
    apart = not ours.flat and ours.corner_distance_mm(theirs) > max(ours.spacing_zyx_mm)
    if apart and not case.reading.ignore_geometry:
        raise UserError(
            f"{path.name} lies elsewhere than {case.files[0].name}",
            "register and resample them onto one grid, or set ignore_geometry = true under [dataset] in autounet.toml if the arrays do fit",
            case.id,
        )


def read_infos(case: InputCase) -> tuple[ImageInfo, ...]:
    """What the headers tell; nothing when one of them cannot be read, which its reader will say better."""
    if case.problem is not None:
        return ()
    try:
        return tuple(read_header(path, _read_options(case.reading)) for path in case.files)
    except (UserError, OSError):
        return ()


def _read_options(reading: Reading) -> ReadOptions:
    """The user's decisions in the door's words."""
    return ReadOptions(
        trust=reading.trust,
        spacing_zyx_mm=reading.spacing_zyx_mm,
        unusual_geometry=reading.unusual_geometry,
        fill_nonfinite=reading.fill_nonfinite,
        palette_indices=reading.palette_indices,
        follow_outside=reading.follow_symlinks,
        resample_tilt=reading.resample_tilt,
        channels=1 if reading.gray else None,
    )


def _surely_a_dataset(listing: Listing) -> bool:
    """Whether images and masks, or a description of them, lie there: then masks are not to be taken for images."""
    found = (layout.recognise(listing) for layout in LAYOUTS.values())
    return any(candidate is not None and candidate.sure >= SURE for candidate in found)


def _from_files(source: Path, listing: Listing, plan: Plan, config: Path | None) -> tuple[InputCase, ...]:
    """Images and nothing else: channels by number, by name, or by folder; else each file is a case."""
    reading = read_config(config).reading
    files = [listing.root / file.path for file in listing.images]
    numbers = [CHANNEL.match(stem(path)) for path in files]
    if all(m is not None and int(m[2]) < MOST_CHANNELS for m in numbers):
        cases = _numbered(listing.root, files, len(plan.channels))
    elif len(plan.channels) > 1 and all(_named(path, plan) for path in files):
        cases = _by_name(listing.root, files, plan)
    elif len(plan.channels) > 1 and all(path.parent != listing.root for path in files) and len(files) >= len(plan.channels):
        return _from_dataset(source, plan, "case_folders", config)
    else:
        cases = [InputCase(id=_id(listing.root, path.parent / stem(path)), files=(path,)) for path in files]
    refused = (_unread(listing.root, problem) for problem in listing.problems if problem.severity in ("error", "warning"))
    return _unique(replace(case, reading=reading) for case in (*cases, *refused))


def _unread(root: Path, problem: Problem) -> InputCase:
    """A file or folder that the walk through the input would not open: it must not be missing in silence."""
    path = root / problem.found.partition(": ")[0]
    return InputCase(id=_id(root, path.parent / stem(path)), files=(), problem=UserError(problem.found, problem.remedy))


def _numbered(root: Path, files: list[Path], channels: int) -> list[InputCase]:
    """CASE_0000, CASE_0001, …: the numbers are the channels, and each must be there."""
    groups: dict[str, dict[int, Path]] = {}
    for path in files:
        match = CHANNEL.match(stem(path))
        assert match is not None, "only numbered files come here"
        by_number = groups.setdefault(_id(root, path.parent / match[1]), {})
        if int(match[2]) in by_number:
            raise UserError(f"{by_number[int(match[2])].name} and {path.name} are the same channel", "remove one of them", match[1])
        by_number[int(match[2])] = path
    cases = []
    for name, by_number in sorted(groups.items()):
        problem = None
        if sorted(by_number) != list(range(channels)):
            found = ", ".join(f"{number:04d}" for number in sorted(by_number))
            wanted = "0000" if channels == 1 else f"0000 to {channels - 1:04d}"
            problem = UserError(f"it has the channels {found}, the model wants {wanted}", "give every channel its file", name)
        cases.append(InputCase(id=name, files=tuple(by_number[n] for n in sorted(by_number)), problem=problem))
    return cases


def _named(path: Path, plan: Plan) -> tuple[str, str] | None:
    """Case and channel, when the name ends in the name of a channel of the model."""
    name = stem(path)
    for channel in sorted((c.name for c in plan.channels), key=len, reverse=True):
        head = name[: -len(channel)]
        if name.lower().endswith(channel.lower()) and head[-1:] and head[-1] in SEPARATORS:
            return head.rstrip(SEPARATORS), channel
    return None


def _by_name(root: Path, files: list[Path], plan: Plan) -> list[InputCase]:
    groups: dict[str, dict[str, Path]] = {}
    for path in files:
        found = _named(path, plan)
        assert found is not None, "only files of named channels come here"
        groups.setdefault(_id(root, path.parent / found[0]), {})[found[1]] = path
    wanted = [channel.name for channel in plan.channels]
    cases = []
    for name, by_channel in sorted(groups.items()):
        missing = [channel for channel in wanted if channel not in by_channel]
        problem = None
        if missing:
            problem = UserError(
                f"it has no {missing[0]}, the model wants {', '.join(wanted)}", "give every channel its file, named after it", name
            )
        cases.append(InputCase(id=name, files=tuple(by_channel[c] for c in wanted if c in by_channel), problem=problem))
    return cases


def _from_dataset(source: Path, plan: Plan, layout: str | None, config: Path | None) -> tuple[InputCase, ...]:
    """Any other layout is understood as a dataset is; masks that lie there are not looked at."""
    dataset = understand(source, layout=layout, config=config)
    order, notes = _channel_order(dataset, plan)
    if order is not None:
        channels = tuple(dataset.channels[i] for i in order)
        dataset = replace(dataset, channels=channels, cases=tuple(_in_order(case, order) for case in dataset.cases))
    refused: dict[str, Problem] = {}
    for problem in dataset.problems:
        if problem.severity == "error" and problem.case and "label" not in problem.code:
            refused.setdefault(problem.case, problem)
    cases = []
    for case in dataset.cases:
        files = tuple(dict.fromkeys(dataset.folder / image.path for image in case.images))
        known = refused.pop(case.id, None)
        cases.append(
            InputCase(
                id=case.id,
                files=files,
                dataset=dataset,
                reading=dataset.reading,
                problem=None if known is None else known.as_error(),
                notes=notes,
            )
        )
    # Cases whose headers cannot be read are in the list of problems alone.
    cases += [InputCase(id=name, files=(), problem=problem.as_error()) for name, problem in sorted(refused.items())]
    if not cases:
        raise UserError(f"{source.name} holds no image", f"name a folder of images; they can be {SUPPORTED}")
    return tuple(cases)


def _channel_order(dataset: Dataset, plan: Plan) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Where each channel of the model is among those of the input, by name; names that tell nothing leave the order."""
    ours, theirs = [c.name.lower() for c in plan.channels], [c.name.lower() for c in dataset.channels]
    if len(ours) != len(theirs) or ours == theirs or len(ours) == 1:
        return None, ()
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        return tuple(theirs.index(name) for name in ours), ()
    return None, (f"the channels {', '.join(theirs)} are taken for {', '.join(ours)}, in this order",)


def _in_order(case: Case, order: tuple[int, ...]) -> Case:
    return replace(case, images=tuple(case.images[i] for i in order))


def _unique(cases: Iterable[InputCase]) -> tuple[InputCase, ...]:
    """Two files that would make one mask are an error, not a matter of order."""
    found: dict[str, InputCase] = {}
    for case in _spelled(cases):
        if case.id in found:
            names = [one.files[0].name if one.files else one.id for one in (found[case.id], case)]
            raise UserError(f"{names[0]} and {names[1]} would both become the mask {case.id}", "rename one of them")
        found[case.id] = case
    return tuple(found.values())


def _spelled(cases: Iterable[InputCase]) -> Iterator[InputCase]:
    yield from (replace(case, id=case.id.replace("/", "_")) for case in cases)


def _id(root: Path, path: Path) -> str:
    """The path below the input, as one name."""
    return path.relative_to(root).as_posix().replace("/", "_")
