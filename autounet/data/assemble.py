"""From drafts to cases: safe ids, one file per declared channel, groups; what does not fit is named and left out."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace

from autounet.data.config import Config
from autounet.data.dataset import Case, ChannelSpec, ClassMask, Problem
from autounet.data.layouts.draft import Draft, DraftCase, error, note, warning
from autounet.data.names import CHANNEL_WORDS, channel_modality, groups_by_name, safe_id, words
from planners.errors import UserError
from planners.fingerprint import Modality


@dataclass(frozen=True, slots=True)
class Assembled:
    """Cases that are complete, and what was said about the others."""

    cases: tuple[Case, ...]
    channels: tuple[ChannelSpec, ...]
    mask_names: tuple[str, ...]  # classes by their files, value 1 first
    problems: tuple[Problem, ...]


def assemble(draft: Draft, config: Config, folder_name: str) -> Assembled:
    """Ids, channels and groups of all cases of a draft."""
    problems = list(draft.problems)
    keys = draft.channel_keys or _channel_keys(draft)
    names = _mask_names(draft)
    cases: list[Case] = []
    for drafted in draft.cases:
        try:
            cases.append(_case(drafted, keys, names, config, in_one_file=draft.in_one_file))
        except UserError as refused:
            said = error(
                "case_refused",
                refused.problem,
                "a complete case with a portable name",
                refused.fix,
                refused.case or ascii(drafted.key)[1:-1],
            )
            problems.append(said)
    cases, collided = _without_collisions(cases)
    cases, grouping = _grouped(cases, config)
    problems += collided + grouping + _unknown_names(cases, config)
    channels = _channels(draft, keys, config, folder_name)
    return Assembled(tuple(sorted(cases, key=lambda c: c.id)), channels, names, tuple(problems))


def with_declared_channels(draft: Draft, config: Config) -> Draft:
    """Several channels named in autounet.toml, and one file a case: the channels lie in that file."""
    count = len(config.channels)
    if count < 2 or any(len(c.images) != 1 for c in draft.cases):
        return draft
    return replace(draft, in_one_file=True, channel_keys=tuple(f"{c:04d}" for c in range(count)), channel_names=())


def _case(drafted: DraftCase, keys: tuple[str, ...], names: tuple[str, ...], config: Config, *, in_one_file: bool) -> Case:
    case_id = safe_id(drafted.key)
    files = dict(drafted.images)
    if len(files) != len(drafted.images):
        twice = next(k for k, n in Counter(k for k, _ in drafted.images).items() if n > 1)
        both = ", ".join(f.path for k, f in drafted.images if k == twice)
        raise UserError(f"two files are the same image: {both}", "remove one of them", case_id)
    if in_one_file and len(files) == 1:
        ((_, file),) = files.items()
        images = tuple(replace(file, part=number) for number in range(len(keys)))
    else:
        missing, surplus = [k for k in keys if k not in files], [k for k in files if k not in keys]
        if missing:
            there = ", ".join(f.path for f in files.values())
            raise UserError(f"the channel {', '.join(missing)} is missing, there is {there}", "add the file, or remove the case", case_id)
        if surplus:
            raise UserError(
                f"{', '.join(files[k].path for k in surplus)} is a channel that is not declared (declared: {', '.join(keys)})",
                "declare the channel for all cases, or remove the file",
                case_id,
            )
        images = tuple(files[k] for k in keys)
    masks = tuple(ClassMask(value=names.index(m.name) + 1, file=m.file) for m in drafted.masks)
    return Case(
        id=case_id,
        images=images,
        label=masks[0].file if masks else drafted.label,
        masks=tuple(sorted(masks, key=lambda m: m.value)),
        group=drafted.group or "",
        stratum=drafted.stratum,
        split="test" if case_id in config.test or drafted.split == "test" else "train",
        annotated=config.annotated.get(case_id, drafted.annotated),
    )


def _channel_keys(draft: Draft) -> tuple[str, ...]:
    """Channels as found in most cases; a stray name in a few cases is their problem, not everybody's."""
    sets = Counter(tuple(sorted({k for k, _ in c.images}, key=_natural)) for c in draft.cases)
    if not sets:
        return ("",)
    largest = max(sets.values())
    # Between equally frequent sets the larger is meant: the others miss something.
    return max((s for s, n in sets.items() if n >= 0.5 * largest), key=lambda s: (len(s) if sets[s] > 1 or largest == 1 else 0, sets[s]))


def _natural(text: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(p)) if p.isdigit() else (1, p.lower()) for p in re.split(r"(\d+)", text) if p)


def _mask_names(draft: Draft) -> tuple[str, ...]:
    """Names of one-file-per-class masks; names that nobody shares are objects of one class."""
    seen = Counter(m.name for c in draft.cases for m in c.masks)
    labelled = sum(bool(c.masks) for c in draft.cases)
    if labelled > 1 and len(seen) > 300 and max(seen.values()) < 0.5 * labelled:
        raise UserError(
            f"{labelled} cases have {len(seen)} mask files whose names differ from case to case",
            "merge the masks of each case into one label map",
        )
    return tuple(sorted(seen, key=_natural))


def _without_collisions(cases: list[Case]) -> tuple[list[Case], list[Problem]]:
    """Names that differ only in case or in how letters are composed are one file on half of the machines."""
    folded = Counter(_folded(c.id) for c in cases)
    bad = [c for c in cases if folded[_folded(c.id)] > 1]
    found = [_collision(c, [o for o in bad if _folded(o.id) == _folded(c.id) and o is not c]) for c in bad]
    return [c for c in cases if folded[_folded(c.id)] == 1], found


def _collision(case: Case, others: list[Case]) -> Problem:
    files = ", ".join(sorted(o.images[0].path for o in others))
    remedy = "rename one of the files, or give ids in a table"
    return error(
        "id_collision", f"{case.images[0].path} has the same id as {files}", "ids that differ in more than upper case", remedy, case.id
    )


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _grouped(cases: list[Case], config: Config) -> tuple[list[Case], list[Problem]]:
    """The user's groups, else the layout's, else what the names say."""
    ids = tuple(c.id for c in cases)
    by_name, rule = ({i: i for i in ids}, "") if config.group_by == "none" else _by_pattern(ids, config)
    told = any(c.group for c in cases)
    out = [replace(c, group=config.groups.get(c.id) or (c.group if told else by_name[c.id]) or c.id) for c in cases]
    several = len(out) - len({c.group for c in out})
    problems = []
    rule = "what the folders or tables say" if told else rule
    if rule and several:
        sizes = Counter(c.group for c in out)
        example = next(c for c in out if sizes[c.group] > 1)
        found = f"{len(out)} cases of {len({c.group for c in out})} patients, by {rule}: {example.id} belongs to {example.group}"
        remedy = 'if that is wrong, set group_by = "none" under [dataset], or list [groups] in autounet.toml'
        problems.append(note("grouped", found, "folds that keep a patient together", remedy))
    return out, problems


def _by_pattern(ids: tuple[str, ...], config: Config) -> tuple[dict[str, str], str]:
    if config.group_by is None:
        return groups_by_name(ids)
    try:
        pattern = re.compile(config.group_by)
    except re.error as wrong:
        raise UserError(f"dataset.group_by is no regular expression: {wrong}", "write one whose first group is the patient") from wrong
    if pattern.groups < 1:
        raise UserError(f"dataset.group_by {config.group_by!r} has no group", "put the patient's part in parentheses")
    return {i: (m.group(1) if (m := pattern.search(i)) else i) for i in ids}, "the pattern in autounet.toml"


def _unknown_names(cases: list[Case], config: Config) -> list[Problem]:
    ids = {c.id for c in cases}
    strange = sorted({*config.groups, *config.annotated, *config.test} - ids)
    return (
        [warning("unknown_case", f"autounet.toml names {', '.join(strange[:20])}", "ids of cases that exist", "correct the ids")]
        if strange
        else []
    )


def _channels(draft: Draft, keys: tuple[str, ...], config: Config, folder_name: str) -> tuple[ChannelSpec, ...]:
    if config.channels:
        if len(config.channels) != len(keys):
            raise UserError(
                f"autounet.toml names {len(config.channels)} channels, the files have {len(keys)}: {', '.join(keys)}",
                "name each of them, in that order",
            )
        return tuple(ChannelSpec(name=n, modality=m, said_by_user=True) for n, m in config.channels)
    if draft.channel_names:
        return tuple(
            ChannelSpec(name=n, modality=channel_modality(n), said_by_user=channel_modality(n) != "unknown") for n in draft.channel_names
        )
    if len(keys) == 1:
        return (_single(keys[0], folder_name),)
    return tuple(ChannelSpec(name=k or "image", modality=channel_modality(k)) for k in keys)


def _single(key: str, folder_name: str) -> ChannelSpec:
    """One channel is called by its file's ending, else by what the folder's name says."""
    if key and channel_modality(key) != "unknown":
        return ChannelSpec(name=key, modality=channel_modality(key))
    said: list[tuple[str, Modality]] = [(w, CHANNEL_WORDS[w]) for w in words(folder_name) if w in CHANNEL_WORDS]
    if len({m for _, m in said}) == 1:
        return ChannelSpec(name=said[0][0], modality=said[0][1])
    return ChannelSpec(name="image")
