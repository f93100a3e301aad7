"""Label tables as other tools write them: id to name, name to id, name to several ids."""

from collections.abc import Iterable
from typing import Any

from planners.errors import UserError
from planners.labels import LabelClass, Labels, Region

MAX_VALUE = 2**31 - 1


def labels_from_names(table: dict[str, Any], order: Iterable[int] | None, where: str) -> Labels:
    """{"background": 0, "tumour": [1, 2], "ignore": 3} and the values that regions are painted with."""
    single = {name: _whole(value, name, where) for name, value in table.items() if not isinstance(value, list)}
    several = {name: tuple(_whole(v, name, where) for v in value) for name, value in table.items() if isinstance(value, list)}
    ignore = single.pop("ignore", None)
    if all(len(values) == 1 for values in several.values()):
        single |= {name: values[0] for name, values in several.items()}
        several = {}
    names = {value: name for name, value in single.items()}
    if len(names) != len(single):
        twice = next(v for v in single.values() if list(single.values()).count(v) > 1)
        raise UserError(f"{where} gives the value {twice} to two labels", "give every label its own value")
    _background(names, several, where)
    for name, region in several.items():
        if len(region) == 1:
            names.setdefault(region[0], name)  # a region of one value says what that value is
    values = sorted({0, *names, *(v for region in several.values() for v in region)})
    classes = tuple(LabelClass(name=names.get(v, "background" if v == 0 else f"value_{v}"), value=v) for v in values)
    if not several:
        return Labels(classes=classes, ignore=ignore)
    regions = _regions(table, several, order, where)
    return Labels(classes=classes, regions=regions, ignore=ignore)


def labels_from_ids(table: dict[str, Any], where: str) -> Labels:
    """{"0": "background", "1": "anterior"} as the Decathlon has it."""
    classes = {}
    for key, name in table.items():
        if not key.lstrip("-").isdigit() or not isinstance(name, str):
            raise UserError(f"{where} has the label {key!r}: {name!r}", 'write "number": "name"')
        classes[int(key)] = name
    classes.setdefault(0, "background")
    return labels_of(tuple((name, value) for value, name in sorted(classes.items())))


def labels_of(named: tuple[tuple[str, int], ...]) -> Labels:
    """Names and values in any order; equal names are told apart by their value."""
    names = [name for name, _ in named]
    unique = {v: (n if names.count(n) == 1 else f"{n}_{v}") for n, v in named if v != 0}
    background = next((n for n, v in named if v == 0), "background")
    return Labels(
        classes=(LabelClass(name=background, value=0), *(LabelClass(name=unique[v], value=v) for v in sorted(unique))),
    )


def values_only(values: Iterable[int], ignore: int | None = None) -> Labels:
    """Labels of which only the values are known."""
    found = sorted(set(values) - {0, ignore})
    if len(found) == 1:
        return Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="foreground", value=found[0])), ignore=ignore)
    named = tuple(LabelClass(name=f"class_{v}", value=v) for v in found)
    return Labels(classes=(LabelClass(name="background", value=0), *named), ignore=ignore)


def _regions(table: dict[str, Any], several: dict[str, tuple[int, ...]], order: Iterable[int] | None, where: str) -> tuple[Region, ...]:
    """Every entry but background and ignore is a region, in the order of the file."""
    kept = {n: (several[n] if n in several else (table[n],)) for n in table if n != "ignore" and table[n] not in (0, [0])}
    paint = [int(v) for v in order] if order is not None else None
    if paint is None:
        raise UserError(f"{where} has regions, but no regions_class_order", "add regions_class_order: the value painted for each region")
    if len(paint) != len(kept):
        raise UserError(
            f"{where} has {len(kept)} regions and {len(paint)} entries in regions_class_order", "give one entry for each region"
        )
    return tuple(Region(name=n, values=values, paint=p) for (n, values), p in zip(kept.items(), paint, strict=True))


def _background(names: dict[int, str], several: dict[str, tuple[int, ...]], where: str) -> None:
    if 0 not in names and not any(0 in v for v in several.values()) and "background" in {*names.values(), *several}:
        raise UserError(f"{where} gives the background another value than 0", "give background the value 0")
    if 0 not in names and (names or several):
        raise UserError(f"{where} lists no background", 'add "background": 0')


def _whole(value: Any, name: str, where: str) -> int:
    if type(value) is int and abs(value) <= MAX_VALUE:
        return value
    raise UserError(f"{where} gives the label {name!r} the value {value!r}", "use whole numbers")
