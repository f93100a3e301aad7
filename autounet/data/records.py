"""Records of cases, kept by what they were made from, so that no voxel is read twice."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autounet.data.dataset import Case, Dataset, FileHash
from autounet.data.listing import is_dicom
from autounet.data.record import RECORD_VERSION, CaseRecord
from autounet.store.cache import key
from autounet.store.digest import digest_file
from autounet.store.files import publish_text
from autounet.store.strict import read_json
from planners.errors import UserError
from planners.strict_json import from_plain, to_plain

SHARD = 256  # records in one file: few files for many cases, little lost when a run is killed
MAX_BYTES = 2**28


@dataclass
class Records:
    """A folder of JSON files, each with some records by their keys. Damaged files count as absent."""

    folder: Path
    _plain: dict[str, Any] = field(default_factory=dict)
    _fresh: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
            try:
                plain = read_json(path, max_bytes=MAX_BYTES)
            except UserError:  # it is made again
                continue
            if isinstance(plain, dict):
                self._plain.update(plain)

    def get(self, name: str) -> CaseRecord | None:
        """The record of that key, if it is whole."""
        plain = self._plain.get(name)
        if plain is None:
            return None
        try:
            return from_plain(CaseRecord, plain, "record")
        except UserError:
            return None

    def add(self, name: str, record: CaseRecord) -> None:
        """Keep a record; it lasts after the next flush, which comes by itself now and then."""
        with self._lock:
            self._plain[name] = self._fresh[name] = to_plain(record)
            full = len(self._fresh) >= SHARD
        if full:
            self.flush()

    def flush(self) -> None:
        """Publish what is new."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if fresh:
            publish_text(self.folder / f"{key(*sorted(fresh))[:24]}.json", json.dumps(fresh, separators=(",", ":"), allow_nan=False))


def hash_files(dataset: Dataset, case: Case) -> tuple[FileHash, ...]:
    """SHA-256 of every file of a case, each once."""
    files = [*case.images, *([case.label] if case.label else []), *(m.file for m in case.masks)]
    return tuple(FileHash(path=path, sha256=_sha256(dataset.folder / path)) for path in dict.fromkeys(f.path for f in files))


def record_key(dataset: Dataset, case: Case, hashes: dict[str, str]) -> str:
    """A name for everything that the record of a case depends on."""
    reading = repr(to_plain(dataset.reading))
    colours = f"{dataset.dimensions} {[c.modality == 'rgb' for c in dataset.channels]}"
    files = [f"{f.kind} {f.part} {f.section} {f.series} {hashes[f.path]}" for f in case.images]
    masks = [f"{m.value} {hashes[m.file.path]}" for m in case.masks]
    label = "none" if case.label is None else f"{case.label.kind} {case.label.part} {case.label.section} {hashes[case.label.path]}"
    names = repr([(c.name, c.value) for c in dataset.labels.classes]) if dataset.label_style in ("rtstruct", "dicom_seg") else ""
    ignore = str(dataset.labels.ignore)
    return key(str(RECORD_VERSION), reading, colours, dataset.label_style, names, ignore, *files, "label", label, *masks)


def _sha256(path: Path) -> str:
    try:
        if not path.is_dir():
            return digest_file(path.resolve()).sha256  # a link inside the dataset is as good as the file
        return key(*(digest_file(p.resolve()).sha256 for p in sorted(path.rglob("*")) if p.is_file() and is_dicom(p)))
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be read ({error.strerror})", "check that it is still there and that you may read it"
        ) from error
