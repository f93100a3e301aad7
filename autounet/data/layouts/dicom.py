"""DICOM exports: one series a case, labels as structure sets, segmentations, or NIfTI files named after the patient."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autounet.data.dataset import FileKind, ImageFile, LabelStyle
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, note
from autounet.data.layouts.label_table import labels_of
from autounet.data.layouts.matching import bare_label
from autounet.data.listing import FoundFile, Listing
from autounet.images.dicom_files import DicomFile, Series, scan_dicom
from autounet.images.dicom_labels import label_names
from autounet.images.image import ReadOptions
from planners.errors import UserError
from planners.labels import Labels

NAME = "dicom"


@dataclass(frozen=True, slots=True)
class Found:
    """An image series and where it lies."""

    folder: PurePosixPath
    series: Series
    alone: bool  # in its folder


@dataclass(frozen=True, slots=True)
class Drawn:
    """A structure set or segmentation and where it lies."""

    path: PurePosixPath
    file: DicomFile


def recognise(listing: Listing) -> Candidate | None:
    """Folders that hold DICOM files."""
    folders = listing.dicom_folders
    if not folders:
        return None
    count = sum(f.folder in folders and not f.suffix for f in listing.files)
    sure = 0.9 if count > len(listing.images) * 2 else 0.4
    return Candidate(layout=NAME, sure=sure, why=f"{len(folders)} folders with {count} DICOM files")


def index(listing: Listing, wanted: str | None = None) -> Draft:
    """One case for each series that has a label; several kinds of series are a question."""
    series, drawn = _scan(listing)
    if not series:
        raise UserError("the DICOM files hold no image series", "name the folder that holds the images")
    series = _chosen(series, wanted, listing)
    labelled = [(s, _label(s, drawn, series)) for s in series]
    nifti = {} if any(d for _, d in labelled) else _nifti(listing, series)
    keys = _keys(series)
    cases = tuple(_case(keys[s.series.uid], s, d, nifti.get(s.series.uid)) for s, d in labelled)
    style = _style([d for _, d in labelled if d is not None])
    names = _structures([d for _, d in labelled if d is not None]) if style != "values" else None
    unused = len(drawn) - sum(d is not None for _, d in labelled)
    problems = (note("label_unused", f"{unused} structure sets or segmentations belong to no series in use"),) if unused else ()
    return Draft(
        layout=NAME,
        why=f"DICOM: {len(series)} series, {sum(c.label is not None for c in cases)} with a label",
        cases=cases,
        labels=names,
        label_style=style,
        problems=problems,
        channel_keys=("",),
        channel_names=({"CT": "ct", "MR": "mr", "PT": "pet", "US": "us"}.get(series[0].series.modality, "image"),),
    )


def _scan(listing: Listing) -> tuple[list[Found], list[Drawn]]:
    """All series and labels below the root, each with the folder that holds its files."""
    content = scan_dicom(listing.root, ReadOptions(root=listing.root))
    folders = {s.uid: _folder(listing.root, [f.path for f in s.files]) for s in content.series}
    found = [
        Found(folders[s.uid], s, sum(o == folders[s.uid] or folders[s.uid] in o.parents for o in folders.values()) == 1)
        for s in content.series
    ]
    return found, [Drawn(PurePosixPath(label.path.relative_to(listing.root)), label) for label in content.labels]


def _folder(root: Path, paths: list[Path]) -> PurePosixPath:
    return PurePosixPath(Path(os.path.commonpath([p.parent for p in paths])).relative_to(root))


def _kind(found: Found) -> str:
    """What tells series of one patient apart: the folder's name where it repeats, else the modality."""
    return found.series.modality


def _chosen(series: list[Found], wanted: str | None, listing: Listing) -> list[Found]:
    """Series of one kind. Kinds are modalities, and folders' names that occur under several patients."""
    if wanted is not None:
        kept = [
            s for s in series if wanted.lower() in {_kind(s).lower(), *(p.lower() for p in s.folder.parts)} or s.series.uid.endswith(wanted)
        ]
        if not kept:
            raise UserError(
                f"no DICOM series is {wanted!r}", f"use one of {', '.join(_kinds(series))} for series under [dataset] in autounet.toml"
            )
        return kept
    kinds = Counter(_kind(s) for s in series)
    if len(kinds) > 1:
        table = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        raise UserError(
            f"{listing.root.name} holds series of {len(kinds)} kinds: {table}; which is the image?",
            f'set series = "{min(kinds)}" under [dataset] in autounet.toml',
        )
    return series


def _kinds(series: list[Found]) -> list[str]:
    return sorted({_kind(s) for s in series} | {p for s in series for p in s.folder.parts if sum(p in o.folder.parts for o in series) > 1})


def _label(found: Found, drawn: list[Drawn], series: list[Found]) -> Drawn | None:
    """The label that refers to the series; without a reference the only one that lies nearest."""
    referring = [d for d in drawn if found.series.uid in d.file.refers_to]
    if len(referring) > 1:
        names = ", ".join(str(d.path) for d in referring[:5])
        raise UserError(f"{found.folder} has {len(referring)} labels: {names}", "keep one of them, or list the cases in a table")
    if referring:
        return referring[0]
    known = {s.series.uid for s in series}
    free = [d for d in drawn if not known & set(d.file.refers_to)]
    near = [d for d in free if d.path.parent.parent == found.folder.parent or d.path.parent == found.folder]
    return near[0] if len(near) == 1 and found.alone else None


def _keys(series: list[Found]) -> dict[str, str]:
    """The first folder that tells the cases apart, else all of the path; else a number."""
    depth = max((len(s.folder.parts) for s in series), default=0)
    for part in range(depth):
        names = [s.folder.parts[part] if len(s.folder.parts) > part else "" for s in series]
        if len(set(names)) == len(series) and all(names):
            return {s.series.uid: n for s, n in zip(series, names, strict=True)}
    paths = ["_".join(s.folder.parts) for s in series]
    if len(set(paths)) == len(series) and all(paths):
        return {s.series.uid: p for s, p in zip(series, paths, strict=True)}
    ordered = sorted(series, key=lambda s: (s.folder, s.series.uid))
    return {s.series.uid: f"series_{n:03d}" for n, s in enumerate(ordered, 1)}


def _nifti(listing: Listing, series: list[Found]) -> dict[str, FoundFile]:
    """Masks in other formats, named after a folder of the series or lying beside it."""
    out: dict[str, FoundFile] = {}
    for found in series:
        named = [f for f in listing.images if bare_label(f.stem) in found.folder.parts]
        beside = [f for f in listing.images if f.folder in (found.folder, found.folder.parent) and f.folder != PurePosixPath()]
        for candidates in (named, beside):
            if len(candidates) == 1:
                out[found.series.uid] = candidates[0]
                break
    if not out and len(series) == 1 and len(listing.images) == 1:
        out[series[0].series.uid] = listing.images[0]
    return out


def _case(key: str, found: Found, drawn: Drawn | None, nifti: FoundFile | None) -> DraftCase:
    image = ImageFile(
        path="" if found.folder == PurePosixPath() else str(found.folder), kind="dicom", series=None if found.alone else found.series.uid
    )
    label = None
    if drawn is not None:
        kind: FileKind = "rtstruct" if drawn.file.kind == "rtstruct" else "dicom_seg"
        label = ImageFile(path=str(drawn.path), kind=kind)
    elif nifti is not None:
        label = ImageFile(path=str(nifti.path))
    return DraftCase(key=key, images=(("", image),), label=label, group=found.series.patient_key, split="train" if label else "test")


def _style(drawn: list[Drawn]) -> LabelStyle:
    kinds = {d.file.kind for d in drawn}
    if len(kinds) > 1:
        raise UserError("some labels are structure sets and others segmentations", "keep one kind, or list the cases in a table")
    if not kinds:
        return "values"
    return "rtstruct" if kinds == {"rtstruct"} else "dicom_seg"


def _structures(drawn: list[Drawn]) -> Labels:
    """Names of structures or segments, those that most cases have first; the same word in other letters is the same."""
    seen: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for one in drawn:
        for name in label_names(one.file.path):
            seen[name.casefold()] += 1
            spelled.setdefault(name.casefold(), name)
    ordered = sorted(seen, key=lambda n: (-seen[n], n))
    return labels_of(tuple((spelled[n], value) for value, n in enumerate(ordered, start=1)))
