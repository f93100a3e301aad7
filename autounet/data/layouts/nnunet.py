"""nnU-Net raw datasets: imagesTr with four-digit channels, labelsTr, dataset.json. Nothing needs converting."""

import re
from pathlib import PurePosixPath
from typing import Any

from autounet.data.dataset import GivenFolds, ImageFile, Problem
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, error, note
from autounet.data.layouts.label_table import labels_from_names
from autounet.data.listing import Listing
from autounet.store.strict import read_json
from planners.errors import UserError
from planners.labels import Labels

NAME = "nnunet"
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_KNOWN = {
    "channel_names",
    "modality",
    "labels",
    "numTraining",
    "file_ending",
    "regions_class_order",
    "overwrite_image_reader_writer",
    "dataset",
}


def recognise(listing: Listing) -> Candidate | None:
    """dataset.json with channel_names and labels."""
    record = dataset_json(listing)
    if record is None or not isinstance(record.get("labels"), dict):
        return None
    if "channel_names" in record and ("file_ending" in record or "dataset" in record):
        return Candidate(layout=NAME, sure=1.0, why="dataset.json has channel_names and labels, as nnU-Net v2 writes it")
    return None


def index(listing: Listing) -> Draft:
    """Cases by the names in imagesTr and labelsTr, or by the list in dataset.json."""
    record = dataset_json(listing)
    if record is None:
        raise UserError("there is no dataset.json in the folder", "name the folder that holds dataset.json, or choose another --layout")
    names = _channel_names(record)
    labels = _labels(record)
    ending = str(record.get("file_ending", ""))
    explicit = record.get("dataset")
    if isinstance(explicit, dict):
        cases, problems = _listed_cases(listing, explicit, len(names))
    else:
        cases, problems = _found_cases(listing, ending)
    problems += _count(record, cases)
    tests = [] if explicit else _images(listing, base(listing) / "imagesTs", ending)
    labelled_tests = _by_stem(listing, base(listing) / "labelsTs", ending)
    cases += [
        DraftCase(key=k, images=i, label=_file(listing, labelled_tests.get(k)), split="test")
        for k, i in tests
        if k not in {c.key for c in cases}
    ]
    keys = tuple(f"{i:04d}" for i in range(len(names)))
    return Draft(
        layout=NAME,
        why=f"dataset.json of nnU-Net v2: {len(names)} channels, {len(labels.classes)} classes",
        cases=tuple(cases),
        channel_keys=keys,
        channel_names=names,
        labels=labels,
        given_folds=given_folds(listing),
        problems=tuple(problems),
        in_one_file=len(names) > 1 and bool(cases) and all(len(c.images) == 1 for c in cases),
        name=re.sub(r"^Dataset\d{3}_", "", listing.root.name),
    )


def base(listing: Listing) -> PurePosixPath:
    """The folder that holds dataset.json: the root, or the only folder below it that has one."""
    found = [f.path.parent for f in listing.files if f.path.name == "dataset.json" and len(f.path.parts) <= 2]
    if not found:
        return PurePosixPath()
    if PurePosixPath() in found or len(found) == 1:
        return min(found)
    raise UserError(
        f"{listing.root.name} holds {len(found)} datasets: {', '.join(map(str, found[:10]))}",
        f"name one of them, for example {listing.root.name}/{found[0]}",
    )


def dataset_json(listing: Listing) -> dict[str, Any] | None:
    """dataset.json as a dictionary, strictly read."""
    path = base(listing) / "dataset.json"
    if not listing.has(path):
        return None
    plain = read_json(listing.root / path)
    if not isinstance(plain, dict):
        raise UserError(f"{path} is no object", "restore the file")
    return plain


def given_folds(listing: Listing) -> tuple[GivenFolds, ...]:
    """splits_final.json beside the images, as nnU-Net has it."""
    path = base(listing) / "splits_final.json"
    if not listing.has(path):
        return ()
    plain = read_json(listing.root / path)
    folds = []
    for number, fold in enumerate(plain if isinstance(plain, list) else []):
        if not isinstance(fold, dict) or set(fold) != {"train", "val"} or not all(isinstance(i, str) for v in fold.values() for i in v):
            raise UserError(f"{path}[{number}] is not an object with the lists train and val", "correct or remove splits_final.json")
        folds.append(GivenFolds(train=tuple(fold["train"]), validation=tuple(fold["val"])))
    if not folds:
        raise UserError(f"{path} holds no folds", "correct or remove splits_final.json")
    return tuple(folds)


def _channel_names(record: dict[str, Any]) -> tuple[str, ...]:
    table = record.get("channel_names", record.get("modality"))
    if not isinstance(table, dict) or not table or not all(str(k).isdigit() for k in table):
        raise UserError("dataset.json has no usable channel_names", 'write "channel_names": {"0": "CT"}')
    numbers = sorted(int(k) for k in table)
    if numbers != list(range(len(numbers))):
        raise UserError(f"channel_names in dataset.json are numbered {numbers}", f"number them 0 to {len(numbers) - 1}")
    return tuple(str(table[k]) for k in sorted(table, key=int))


def _labels(record: dict[str, Any]) -> Labels:
    table = record.get("labels")
    if not isinstance(table, dict) or not table:
        raise UserError("dataset.json has no labels", 'write "labels": {"background": 0, "tumour": 1}')
    return labels_from_names(table, record.get("regions_class_order"), "dataset.json")


def _found_cases(listing: Listing, ending: str) -> tuple[list[DraftCase], list[Problem]]:
    root = base(listing)
    labels = _labels_by_case(listing, root / "labelsTr", ending)
    images = _images(listing, root / "imagesTr", ending, frozenset(labels))
    cases = [DraftCase(key=k, images=i, label=_file(listing, labels.get(k)), split="train" if k in labels else "test") for k, i in images]
    problems: list[Problem] = []
    keys = {k for k, _ in images}
    for code, missing, what in (
        ("image_without_label", sorted(keys - set(labels)), "label"),
        ("label_without_image", sorted(set(labels) - keys), "image"),
    ):
        if missing:
            said = f"{len(missing)} cases have no {what}: {', '.join(missing[:20])}"
            problems.append(error(code, said, f"one {what} for each", "add the files, or remove the rest of the case"))
    if not images:
        raise UserError(f"there are no images {root / 'imagesTr'}/CASE_0000{ending}", "correct file_ending in dataset.json, or the names")
    return cases, problems


def _images(
    listing: Listing, folder: PurePosixPath, ending: str, labels: frozenset[str] = frozenset()
) -> list[tuple[str, tuple[tuple[str, ImageFile], ...]]]:
    """Case and its channels; a file without four digits at its end, or called like a label, is its own case with one channel."""
    found: dict[str, list[tuple[str, ImageFile]]] = {}
    for stem, path in _by_stem(listing, folder, ending).items():
        matched = None if stem in labels else _CHANNEL.match(stem)
        key, channel = (matched[1], matched[2]) if matched else (stem, "0000")
        found.setdefault(key, []).append((channel, ImageFile(path=str(path))))
    return [(key, tuple(sorted(files, key=lambda f: f[0]))) for key, files in sorted(found.items())]


def _labels_by_case(listing: Listing, folder: PurePosixPath, ending: str) -> dict[str, PurePosixPath]:
    """Labels by case; some people give them the channel's digits too."""
    stems = _by_stem(listing, folder, ending)
    if len(stems) > 1 and all(s.endswith("_0000") for s in stems):
        return {s[:-5]: p for s, p in stems.items()}
    return stems


def _by_stem(listing: Listing, folder: PurePosixPath, ending: str) -> dict[str, PurePosixPath]:
    files = listing.by_folder.get(folder, ())
    return {f.path.name[: -len(ending)] if ending else f.stem: f.path for f in files if not ending or f.path.name.endswith(ending)}


def _file(listing: Listing, path: PurePosixPath | None) -> ImageFile | None:
    return None if path is None else ImageFile(path=str(path))


def _listed_cases(listing: Listing, table: dict[str, Any], channels: int) -> tuple[list[DraftCase], list[Problem]]:
    cases, problems, used = [], list[Problem](), set[str]()
    for key, entry in table.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
            raise UserError(f'dataset.json: the case {key!r} is no {{"images": [...], "label": ...}}', "correct the entry")
        paths = [inside(listing, str(p), f"dataset.json, case {key}") for p in (*entry["images"], entry.get("label", "")) if p]
        twice = used & set(paths)
        if twice or len(set(paths)) != len(paths):
            problems.append(
                error("file_twice", f"{min(twice or set(paths))} is listed twice", "every file once", "correct dataset.json", key)
            )
            continue
        used |= set(paths)
        images = tuple((f"{i:04d}", ImageFile(path=p)) for i, p in enumerate(paths[: len(entry["images"])]))
        label = ImageFile(path=paths[-1]) if entry.get("label") else None
        cases.append(DraftCase(key=key, images=images, label=label, split="train" if label else "test"))
    return cases, problems


def inside(listing: Listing, path: str, where: str) -> str:
    """A path from a file's text, relative to the root and not leaving it."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute():
        try:
            pure = pure.relative_to(listing.root)
        except ValueError as outside:
            raise UserError(f"{where}: {path} lies outside of the dataset folder", "name files below the folder") from outside
    else:
        pure = PurePosixPath(*(p for p in (base(listing) / pure).parts if p != "."))
    if ".." in pure.parts:
        raise UserError(f"{where}: {path} leaves the dataset folder", "name files below the folder")
    return str(pure)


def _count(record: dict[str, Any], cases: list[DraftCase]) -> list[Problem]:
    problems = []
    declared, found = record.get("numTraining"), sum(c.label is not None for c in cases)
    if type(declared) is int and declared != found:
        expected = f"{declared}, as numTraining in dataset.json says"
        problems.append(error("case_count", f"{found} training cases", expected, "look for missing or surplus files"))
    near = [k for k in record if k not in _KNOWN and k.lower().replace("_", "") in {n.replace("_", "") for n in _KNOWN}]
    problems += [
        note("unknown_key", f"dataset.json has the key {k!r}, which is not read", "one of the documented keys", "correct its spelling")
        for k in near
    ]
    return problems
