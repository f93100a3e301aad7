"""Which label belongs to which images, by their names alone."""

import re
from collections import Counter
from dataclasses import dataclass

from autounet.data.names import IMAGE_WORDS, LABEL_WORDS, is_channel_token

_SEPARATORS = "-_. "
# Words that also name what is seen in scans are no role at the end of a file's name.
_LABEL_ENDINGS = frozenset(LABEL_WORDS) - {"lesion", "roi", "rois", "target", "targets"}
_IMAGE_ENDINGS = frozenset(IMAGE_WORDS)


@dataclass(frozen=True, slots=True)
class Match:
    """One case: the index of its label and of its images, each with the channel its name says."""

    key: str
    label: int | None
    images: tuple[tuple[str, int], ...]
    more_labels: tuple[tuple[str, int], ...] = ()  # (what the name adds, index): one file per class


def is_label_stem(stem: str) -> bool:
    """Whether a file's name begins or ends with a word for labels."""
    return bare(stem, _LABEL_ENDINGS) != stem or stem.lower() in _LABEL_ENDINGS


def bare_label(stem: str) -> str:
    """A label's name without the word that says it is one."""
    return bare(stem, _LABEL_ENDINGS)


def bare_image(stem: str) -> str:
    """An image's name without the word that says it is one."""
    return bare(stem, _IMAGE_ENDINGS)


def bare(stem: str, role_words: frozenset[str]) -> str:
    """A name without a role word at its end or its beginning, where digits may follow at once (img0001)."""
    parts = re.split(r"([-_. ]+)", stem)
    if len(parts) >= 3 and parts[-1].lower() in role_words:
        return "".join(parts[:-2])
    if len(parts) >= 3 and parts[0].lower() in role_words:
        return "".join(parts[2:])
    glued = re.fullmatch(r"([A-Za-z]+)(\d.*)", stem)
    return glued[2] if glued and glued[1].lower() in role_words else stem


def match(image_stems: list[str], label_stems: list[str]) -> list[Match]:
    """Pair by equal names first, then by names that only add a channel, then by labels that only add a class.

    Names are taken as they are, or without the words that say image or label: whichever pairs more labels.
    """
    tries = [
        _Try(images, labels)
        for images in (image_stems, [bare_image(s) for s in image_stems])
        for labels in (label_stems, [bare_label(s) for s in label_stems])
    ]
    best = max(tries, key=lambda t: t.score)  # the first of equal ones
    pairs = [Match(best.labels[label], label, tuple(sorted(found))) for label, found in best.taken.items()]
    unpaired = sorted(set(range(len(best.labels))) - set(best.taken))
    pairs += _labels_that_add(best.images, best.free, [bare_label(s) for s in best.labels], unpaired)
    return sorted(pairs, key=lambda p: p.key)


class _Try:
    """One way to read the names, and what it pairs."""

    def __init__(self, images: list[str], labels: list[str]) -> None:
        self.images, self.labels = images, labels
        by_label: dict[str, int] = {}
        for index, name in enumerate(labels):
            by_label.setdefault(name, index)
        self.taken: dict[int, list[tuple[str, int]]] = {}
        self.free: list[int] = []
        exact = 0
        for index, name in enumerate(images):
            found = _longest(name, by_label) if name else None
            if found is None:
                self.free.append(index)
            else:
                self.taken.setdefault(by_label[found[0]], []).append((found[1], index))
                exact += not found[1]
        self.score = (len(self.taken), exact, len(images) - len(self.free))


def without_label(image_stems: list[str], tokens: frozenset[str]) -> list[Match]:
    """Cases that have no label: channel endings are those known from other cases, or words that only channels have."""
    cases: dict[str, list[tuple[str, int]]] = {}
    names = [bare_image(s) for s in image_stems]
    for index, name in enumerate(names):
        key, token = split_channel(name, tokens)
        cases.setdefault(key, []).append((token, index))
    return [Match(key, None, tuple(sorted(found))) for key, found in sorted(cases.items())]


def split_channel(name: str, tokens: frozenset[str]) -> tuple[str, str]:
    """A name as (case, channel); the channel is empty when nothing at the end looks like one."""
    for position in range(1, len(name) - 1):
        if name[position] in _SEPARATORS:
            token = name[position + 1 :]
            if token in tokens or (not tokens and is_channel_token(token)):
                return name[:position], token
    return name, ""


def _longest(name: str, known: dict[str, int]) -> tuple[str, str] | None:
    """The longest known name that this one equals or goes on from behind a separator."""
    if name in known:
        return name, ""
    for position in range(len(name) - 1, 0, -1):
        if name[position] in _SEPARATORS and name[:position] in known:
            return name[:position], name[position + 1 :]
    return None


def _labels_that_add(images: list[str], free: list[int], labels: list[str], unpaired: list[int]) -> list[Match]:
    """Labels called like an image and something more: one such word is a habit, several are classes."""
    by_image = {images[i]: i for i in free}
    grouped: dict[int, list[tuple[str, int]]] = {}
    for label in unpaired:
        found = _longest(labels[label], by_image)
        if found is not None:
            grouped.setdefault(by_image[found[0]], []).append((found[1], label))
    usual = Counter(token for found in grouped.values() for token, _ in found)
    pairs = []
    for image, adding in grouped.items():
        ordered = tuple(sorted(adding))
        several = ordered if len(usual) > 1 and any(len(f) > 1 for f in grouped.values()) else ()
        pairs.append(Match(images[image], ordered[0][1], (("", image),), several))
    return pairs
