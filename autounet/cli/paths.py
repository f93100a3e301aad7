"""Paths as typed: does it exist, what was meant, and where to work."""

import difflib
import os
from itertools import islice
from pathlib import Path

from autounet import pipeline
from autounet.store.strict import read_json
from planners.errors import UserError

WORK_SUFFIX = ".autounet"
_LOOKED_AT = 10_000  # entries of a folder; a misspelt path must not list an archive of millions


def existing_folder(path: Path, what: str) -> Path:
    """The path, which is a folder; else a UserError that names the nearest one that is."""
    existing(path, what)
    if not path.is_dir():
        raise UserError(f"the {what} {path} is a file, not a folder", f"name the folder, for example {path.parent}")
    return path


def existing(path: Path, what: str) -> Path:
    """The path, which exists; else a UserError that names the nearest one that does."""
    try:
        path.stat()
    except FileNotFoundError:
        near = _nearest(path)
        fix = f"did you mean {near}?" if near else "correct the path"
        raise UserError(f"the {what} {path} does not exist", fix) from None
    except NotADirectoryError:
        raise UserError(f"the {what} {path} lies below a file", "correct the path") from None
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be looked at ({error.strerror})", "ask for the right to read it") from None
    return path


def dataset_and_work(dataset: Path, work: Path | None) -> tuple[Path, Path]:
    """The dataset folder and its work folder. Naming the work folder itself works too."""
    if work is None and dataset.name.endswith(WORK_SUFFIX) and dataset.is_dir():
        data = dataset.with_name(dataset.name.removesuffix(WORK_SUFFIX))
        return existing_folder(data, "dataset"), dataset
    existing_folder(dataset, "dataset")
    known = _dataset_of(dataset) if work is None else None
    return (dataset, work_folder(dataset, work)) if known is None else (existing_folder(known, "dataset"), dataset)


def _dataset_of(folder: Path) -> Path | None:
    """Which dataset a work folder that was named with --work belongs to; None for any other folder."""
    index = folder / "index.json"
    if not index.is_file() or not (folder / "manifest.json").is_file():
        return None
    plain = read_json(index, max_bytes=pipeline.INDEX_BYTES)
    root = plain.get("root") if isinstance(plain, dict) else None
    return Path(root) if isinstance(root, str) else None


def work_folder(dataset: Path, work: Path | None) -> Path:
    """Where everything is written: beside the dataset, or where the user said; never inside the dataset."""
    absolute = Path(os.path.abspath(dataset))  # noqa: PTH100 - a link stays what the user typed
    if work is None:
        if not absolute.name:
            raise UserError(f"{dataset} is the root of the file system", "name a dataset folder, or a work folder with --work")
        return absolute.with_name(absolute.name + WORK_SUFFIX)
    chosen = Path(os.path.abspath(work))  # noqa: PTH100
    if chosen.exists() and not chosen.is_dir():
        raise UserError(f"the work folder {work} is a file", "name a folder with --work")
    if chosen.resolve().is_relative_to(absolute.resolve()):
        raise UserError(f"the work folder {work} lies in the dataset, where nothing is written", "name one outside of it with --work")
    return chosen


def outside(path: Path | None, read_only: Path, what: str) -> None:
    """Refuse to write to a folder that is only read, or below it: before anything opens a log there."""
    if path is None or not read_only.is_dir():
        return
    if path.resolve().is_relative_to(read_only.resolve()):
        raise UserError(f"the {what} {path} lies in {read_only}, where nothing is written", "name a folder elsewhere")


def _nearest(path: Path) -> Path | None:
    """The existing path that differs least, one misspelt part at a time."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    found = Path(absolute.anchor)
    for part in absolute.parts[1:]:
        if (found / part).exists():
            found /= part
            continue
        try:
            names = [entry.name for entry in islice(os.scandir(found), _LOOKED_AT)]
        except OSError:
            return None
        lower = {name.lower(): name for name in names}
        close = difflib.get_close_matches(part.lower(), lower, n=1, cutoff=0.6)
        if not close:
            return None
        found /= lower[close[0]]
    return found
