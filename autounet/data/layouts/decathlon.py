"""Medical Segmentation Decathlon and nnU-Net v1: dataset.json lists the files, channels lie in one 4D file or in _0000, _0001 …"""

from pathlib import PurePosixPath
from typing import Any

from autounet.data.dataset import ImageFile, Problem
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, error
from autounet.data.layouts.label_table import labels_from_ids, labels_from_names
from autounet.data.layouts.nnunet import dataset_json, given_folds, inside
from autounet.data.listing import Listing
from autounet.data.names import image_suffix
from planners.errors import UserError
from planners.labels import Labels

NAME = "decathlon"


def recognise(listing: Listing) -> Candidate | None:
    """dataset.json with modality and a list of training pairs."""
    record = dataset_json(listing)
    if record is None or "modality" not in record or not isinstance(record.get("training"), list):
        return None
    return Candidate(layout=NAME, sure=1.0, why="dataset.json has modality and a training list, as the Decathlon and nnU-Net v1 write it")


def index(listing: Listing) -> Draft:
    """The listed cases; files that are listed but absent are named."""
    record = dataset_json(listing)
    if record is None or not isinstance(record.get("training"), list):
        raise UserError("there is no dataset.json with a training list", "name the folder that holds it, or choose another --layout")
    names = _modality(record)
    cases: list[DraftCase] = []
    problems: list[Problem] = []
    for entry in record["training"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise UserError(f"dataset.json lists {entry!r} for training", 'write {"image": "...", "label": "..."}')
        _add(listing, entry["image"], entry.get("label"), len(names), cases, problems)
    for entry in record.get("test", []):
        path = entry.get("image") if isinstance(entry, dict) else entry
        if isinstance(path, str):
            _add(listing, path, None, len(names), cases, [])  # test images are often left out of a copy
    problems += _count(record, sum(c.label is not None for c in cases))
    separate = any(len(c.images) > 1 for c in cases)
    return Draft(
        layout=NAME,
        why=f"dataset.json of the Decathlon: {len(cases)} cases, {len(names)} channels",
        cases=tuple(cases),
        channel_keys=tuple(f"{i:04d}" for i in range(len(names))),
        channel_names=names,
        labels=_labels(record),
        given_folds=given_folds(listing),
        problems=tuple(problems),
        in_one_file=len(names) > 1 and not separate,
        name=str(record.get("name", "")).replace(" ", "_") if str(record.get("name", "")).isascii() else "",
    )


def _add(
    listing: Listing, image: str, label: str | None, channels: int, cases: list[DraftCase], problems: list[Problem]
) -> None:  # fmt: skip
    path = inside(listing, image, "dataset.json")
    name = PurePosixPath(path).name
    suffix = image_suffix(name)
    key = name[: len(name) - len(suffix)]
    folder = PurePosixPath(path).parent
    if key.endswith("_0000") and (channels > 1 or (label is not None and key not in label)):
        key = key[:-5]  # listed by its first channel
        path = str(folder / f"{key}{suffix}")
    if listing.has(path):
        images: tuple[tuple[str, ImageFile], ...] = (("0000", ImageFile(path=path)),)
    else:
        found = [(f"{c:04d}", str(folder / f"{key}_{c:04d}{suffix}")) for c in range(channels)]
        images = tuple((c, ImageFile(path=p)) for c, p in found if listing.has(p))
    target = None if label is None else inside(listing, label, "dataset.json")
    absent = path if not images else target if target is not None and not listing.has(target) else None
    if absent is not None:
        problems.append(error("file_missing", f"{absent} is listed in dataset.json and is not there", "every listed file", "copy it", key))
        return
    if any(c.key == key for c in cases):
        problems.append(error("file_twice", f"{image} is listed twice in dataset.json", "every file once", "correct dataset.json", key))
        return
    file = None if target is None else ImageFile(path=target)
    cases.append(DraftCase(key=key, images=images, label=file, split="test" if file is None else "train"))


def _modality(record: dict[str, Any]) -> tuple[str, ...]:
    table = record["modality"]
    if not isinstance(table, dict) or not table or sorted(map(str, table)) != sorted(str(i) for i in range(len(table))):
        raise UserError(f"dataset.json has the modality {table!r}", 'write "modality": {"0": "MRI"}')
    return tuple(str(table[k]) for k in sorted(table, key=int))


def _labels(record: dict[str, Any]) -> Labels:
    table = record.get("labels")
    if not isinstance(table, dict) or not table:
        raise UserError("dataset.json has no labels", 'write "labels": {"0": "background", "1": "tumour"}')
    if all(isinstance(v, str) for v in table.values()):
        return labels_from_ids(table, "dataset.json")
    return labels_from_names(table, record.get("regions_class_order"), "dataset.json")


def _count(record: dict[str, Any], found: int) -> list[Problem]:
    declared = record.get("numTraining")
    if type(declared) is not int or declared == found:
        return []
    expected = f"{declared}, as numTraining in dataset.json says"
    return [error("case_count", f"{found} training cases", expected, "look for missing or surplus files")]
