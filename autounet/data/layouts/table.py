"""A table that says which files belong together: CSV, TSV or JSON, also the lists that MONAI reads."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from autounet.data.dataset import GivenFolds, ImageFile, Problem
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, error
from autounet.data.listing import Listing
from autounet.data.names import image_suffix
from autounet.store.strict import read_bytes, read_json
from planners.errors import UserError

NAME = "table"
MAX_BYTES = 16 * 2**20
SUFFIXES = (".csv", ".tsv", ".json")
_COLUMNS = {
    "case": "case", "case_id": "case", "id": "case", "name": "case",
    "group": "group", "patient": "group", "patient_id": "group", "subject": "group",
    "stratum": "stratum", "site": "stratum", "label": "label", "mask": "label", "seg": "label", "segmentation": "label", "labels": "label",
    "split": "split", "set": "split", "annotated": "annotated", "fold": "fold",
}  # fmt: skip
_TEST = ("test", "testing")


@dataclass(frozen=True, slots=True)
class Row:
    """One line, in order: images are (channel, path)."""

    where: str
    case: str
    group: str
    stratum: str
    images: tuple[tuple[str, str], ...]
    label: str
    split: str
    annotated: tuple[str, ...] | None
    fold: int | None


def recognise(listing: Listing) -> Candidate | None:
    """A table in the folder whose columns are called image and label."""
    found = [t for t in _tables(listing) if _first(listing, t) is not None]
    if not found:
        return None
    return Candidate(layout=NAME, sure=0.97 if len(found) == 1 else 0.85, why=f"{found[0]} lists images and labels")


def alone(listing: Listing, name: str) -> Listing:
    """The listing without the other tables: the one that was named is meant."""
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{name} is a file, but no table", "name the folder that holds the dataset, or a table of its cases (CSV, TSV, JSON)"
        )
    others = {path for path in _tables(listing) if path.name != name}
    return replace(listing, files=tuple(f for f in listing.files if f.path not in others))


def index(listing: Listing) -> Draft:
    """The cases of the table, in its words."""
    found = [t for t in _tables(listing) if _first(listing, t) is not None]
    if not found:
        raise UserError("there is no table with the columns image and label", "write cases.csv with the columns case, image, label")
    if len(found) > 1:
        raise UserError(f"there are {len(found)} tables: {', '.join(map(str, found))}", "keep one of them in the folder")
    cases: list[DraftCase] = []
    problems: list[Problem] = []
    used: dict[str, str] = {}
    folds: dict[int, list[str]] = {}
    channels: list[str] = []
    for row in _rows(listing, found[0]):
        case = _case(listing, row, used, problems)
        if case is not None:
            cases.append(case)
            channels += [c for c, _ in row.images if c not in channels]
            if row.fold is not None and case.label is not None and case.split == "train":
                folds.setdefault(row.fold, []).append(case.key)
    whole = sum(c.label is not None and c.split == "train" for c in cases) == sum(map(len, folds.values())) and len(folds) > 1
    return Draft(
        layout=NAME,
        why=f"{found[0]} lists {len(cases)} cases",
        cases=tuple(cases),
        channel_keys=tuple(channels),
        given_folds=_folds(folds) if whole else (),
        problems=tuple(problems),
    )


def _tables(listing: Listing) -> list[PurePosixPath]:
    return [f.path for f in listing.files if len(f.path.parts) == 1 and f.path.suffix.lower() in SUFFIXES and f.size <= MAX_BYTES]


def _first(listing: Listing, table: PurePosixPath) -> Row | None:
    """The first row, if the file is such a table; a file of another kind is none of our business."""
    try:
        row = next(_rows(listing, table), None)
    except (UserError, UnicodeDecodeError, csv.Error):
        return None
    return row if row is not None and row.images else None


def _rows(listing: Listing, table: PurePosixPath) -> Iterator[Row]:
    if table.suffix.lower() == ".json":
        plain = read_json(listing.root / table)
        if isinstance(plain, dict) and {"modality", "channel_names"} & set(plain):
            return  # the Decathlon's or nnU-Net's own
        yield from _json_rows(plain, str(table))
        return
    lines = read_bytes(listing.root / table, max_bytes=MAX_BYTES).decode("utf-8-sig").splitlines()
    head = lines[0] if lines else ""
    delimiter = "\t" if "\t" in head else ";" if head.count(";") > head.count(",") else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    names = [n.strip() for n in reader.fieldnames or ()]
    if len(set(names)) != len(names):
        raise UserError(f"{table} has a column twice", "give every column its own name")
    for number, raw in enumerate(reader, start=2):
        row = {(k or "").strip(): (v or "").strip() for k, v in raw.items() if not isinstance(v, list)}
        yield _row(row, f"{table}, line {number}", str(row.get("split", "")))


def _json_rows(plain: object, name: str) -> Iterator[Row]:
    """[{…}, …] or {"training": […], "test": […]}."""
    parts = plain.items() if isinstance(plain, dict) else [("training", plain)]
    for split, entries in parts:
        if split not in ("training", "train", "validation", "val", *_TEST) or not isinstance(entries, list):
            continue
        for number, entry in enumerate(entries):
            row = entry if isinstance(entry, dict) else {"image": entry}
            yield _row(row, f"{name}, {split}[{number}]", str(row.get("split", split)))


def _row(row: dict[str, Any], where: str, split: str) -> Row:
    said: dict[str, Any] = {}
    images: list[tuple[str, str]] = []
    for column, value in row.items():
        lower = str(column).lower()
        if lower == "image" and isinstance(value, list):
            images += [(f"{i:04d}", str(v)) for i, v in enumerate(value)]
        elif lower in ("image", "images", "img") and value:
            images.append(("", str(value)))
        elif lower.startswith(("image_", "img_")) and value:
            images.append((str(column).partition("_")[2], str(value)))
        elif lower in _COLUMNS:
            said[_COLUMNS[lower]] = value
    annotated = said.get("annotated")
    if isinstance(annotated, str):
        annotated = tuple(a.strip() for a in annotated.replace("|", ";").split(";") if a.strip()) or None
    fold = said.get("fold")
    return Row(
        where=where,
        case=str(said.get("case") or _stem(images)),
        group=str(said.get("group") or ""),
        stratum=str(said.get("stratum") or ""),
        images=tuple(images),
        label=str(said.get("label") or ""),
        split=split,
        annotated=tuple(annotated) if annotated else None,
        fold=int(str(fold)) if str(fold).isdigit() else None,
    )


def _stem(images: list[tuple[str, str]]) -> str:
    if not images:
        return ""
    name = PurePosixPath(images[0][1].replace("\\", "/")).name
    return name[: len(name) - len(image_suffix(name))]


def _case(listing: Listing, row: Row, used: dict[str, str], problems: list[Problem]) -> DraftCase | None:
    """A row as a case, or the reason why not."""
    if not row.images:
        problems.append(error("row_empty", f"{row.where} names no image", "a path below the folder", "fill in the column image", row.case))
        return None
    paths = {p: _inside(listing, p, row.where) for p in (*(p for _, p in row.images), row.label) if p}
    for said, path in paths.items():
        if not listing.has(path) and path not in map(str, listing.dicom_folders):
            problems.append(
                error("file_missing", f"{row.where}: {said} is not there", "a file below the folder", "correct the path", row.case)
            )
            return None
        if path in used:
            found = f"{row.where}: {said} is also in {used[path]}"
            problems.append(error("file_twice", found, "every file once", "remove one of the rows", row.case))
            return None
    used |= dict.fromkeys(paths.values(), row.where)
    images = tuple((c, ImageFile(path=paths[p], kind="image" if image_suffix(paths[p]) else "dicom")) for c, p in row.images)
    label = ImageFile(path=paths[row.label]) if row.label else None
    return DraftCase(
        key=row.case,
        images=images,
        label=label,
        group=row.group or None,
        stratum=row.stratum,
        split="test" if row.split.lower() in _TEST or label is None else "train",
        annotated=row.annotated,
    )


def _inside(listing: Listing, path: str, where: str) -> str:
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute():
        if not pure.is_relative_to(listing.root):
            raise UserError(
                f"{where}: {path} lies outside of {listing.root.name}", "move the table to a folder above all files and name that"
            )
        pure = pure.relative_to(listing.root)
    clean = PurePosixPath(*(p for p in pure.parts if p != "."))
    if ".." in clean.parts:
        raise UserError(f"{where}: {path} leaves the folder", "move the table to a folder above all files and name that")
    return str(clean)


def _folds(folds: dict[int, list[str]]) -> tuple[GivenFolds, ...]:
    """MONAI's fold numbers: a case is held out in the fold it names."""
    everything = sorted(k for keys in folds.values() for k in keys)
    return tuple(
        GivenFolds(train=tuple(k for k in everything if k not in set(folds[f])), validation=tuple(sorted(folds[f]))) for f in sorted(folds)
    )
