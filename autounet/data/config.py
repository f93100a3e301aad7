"""autounet.toml: what the user knows better than any guess. Strict: a key that is misspelt is named."""

import difflib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from autounet.data.dataset import Reading
from autounet.data.layouts.label_table import labels_of
from autounet.store.strict import read_bytes
from planners.errors import UserError
from planners.fingerprint import Modality
from planners.labels import LabelClass, Labels, Region

FILE_NAME = "autounet.toml"
MAX_BYTES = 2**20

_DATASET = {
    **dict.fromkeys(("name", "layout", "stacks", "trust", "group_by", "series", "fold_rule"), str),
    **dict.fromkeys(("follow_symlinks", "ignore_geometry", "unusual_geometry", "resample_tilt", "gray", "palette_indices"), bool),
    "dimensions": int,
    "spacing_zyx_mm": list,
    "fill_nonfinite": float,
}
_TABLES = ("dataset", "channels", "labels", "regions", "label_values", "groups", "annotated", "test")


_PLAIN = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The overrides; what is None or empty is left to the layout."""

    path: Path | None = None
    name: str | None = None
    layout: str | None = None
    dimensions: int | None = None
    stacks: str | None = None  # slices or volume
    group_by: str | None = None  # none, or a regular expression whose first group is the patient
    series: str | None = None
    fold_rule: str = "grouped"
    reading: Reading = _PLAIN
    channels: tuple[tuple[str, Modality], ...] = ()
    labels: Labels | None = None
    groups: dict[str, str] = field(default_factory=dict)
    annotated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    test: tuple[str, ...] = ()


def find_config(dataset: Path, work: Path | None) -> Path | None:
    """In the work folder, beside it, or in the dataset folder; the first that is there."""
    places = [
        *([work / FILE_NAME, work.with_suffix(".toml")] if work else []),
        dataset / FILE_NAME,
        dataset.with_name(f"{dataset.name}.{FILE_NAME}"),
    ]
    return next((p for p in places if p.is_file()), None)


def read_config(path: Path | None) -> Config:
    """The overrides of one file; None gives none."""
    if path is None:
        return Config()
    try:
        plain = tomllib.loads(read_bytes(path, max_bytes=MAX_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML: {error}", "correct the line that is named") from error
    _known(plain, _TABLES, f"{path.name}")
    for name in _TABLES:
        if not isinstance(plain.get(name, {}), dict):
            raise UserError(f"{path.name}: {name} is no table", f"write [{name}] on a line of its own and the entries below")
    config = _dataset(plain.get("dataset", {}), Config(path=path), path.name)
    values = plain.get("label_values", {})
    return replace(
        config,
        reading=_label_values(values, config.reading, path.name),
        channels=_channels(plain.get("channels", {}), path.name),
        labels=_labels(plain.get("labels", {}), plain.get("regions", {}), path.name),
        groups={k: _text(v, f"{path.name}: groups.{k}") for k, v in plain.get("groups", {}).items()},
        annotated={k: _texts(v, f"{path.name}: annotated.{k}") for k, v in plain.get("annotated", {}).items()},
        test=_test(plain.get("test", {}), path.name),
    )


def _dataset(table: dict[str, Any], config: Config, where: str) -> Config:
    _known(table, tuple(_DATASET), f"{where}, table dataset")
    for key, value in table.items():
        kind = _DATASET[key]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{where}: dataset.{key} is {value!r}", f"write a {kind.__name__}")
    for key, allowed in (
        ("stacks", ("slices", "volume")),
        ("trust", ("sform", "qform", "stored")),
        ("dimensions", (2, 3)),
        ("fold_rule", ("grouped", "nnunet")),
    ):
        if key in table and table[key] not in allowed:
            raise UserError(f"{where}: dataset.{key} is {table[key]!r}", f"use one of {', '.join(map(str, allowed))}")
    spacing = table.get("spacing_zyx_mm")
    if spacing is not None and (len(spacing) != 3 or not all(type(s) in (int, float) and s > 0 for s in spacing)):
        raise UserError(f"{where}: dataset.spacing_zyx_mm is {spacing!r}", "write three positive numbers, slices first")
    reading = Reading(
        trust=table.get("trust"),
        spacing_zyx_mm=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        unusual_geometry=table.get("unusual_geometry", False),
        fill_nonfinite=None if table.get("fill_nonfinite") is None else float(table["fill_nonfinite"]),
        follow_symlinks=table.get("follow_symlinks", False),
        resample_tilt=table.get("resample_tilt", False),
        ignore_geometry=table.get("ignore_geometry", False),
        gray=table.get("gray", False),
        palette_indices=table.get("palette_indices", False),
    )
    return replace(
        config,
        reading=reading,
        name=table.get("name"),
        layout=table.get("layout"),
        dimensions=table.get("dimensions"),
        stacks=table.get("stacks"),
        group_by=table.get("group_by"),
        series=table.get("series"),
        fold_rule=table.get("fold_rule", "grouped"),
    )


def _label_values(table: dict[str, Any], reading: Reading, where: str) -> Reading:
    _known(table, ("scale", "nearest", "binary"), f"{where}, table label_values")
    scale, nearest, binary = table.get("scale", 1.0), table.get("nearest", False), table.get("binary", False)
    if type(scale) not in (int, float) or scale <= 0:
        raise UserError(f"{where}: label_values.scale is {scale!r}", "write a positive number")
    if type(nearest) is not bool or type(binary) is not bool:
        raise UserError(f"{where}: label_values holds nearest {nearest!r} and binary {binary!r}", "write true or false")
    return replace(reading, label_scale=float(scale), nearest_label=nearest, binary_label=binary)


def _channels(table: dict[str, Any], where: str) -> tuple[tuple[str, Modality], ...]:
    """name = "ct", in the order of the files."""
    known = get_args(Modality)
    for name, modality in table.items():
        if modality not in known:
            raise UserError(f"{where}: the channel {name!r} is {modality!r}", f"write one of {', '.join(known)}")
    return tuple(table.items())


def _labels(table: dict[str, Any], regions: dict[str, Any], where: str) -> Labels | None:
    if not table:
        if regions:
            raise UserError(f"{where} has regions but no labels", "add the table [labels] with a name for every value")
        return None
    for name, value in table.items():
        if type(value) is not int:
            raise UserError(f"{where}: labels.{name} is {value!r}", "write a whole number, or put unions of values under [regions]")
    ignore = table.get("ignore")
    plain = labels_of(tuple((n, v) for n, v in table.items() if n != "ignore"))
    named = [LabelClass(name=n, value=v) for n, v in table.items() if n != "ignore" and v != 0]
    if len(set(table.values())) != len(table):
        raise UserError(f"{where} gives one value to two labels", "give every label its own value")
    return Labels(classes=(plain.classes[0], *sorted(named, key=lambda c: c.value)), regions=_regions(regions, where), ignore=ignore)


def _regions(table: dict[str, Any], where: str) -> tuple[Region, ...]:
    """name = {values = [1, 2], paint = 1}, outer regions first."""
    regions = []
    for name, entry in table.items():
        good = (
            isinstance(entry, dict)
            and set(entry) == {"values", "paint"}
            and isinstance(entry["values"], list)
            and type(entry["paint"]) is int
        )
        if not good or not entry["values"] or not all(type(v) is int for v in entry["values"]):
            raise UserError(f"{where}: regions.{name} is {entry!r}", "write {values = [1, 2], paint = 1}")
        regions.append(Region(name=name, values=tuple(entry["values"]), paint=entry["paint"]))
    return tuple(regions)


def _test(table: dict[str, Any], where: str) -> tuple[str, ...]:
    _known(table, ("cases",), f"{where}, table test")
    return _texts(table.get("cases", []), f"{where}: test.cases")


def _known(table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(f"{where}: there is no key {key!r}", f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} is {value!r}", "write a text")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UserError(f"{where} is {value!r}", "write a list of texts")
    return tuple(value)
