"""Checkpoints that are only ever added: a new one is complete before an old one goes.

Each is two files, the tensors and then a record with their hash; without its record a checkpoint is
not there. Names count upwards over all runs, so nothing that exists is ever written over.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autounet.store.digest import Digest
from autounet.store.files import make_folder, publish_json, remove_file
from autounet.store.strict import read_json
from autounet.store.sweep import sweep
from autounet.store.weights import load_tensors, save_tensors
from planners.errors import UserError

if TYPE_CHECKING:
    from autounet.store.weights import Tensor

SCHEMA = 1
_RECORD = re.compile(r"([0-9]{6,})_step_([0-9]+)(_best)?\.json")
_KEYS = ["schema", "sha256", "size", "state", "step"]
_STATE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose hash was checked. `note` says which newer ones were damaged, and is empty if none was."""

    step: int
    tensors: Mapping[str, Any]
    state: Any  # plain JSON values
    best: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Record:
    number: int
    step: int
    best: bool  # told by the name: a disk that cannot be read for a moment must not cost the best one
    path: Path

    @property
    def tensors(self) -> Path:
        return self.path.with_suffix(".safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one training run: the last `keep` and the best. One writer, which holds the run's lock."""

    folder: Path
    keep: int = 2
    say: Callable[[str], None] | None = None  # told when a damaged checkpoint was passed over

    def save(self, step: int, tensors: Mapping[str, "Tensor"], state_plain: Any, best: bool = False) -> Digest:
        """Add a checkpoint; then, and only then, remove those no longer needed."""
        make_folder(self.folder)
        self.tidy()
        number = max((r.number for r in self._records()), default=0) + 1
        path = self.folder / f"{number:06d}_step_{step}{'_best' if best else ''}.json"
        digest = save_tensors(path.with_suffix(".safetensors"), tensors, {"step": str(step)}, sealed=False)
        plain = {"schema": SCHEMA, "step": step, "size": digest.size, "sha256": digest.sha256, "state": state_plain}
        publish_json(path, plain)
        self.tidy()
        return digest

    def latest(self, framework: Literal["torch", "numpy"] = "torch") -> Checkpoint | None:
        """The newest sound checkpoint, None when there never was one; a UserError when all are damaged."""
        return self._first_sound(self._records(), framework)

    def best(self, framework: Literal["torch", "numpy"] = "torch") -> Checkpoint | None:
        """The newest sound checkpoint that was saved as the best, None when there is none."""
        return self._first_sound([r for r in self._records() if r.best], framework)

    def told(self) -> Any:
        """What was saved beside the tensors of the newest record, unread as yet; None when there is none or it cannot be read."""
        try:
            return next((_read_record(record)["state"] for record in self._records()), None)
        except UserError:
            return None

    def tidy(self) -> None:
        """Remove checkpoints that are no longer needed and what a killed save left.

        Records go before their tensors, so that no record ever lacks them.
        """
        records = self._records()
        newest_best = next((r for r in records if r.best), None)
        kept = {r.path for r in records[: max(1, self.keep)]} | ({newest_best.path} if newest_best else set())
        for record in records:
            if record.path not in kept:
                remove_file(record.path)
        for tensors in self.folder.glob("*.safetensors"):
            if tensors.with_suffix(".json") not in kept:
                remove_file(tensors)
        sweep(self.folder)

    def _first_sound(self, records: list[_Record], framework: Literal["torch", "numpy"]) -> Checkpoint | None:
        broken: list[str] = []
        for record in records:
            try:
                found = self._load(record, framework, broken)
            except UserError as error:
                broken.append(f"step {record.step} is damaged ({error.problem.replace(str(self.folder), self.folder.name)})")
                continue
            if found.note and self.say is not None:
                self.say(found.note)
            return found
        if broken:
            raise UserError(
                f"no checkpoint in {self.folder} is sound: {broken[0]}", "restore the folder, or remove it to train from the start"
            )
        return None

    def _load(self, record: _Record, framework: Literal["torch", "numpy"], broken: list[str]) -> Checkpoint:
        plain = _read_record(record)
        if framework == "torch":
            tensors: Mapping[str, Any] = load_tensors(record.tensors, "torch", sha256=plain["sha256"])
        else:
            tensors = load_tensors(record.tensors, "numpy", sha256=plain["sha256"])
        note = f"fell back to step {record.step}: {'; '.join(broken)}" if broken else ""
        return Checkpoint(record.step, tensors, plain["state"], record.best, note)

    def _records(self) -> list[_Record]:
        """Newest first."""
        found: list[_Record] = []
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if match := _RECORD.fullmatch(path.name):
                    found.append(_Record(int(match[1]), int(match[2]), match[3] is not None, path))
        return sorted(found, key=lambda record: record.number, reverse=True)


def _read_record(record: _Record) -> dict[str, Any]:
    plain = read_json(record.path, max_bytes=_STATE_BYTES)
    if not isinstance(plain, dict) or sorted(plain) != _KEYS or plain["schema"] != SCHEMA:
        raise UserError(f"{record.path} is no record of a checkpoint of this version", "remove it")
    if plain["step"] != record.step or not isinstance(plain["sha256"], str):
        raise UserError(f"{record.path} contradicts itself", "remove it")
    return plain
