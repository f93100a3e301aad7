"""Which cases are trained on and which are held out, fold by fold: by patient, balanced, and the same every time."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autounet.data.dataset import Case, Dataset
from autounet.rng import generator
from autounet.store.cache import key
from autounet.store.strict import read_value, write_value
from planners.errors import UserError

SPLITS_SCHEMA = 1
NNUNET_SEED = 12345
LEAVE_ONE_OUT_BELOW = 5  # groups
EXCHANGES = 20_000  # tried at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Case ids."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """All folds, and by which rule they were made."""

    schema: int = SPLITS_SCHEMA
    rule: str  # grouped, leave_one_out, nnunet, given
    seed: int
    made: str = ""  # a digest of the folds as they were made; when it does not fit, somebody edited them
    folds: tuple[Fold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What balancing looks at: the volume of each class in one case, in ml."""

    volumes_ml: Mapping[str, float]


def make_splits(
    dataset: Dataset,
    count: int = 5,
    seed: int = NNUNET_SEED,
    *,
    content: Mapping[str, Content] | None = None,
    keep: Splits | None = None,
    rule: str = "grouped",
) -> Splits:
    """Folds by patient, each with its share of every class; `rule="nnunet"` gives the reference's own folds.

    With `keep`, patients stay in the folds that they had there and only new ones are placed.
    """
    cases = dataset.training
    if not cases:
        raise UserError("no case has a label, so there is nothing to train on", "add masks, and run `autounet check` again")
    if dataset.given_folds:
        given = Splits(rule="given", seed=seed, folds=tuple(Fold(train=f.train, validation=f.validation) for f in dataset.given_folds))
        return checked(given, dataset, "splits_final.json")
    groups = _groups(cases)
    if len(groups) < 2:
        raise UserError(
            f"{len(cases)} case{'s' if len(cases) > 1 else ''} of one patient cannot be divided into folds",
            "add a case of another patient: a network is judged on patients it has not seen",
        )
    if rule == "nnunet":
        return Splits(rule=rule, seed=NNUNET_SEED, folds=_shuffled(sorted(c.id for c in cases), count))
    if rule != "grouped":
        raise UserError(f"there is no rule {rule!r} for folds", "use grouped or nnunet")
    if count < 0 or count == 1:
        raise UserError(f"{count} folds are no cross-validation", "ask for two or more, or 0 to leave one patient out at a time")
    if count > len(groups) >= LEAVE_ONE_OUT_BELOW:
        raise UserError(f"{len(groups)} patients cannot make {count} folds", f"ask for {len(groups)} folds or fewer")
    if count == 0 or len(groups) < LEAVE_ONE_OUT_BELOW:
        parts = [[g] for g in sorted(groups)]
        return Splits(rule="leave_one_out", seed=seed, folds=_folds(parts, groups))
    return Splits(rule=rule, seed=seed, folds=_folds(_balanced(groups, _Wanted(count, seed, content or {}, keep)), groups))


def write_splits(path: Path, splits: Splits) -> None:
    """A file to edit before anything is trained."""
    write_value(path, replace(splits, made=_digest(splits)))


def untouched(path: Path) -> bool:
    """Whether the folds in a file are as they were made."""
    try:
        splits = read_value(path, Splits)
    except UserError:
        return False
    return splits.made == _digest(splits)


def _digest(splits: Splits) -> str:
    return key(*(text for fold in splits.folds for text in ("train", *fold.train, "validation", *fold.validation)))


def read_splits(path: Path, dataset: Dataset) -> Splits:
    """The folds of a file, which may have been edited: every case in each, held out at most once, no patient on both sides."""
    return checked(read_value(path, Splits), dataset, path.name)


def checked(splits: Splits, dataset: Dataset, name: str) -> Splits:
    """The same splits, or an error that names what is wrong with which fold."""
    if splits.schema != SPLITS_SCHEMA:
        raise UserError(f"{name} has schema {splits.schema}, this version reads {SPLITS_SCHEMA}", f"remove {name}, it is made again")
    if not splits.folds:
        raise UserError(f"{name} holds no folds", f"remove {name}, it is made again")
    known = {c.id: c for c in dataset.cases if c.label is not None}
    dropped = set(dataset.broken)
    for number, fold in enumerate(splits.folds):
        _check_fold(fold, f"{name}, fold {number}", known, dropped)
        if splits.rule != "nnunet":  # the reference's own folds know no patients; who asks for them wants them so
            _check_patients(fold, f"{name}, fold {number}", known)
    twice = held_out_twice(splits)
    if twice and splits.rule != "given":  # folds that came with the data are taken as they are, and measure says so
        raise UserError(
            f"{name}: {_listed(twice)} in the validation of two folds", "hold out every case in one fold, train on it in the others"
        )
    gone = dropped - set(known)
    if not gone:
        return splits
    # A fold keeps its number: what it trained lies in a folder of that name.
    kept = tuple(_still_there(fold, f"{name}, fold {number}", gone) for number, fold in enumerate(splits.folds))
    return Splits(rule=splits.rule, seed=splits.seed, folds=kept)


def held_out_twice(splits: Splits) -> tuple[str, ...]:
    """The cases that more than one fold holds out."""
    held = Counter(i for fold in splits.folds for i in fold.validation)
    return tuple(sorted(i for i, times in held.items() if times > 1))


def held_out_once(splits: Splits, folds: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """What each of these folds is judged on: a case that several hold out counts for the last alone."""
    last = {i: fold for fold in folds for i in splits.folds[fold].validation}
    return {fold: tuple(i for i in splits.folds[fold].validation if last[i] == fold) for fold in folds}


def untrained_classes(splits: Splits, content: Mapping[str, Content]) -> dict[int, tuple[str, ...]]:
    """The folds that train without a class that the dataset has, and the classes."""
    present = {case: {name for name, volume in c.volumes_ml.items() if volume > 0} for case, c in content.items()}
    every = set[str]().union(*present.values())
    lacking = (every - set[str]().union(*(present.get(i, set()) for i in fold.train)) for fold in splits.folds)
    return {number: tuple(sorted(names)) for number, names in enumerate(lacking) if names}


def _still_there(fold: Fold, where: str, gone: set[str]) -> Fold:
    """The fold without the cases that cannot be used."""
    left = Fold(train=_without(fold.train, gone), validation=_without(fold.validation, gone))
    for part, before, after in (("train", fold.train, left.train), ("validation", fold.validation, left.validation)):
        if not after:
            raise UserError(
                f"{where}: none of the cases of {part} can be used ({', '.join(before[:10])})",
                "mend them, `autounet check` says how, or give this part another case",
            )
    return left


def _listed(ids: tuple[str, ...]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return f"{', '.join(ids[:10])}{more} {'is' if len(ids) == 1 else 'are'}"


def _without(ids: tuple[str, ...], dropped: set[str]) -> tuple[str, ...]:
    return tuple(i for i in ids if i not in dropped)


def _check_patients(fold: Fold, where: str, known: Mapping[str, Case]) -> None:
    held = {known[i].group: i for i in fold.validation if i in known}
    shared = next((i for i in fold.train if i in known and known[i].group in held), None)
    if shared is not None:
        group = known[shared].group
        raise UserError(
            f"{where}: the patient {group} is on both sides, as {shared} and {held[group]}", "move both to one side, or correct the groups"
        )


def _check_fold(fold: Fold, where: str, known: Mapping[str, Case], dropped: set[str]) -> None:
    for part, ids in (("train", fold.train), ("validation", fold.validation)):
        if not ids:
            raise UserError(f"{where}: {part} is empty", "give each part at least one case")
        unknown = sorted(set(ids) - set(known) - dropped)
        if unknown:
            raise UserError(
                f"{where}: {part} names {', '.join(unknown[:10])}, which the dataset does not have", "correct the ids, or remove them"
            )
        if len(set(ids)) != len(ids):
            raise UserError(f"{where}: {part} names {next(i for i in ids if ids.count(i) > 1)} twice", "name every case once")
    both = sorted(set(fold.train) & set(fold.validation))
    if both:
        raise UserError(f"{where}: {', '.join(both[:10])} is in both parts", "keep each case in one part")
    missing = sorted(i for i, c in known.items() if c.split == "train" and i not in {*fold.train, *fold.validation})
    if missing:
        raise UserError(
            f"{where}: {', '.join(missing[:10])} is in neither part", "add it to one of them, or mark it as test in autounet.toml"
        )


def _groups(cases: tuple[Case, ...]) -> dict[str, tuple[Case, ...]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    return {name: tuple(sorted(members, key=lambda c: c.id)) for name, members in sorted(groups.items())}


def _folds(parts: list[list[str]], groups: Mapping[str, tuple[Case, ...]]) -> tuple[Fold, ...]:
    everything = sorted(c.id for members in groups.values() for c in members)
    folds = []
    for part in parts:
        held = {c.id for g in part for c in groups[g]}
        folds.append(Fold(train=tuple(i for i in everything if i not in held), validation=tuple(i for i in everything if i in held)))
    return tuple(folds)


@dataclass(frozen=True, slots=True)
class _Wanted:
    count: int
    seed: int
    content: Mapping[str, Content]
    keep: Splits | None


def _balanced(groups: Mapping[str, tuple[Case, ...]], wanted: _Wanted) -> list[list[str]]:
    """Greedy: the group whose classes are rarest or largest first, into the fold that lacks them most; then exchanges that even out.

    A group's amounts are its number of cases, for each class the cases that have it, and its volume, and one for its stratum.
    """
    names = sorted({k for c in wanted.content.values() for k, v in c.volumes_ml.items() if v > 0})
    strata = sorted({c.stratum for members in groups.values() for c in members})
    amounts = {g: _amounts(members, names, strata, wanted.content) for g, members in groups.items()}
    total = sum(amounts.values())
    share = np.where(total > 0, total, 1) / wanted.count
    weight = np.concatenate([[3.0], np.full(len(names), 2.0), np.ones(len(names) + len(strata))])  # equal sizes matter most
    scaled = {g: np.sqrt(weight) * a / share for g, a in amounts.items()}
    filled, parts, kept = _kept(groups, scaled, wanted)
    # Ties are broken by a number that depends on the group's name alone, never on the order of files.
    order = sorted(set(groups) - kept, key=lambda g: (-float((amounts[g] / share).max()), _lot(g, wanted.seed)))
    for group in order:
        cost = ((filled + scaled[group]) ** 2 - filled**2).sum(axis=1)
        fold = min(range(wanted.count), key=lambda k: (round(float(cost[k]), 9), k))
        filled[fold] += scaled[group]
        parts[fold].append(group)
    if not kept:
        _even_out(parts, filled, scaled, wanted.seed)
    return parts


def _kept(
    groups: Mapping[str, tuple[Case, ...]], scaled: Mapping[str, NDArray[np.float64]], wanted: _Wanted
) -> tuple[NDArray[np.float64], list[list[str]], set[str]]:
    """Folds as they were before, with the groups that are still there."""
    width = len(next(iter(scaled.values())))
    filled, parts = np.zeros((wanted.count, width)), list[list[str]]([] for _ in range(wanted.count))
    keep = wanted.keep
    if keep is None or keep.rule != "grouped" or len(keep.folds) != wanted.count or keep.seed != wanted.seed:
        return filled, parts, set()
    owner = {c.id: g for g, members in groups.items() for c in members}
    kept: set[str] = set()
    for number, fold in enumerate(keep.folds):
        for group in sorted({owner[i] for i in fold.validation if i in owner} - kept):
            kept.add(group)
            parts[number].append(group)
            filled[number] += scaled[group]
    return filled, parts, kept


def _even_out(parts: list[list[str]], filled: NDArray[np.float64], scaled: Mapping[str, NDArray[np.float64]], seed: int) -> None:
    """Exchange groups of two folds where that brings both nearer to their share."""
    rng = generator(seed, "folds", "exchange")
    trials = min(EXCHANGES, 40 * sum(map(len, parts)))
    first = rng.integers(len(parts), size=trials)
    second = (first + 1 + rng.integers(len(parts) - 1, size=trials)) % len(parts)
    for a, b, (x, y) in zip(first.tolist(), second.tolist(), rng.random((trials, 2)).tolist(), strict=True):
        if not parts[a] or not parts[b]:
            continue
        i, j = int(x * len(parts[a])), int(y * len(parts[b]))
        change = scaled[parts[b][j]] - scaled[parts[a][i]]
        # Sum of squares after the exchange less before it.
        if float(2 * (change * (filled[a] - filled[b] + change)).sum()) < -1e-9:
            filled[a] += change
            filled[b] -= change
            parts[a][i], parts[b][j] = parts[b][j], parts[a][i]


def _amounts(members: tuple[Case, ...], names: list[str], strata: list[str], content: Mapping[str, Content]) -> NDArray[np.float64]:
    nothing = Content(volumes_ml={})
    volumes = [content.get(c.id, nothing).volumes_ml for c in members]
    present = [sum(v.get(n, 0) > 0 for v in volumes) for n in names]
    size = [sum(float(v.get(n, 0)) for v in volumes) for n in names]
    return np.array([len(members), *present, *size, *(sum(c.stratum == s for c in members) for s in strata)], dtype=float)


def _lot(group: str, seed: int) -> float:
    return float(generator(seed, "fold", group).random())


def _shuffled(ids: list[str], count: int) -> tuple[Fold, ...]:
    """KFold(count, shuffle=True, random_state=12345) of the sorted ids, without importing scikit-learn."""
    if len(ids) < count:
        raise UserError(f"{len(ids)} cases are fewer than {count} folds", "ask for fewer folds")
    order = np.arange(len(ids))
    np.random.RandomState(NNUNET_SEED).shuffle(order)  # the reference's folds come from this old generator
    sizes = np.full(count, len(ids) // count)
    sizes[: len(ids) % count] += 1
    folds, start = [], 0
    for size in sizes:
        held = {ids[i] for i in order[start : start + size]}
        folds.append(Fold(train=tuple(i for i in ids if i not in held), validation=tuple(i for i in ids if i in held)))
        start += int(size)
    return tuple(folds)
