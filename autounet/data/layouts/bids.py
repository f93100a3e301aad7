"""BIDS: sub-*/ses-*/anat, masks below derivatives, names and values in dseg.tsv."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from autounet.data.dataset import ImageFile
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, DraftMask, note
from autounet.data.layouts.label_table import labels_of
from autounet.data.listing import FoundFile, Listing
from autounet.store.strict import read_bytes
from planners.errors import UserError
from planners.labels import Labels

NAME = "bids"
_FOLDERS = ("anat", "ct", "pet", "micr", "xray", "us")
_MASK_SUFFIXES = ("dseg", "mask", "seg", "label", "lesion", "msk")
_TABLE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Name:
    """A BIDS file name: its entities in order, and its suffix."""

    entities: tuple[tuple[str, str], ...]
    suffix: str

    def get(self, entity: str) -> str:
        """The value of an entity, empty without."""
        return dict(self.entities).get(entity, "")

    @property
    def session(self) -> str:
        """Subject and session, the part that image and mask share at least."""
        return "_".join(f"{k}-{v}" for k, v in self.entities if k in ("sub", "ses"))


def recognise(listing: Listing) -> Candidate | None:
    """dataset_description.json, or folders sub-*, with images in anat (or alike)."""
    described = listing.has("dataset_description.json")
    raw, masks = _sorted_files(listing)
    if not raw or not (described or _by_subject(raw)):
        return None
    why = f"{len(raw)} images in sub-*/ folders and {len(masks)} masks below derivatives"
    return Candidate(layout=NAME, sure=0.98 if described else 0.9, why=why + (", dataset_description.json" if described else ""))


def _by_subject(raw: list[FoundFile]) -> bool:
    """Each subject has a folder of its own."""
    return all(f"sub-{_name(f).get('sub')}" in f.folder.parts for f in raw)


def index(listing: Listing) -> Draft:
    """A mask named after one image makes a case of the two; a mask named after a session, one of all images of the session."""
    raw, masks = _sorted_files(listing)
    if not raw:
        raise UserError("there are no images in sub-*/anat", "choose another --layout")
    chosen, unused = _one_kind(masks)
    by_stem = {f.stem: f for f in raw}
    own = {mask.path: image for mask in chosen if (image := _named_after(mask, by_stem)) is not None}
    cases = _image_cases(chosen, own, raw) if len(own) == len(chosen) and chosen else _session_cases(chosen, raw)
    problems = [note("label_set_unused", f"{len(unused)} masks of another kind are not used: {unused[0].path}")] if unused else []
    return Draft(
        layout=NAME,
        why=f"BIDS: {len(raw)} images, {len(chosen)} masks",
        cases=tuple(cases),
        labels=_table(listing, chosen),
        problems=tuple(problems),
    )


def _name(file: FoundFile) -> Name:
    parts = file.stem.split("_")
    pairs = [p.split("-", 1) for p in parts if "-" in p]
    return Name(tuple((k, v) for k, v in pairs), parts[-1] if "-" not in parts[-1] else "")


def _sorted_files(listing: Listing) -> tuple[list[FoundFile], list[FoundFile]]:
    raw: list[FoundFile] = []
    masks: list[FoundFile] = []
    for file in listing.images:
        parts = file.path.parts
        if not file.path.name.startswith("sub-"):
            continue
        if parts[0] == "derivatives":
            if _is_mask(file):
                masks.append(file)
        elif _is_raw(file):
            (masks if _is_mask(file) else raw).append(file)
    return raw, masks


def _is_raw(file: FoundFile) -> bool:
    """Below sub-*, perhaps in rawdata, in a folder of images or in none."""
    parts = file.path.parts[1:] if file.path.parts[0] == "rawdata" else file.path.parts
    kind = file.folder.name
    return parts[0].startswith("sub-") and len(parts) > 1 and (kind in _FOLDERS or kind.startswith(("sub-", "ses-")))


def _is_mask(file: FoundFile) -> bool:
    name = _name(file)
    last = file.stem.split("_")[-1].lower()
    return (
        name.suffix.lower() in _MASK_SUFFIXES
        or last.split("-")[0] in ("seg", "lesion", "label", "mask")
        or bool(re.search(r"(seg|mask)$", last))
    )


def _one_kind(masks: list[FoundFile]) -> tuple[list[FoundFile], list[FoundFile]]:
    """Below several derivatives, or as dseg and mask: the kind that most sessions have, dseg first."""
    kinds = Counter(_kind(m) for m in masks)
    if len(kinds) < 2:
        return masks, []
    best = max(kinds, key=lambda k: (kinds[k] >= 0.8 * max(kinds.values()), k[1] == "dseg", kinds[k], k))
    if all(k[0] == best[0] and k[1] == "mask" and k[2] for k in kinds):
        return masks, []  # label-GM_mask, label-WM_mask: one file a class
    return [m for m in masks if _kind(m) == best], [m for m in masks if _kind(m) != best]


def _kind(mask: FoundFile) -> tuple[str, str, str]:
    pipeline = mask.path.parts[1] if mask.path.parts[0] == "derivatives" and len(mask.path.parts) > 2 else ""
    name = _name(mask)
    return "" if pipeline.startswith("sub-") else pipeline, name.suffix or mask.stem.split("_")[-1], name.get("label")


def _named_after(mask: FoundFile, by_stem: dict[str, FoundFile]) -> FoundFile | None:
    parts = mask.stem.split("_")
    for end in range(len(parts) - 1, 0, -1):
        found = by_stem.get("_".join(parts[:end]))
        if found is not None:
            return found
    return None


def _image_cases(masks: list[FoundFile], own: dict[PurePosixPath, FoundFile], raw: list[FoundFile]) -> list[DraftCase]:
    by_image: dict[FoundFile, list[FoundFile]] = {}
    for mask in masks:
        by_image.setdefault(own[mask.path], []).append(mask)
    suffixes = {_name(i).suffix for i in by_image}
    cases = [_case(image.stem, [("", image)], found) for image, found in by_image.items()]
    rest = [f for f in raw if f not in by_image and _name(f).suffix in suffixes]
    return cases + [_case(image.stem, [("", image)], []) for image in rest]


def _session_cases(masks: list[FoundFile], raw: list[FoundFile]) -> list[DraftCase]:
    sessions: dict[str, tuple[list[FoundFile], list[FoundFile]]] = {}
    for file in raw:
        sessions.setdefault(_name(file).session, ([], []))[0].append(file)
    for mask in masks:
        sessions.setdefault(_name(mask).session, ([], []))[1].append(mask)
    cases = []
    for session, (images, found) in sorted(sessions.items()):
        tokens = [(f.stem.removeprefix(session).lstrip("_"), f) for f in images]
        single = len({t for s, _ in sessions.values() for t in (f.stem.removeprefix(_name(f).session).lstrip("_") for f in s)}) == 1
        cases += [_case(session, [("", f) if single else (t, f) for t, f in tokens], found)] if images else []
    return cases


def _case(key: str, images: list[tuple[str, FoundFile]], masks: list[FoundFile]) -> DraftCase:
    files = tuple((token, ImageFile(path=str(f.path))) for token, f in sorted(images, key=lambda i: i[0]))
    several = (
        tuple(DraftMask(name=_name(m).get("label") or m.stem, file=ImageFile(path=str(m.path))) for m in masks) if len(masks) > 1 else ()
    )
    label = ImageFile(path=str(masks[0].path)) if masks else None
    subject = key.split("_")[0]
    return DraftCase(key=key, images=files, label=label, masks=several, group=subject, split="train" if masks else "test")


def _table(listing: Listing, masks: list[FoundFile]) -> Labels | None:
    """index and name from a dseg.tsv beside the mask, or above it."""
    if not masks:
        return None
    beside = str(masks[0].folder / f"{masks[0].stem}.tsv")
    above = [str(f.path) for f in listing.files if f.path.name.endswith("dseg.tsv") and f.folder in masks[0].path.parents]
    for path in ([beside] if listing.has(beside) else []) + sorted(above, key=len, reverse=True):
        rows = csv.DictReader(read_bytes(listing.root / path, max_bytes=_TABLE_BYTES).decode().splitlines(), delimiter="\t")
        if not {"index", "name"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path} has no columns index and name", "add them, or name the labels in autounet.toml")
        found = [(row["name"], row["index"]) for row in rows]
        wrong = next((v for _, v in found if not re.fullmatch(r"-?\d+", v or "")), None)
        if wrong is not None:
            raise UserError(f"{path} has the index {wrong!r}", "write whole numbers")
        return labels_of(tuple((name, int(value)) for name, value in found))
    return None
