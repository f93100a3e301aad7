"""One folder per patient: t1.nii.gz, flair.nii.gz and seg.nii.gz beside each other, or a folder with one mask per class."""

from collections import Counter
from pathlib import PurePosixPath

from autounet.data.dataset import Problem
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, DraftMask, error
from autounet.data.layouts.matching import bare_image, bare_label, match
from autounet.data.layouts.pairs import Placed, image_file, place
from autounet.data.listing import Listing
from autounet.data.names import TEST_WORDS, TRAIN_WORDS, is_channel_token
from planners.errors import UserError

NAME = "case_folders"
MOST_IMAGES = 12  # in one patient's folder; more are a series or many cases
_SEPARATORS = "-_. "

Folders = dict[tuple[str, ...], tuple[list[Placed], list[Placed]]]


def recognise(listing: Listing) -> Candidate | None:
    """Several folders that hold the images and the label of one case each."""
    folders = {c: pair for c, pair in _folders(listing).items() if pair[1]}
    if not folders or () in folders:
        return None
    single = [c for c, pair in folders.items() if _is_one_case(*pair)]
    if len(single) < max(1, 0.8 * len(folders)) or (len(folders) == 1 and len(next(iter(folders.values()))[1]) < 2):
        return None
    example = "/".join(single[0])
    return Candidate(layout=NAME, sure=0.95, why=f"{len(single)} folders like {example} hold the images and the label of one case each")


def index(listing: Listing) -> Draft:
    """One case a folder."""
    cases: list[DraftCase] = []
    problems: list[Problem] = []
    folders = _folders(listing)
    names = _mask_names({c: pair for c, pair in folders.items() if pair[1]})
    keys = _keys(list(folders))
    for context, (images, labels) in sorted(folders.items()):
        if not images:
            found = f"the folder holds {len(labels)} labels and no image"
            problems.append(
                error("label_without_image", found, "an image beside each label", "add it, or remove the folder", keys[context])
            )
        else:
            cases.append(_case(keys[context], context, images, labels, names))
    if not cases:
        raise UserError("there is no folder with images", "put the files of each patient into a folder of its own")
    return Draft(layout=NAME, why=f"{len(cases)} folders, one case each", cases=tuple(cases), problems=tuple(problems))


def _folders(listing: Listing) -> Folders:
    placed, _ = place(listing)
    folders: Folders = {}
    for one in placed:
        images, labels = folders.setdefault(one.context, ([], []))
        (labels if one.is_label else images).append(one)
    return folders


def _is_one_case(images: list[Placed], labels: list[Placed]) -> bool:
    if not images or len(images) > MOST_IMAGES:
        return False
    if len(labels) == 1:
        return True
    paired = match([p.file.stem for p in images], [p.file.stem for p in labels])
    return not any(m.images and m.label is not None and not m.more_labels for m in paired)


def _case(key: str, context: tuple[str, ...], images: list[Placed], labels: list[Placed], names: dict[PurePosixPath, str]) -> DraftCase:
    stems = [bare_image(p.file.stem) for p in images]
    tokens = _tokens(stems, [bare_label(p.file.stem) for p in labels] if len(labels) == 1 else [], context[-1] if context else "")
    files = tuple((token, image_file(p.file)) for token, p in sorted(zip(tokens, images, strict=True), key=lambda f: f[0]))
    masks = tuple(DraftMask(name=names[p.file.path], file=image_file(p.file)) for p in labels) if len(labels) > 1 else ()
    test = not labels or any(p.test for p in images)
    label = image_file(labels[0].file) if labels else None
    return DraftCase(key=key, images=files, label=label, masks=masks, split="test" if test else "train")


def _keys(contexts: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A folder's name, or as much of its path as tells all of them apart."""
    kept = {c: tuple(p for p in c if p.lower() not in (*TRAIN_WORDS, *TEST_WORDS)) or c for c in contexts}
    for depth in range(1, 1 + max((len(c) for c in kept.values()), default=1)):
        short = {c: "_".join(k[-depth:]) for c, k in kept.items()}
        if len(set(short.values())) == len(short):
            return short
    return {c: "_".join(c) for c in contexts}


def _tokens(stems: list[str], label_stems: list[str], folder: str) -> list[str]:
    """What is left of the images' names without what they share with each other, the label, or the folder."""
    shared = _common([*stems, *label_stems]) if len(stems) + len(label_stems) > 1 else ""
    if folder and all(s.startswith(folder) for s in stems):
        shared = folder if len(folder) > len(shared) or not shared.startswith(folder) else shared
    at = len(shared)
    if not all(len(s) == at or s[at] in _SEPARATORS for s in stems):  # a shared first letter is no shared word
        at = max((i for i in range(at) if shared[i] in _SEPARATORS), default=0)
    tokens = [s[at:].lstrip(_SEPARATORS) for s in stems]
    return [""] if len(tokens) == 1 and not is_channel_token(tokens[0]) else tokens


def _common(names: list[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))]


def _mask_names(folders: Folders) -> dict[PurePosixPath, str]:
    """Several labels in a folder: their names are classes where most folders share them, else objects of one class."""
    several = {c: labels for c, (_, labels) in folders.items() if len(labels) > 1}
    seen = Counter(p.file.stem for labels in several.values() for p in labels)
    shared = not several or len(several) == 1 or sum(n > 1 for n in seen.values()) > 0.5 * len(seen)
    return {p.file.path: (p.file.stem if shared else "object") for labels in several.values() for p in labels}
