"""Finding the trained models in a folder or zip of nnU-Net, and reading their JSON."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autounet.store.strict import read_json
from planners.errors import UserError

MEMBER = re.compile(
    r"(?:[^/\\\0]{1,120}/){0,4}(plans\.json|dataset\.json|dataset_fingerprint\.json|fold_(?:\d{1,2}|all)/checkpoint_\w{1,20}\.pth)"
)
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
MAX_BYTES = 16 * 2**30
MAX_MEMBERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFold:
    """One trained fold."""

    fold: int
    checkpoint: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """One folder TRAINER__PLANS__CONFIGURATION."""

    folder: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    fingerprint: dict[str, Any] | None
    folds: tuple[ForeignFold, ...]

    @property
    def configuration(self) -> str:
        """From the folder's name; empty when it tells nothing."""
        parts = self.folder.name.split("__")
        return parts[2] if len(parts) == 3 else ""

    def sibling(self, configuration: str) -> "ForeignModel | None":
        """The model of another configuration that the same trainer made from the same plans, in the folder beside."""
        parts = self.folder.name.split("__")
        beside = self.folder.with_name("__".join((*parts[:2], configuration)))
        if len(parts) != 3 or not (beside / "plans.json").is_file() or not (beside / "dataset.json").is_file():
            return None
        found = _read(beside)
        return found if found.folds else None


@contextmanager
def opened(path: Path) -> Iterator[tuple[ForeignModel, ...]]:
    """The models in a folder, or in a zip that is unpacked for as long as this lasts."""
    if path.is_dir():
        yield find_models(path)
        return
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path.name} is neither a folder nor a zip", "name a folder with plans.json and fold_0, or an exported zip")
    with TemporaryDirectory() as scratch:
        _unpack(path, Path(scratch))
        yield find_models(Path(scratch))


def find_models(root: Path) -> tuple[ForeignModel, ...]:
    """Every folder below that holds plans.json, dataset.json and a trained fold."""
    found = [_read(plans.parent) for plans in sorted(root.rglob("plans.json")) if (plans.parent / "dataset.json").is_file()]
    models = tuple(model for model in found if model.folds)
    if not models:
        raise UserError(
            f"{root.name} holds no trained nnU-Net", "name the folder that holds plans.json, dataset.json and fold_0/checkpoint_final.pth"
        )
    return models


def _read(folder: Path) -> ForeignModel:
    fingerprint = folder / "dataset_fingerprint.json"
    return ForeignModel(
        folder=folder,
        plans=_object(folder / "plans.json"),
        dataset=_object(folder / "dataset.json"),
        fingerprint=_object(fingerprint) if fingerprint.is_file() else None,
        folds=tuple(_folds(folder)),
    )


def _folds(folder: Path) -> Iterator[ForeignFold]:
    for place in sorted(folder.glob("fold_*")):
        number = 0 if place.name == "fold_all" else int(place.name[5:]) if place.name[5:].isdigit() else None
        checkpoint = next((place / name for name in CHECKPOINTS if (place / name).is_file()), None)
        if number is not None and checkpoint is not None:
            yield ForeignFold(fold=number, checkpoint=checkpoint)


def _object(path: Path) -> dict[str, Any]:
    plain = read_json(path)
    if not isinstance(plain, dict):
        raise UserError(f"{path.name} is no object", "name a folder that nnU-Net wrote")
    return plain


def _unpack(path: Path, scratch: Path) -> None:
    """Only the files that are needed, one by one, under names made here."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_BYTES:
            raise UserError(f"{path.name} is larger than any exported model", "export the model again")
        for info in infos:
            if not MEMBER.fullmatch(info.filename) or ".." in info.filename.split("/"):
                continue
            target = scratch.joinpath(*info.filename.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("xb") as out:
                left = info.file_size
                while left > 0 and (block := source.read(min(left, 2**20))):
                    out.write(block)
                    left -= len(block)
