"""Images in one folder and labels in another, or side by side with endings that tell them apart."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from autounet.data.dataset import ImageFile, Problem
from autounet.data.layouts.draft import Candidate, Draft, DraftCase, DraftMask, error, note
from autounet.data.layouts.matching import Match, is_label_stem, match, without_label
from autounet.data.listing import FoundFile, Listing
from autounet.data.names import IMAGE_WORDS, LABEL_WORDS, TEST_WORDS, TRAIN_WORDS, are_patients, channel_modality, words
from planners.errors import UserError

NAME = "pairs"
SHOWN = 20  # of a list of file names in a message


@dataclass(frozen=True, slots=True)
class Placed:
    """A file with what its folder says of it."""

    file: FoundFile
    is_label: bool
    context: tuple[str, ...]  # the folders but for the one that says image or label
    set_name: str  # the folder that says so, "" when the name of the file does
    test: bool


def recognise(listing: Listing) -> Candidate | None:
    """Folders called images and labels (or alike), or files called …_image and …_mask."""
    placed, _ = place(listing)
    images, labels = [p for p in placed if not p.is_label], [p for p in placed if p.is_label]
    if not placed:
        return None
    if not images or not labels:
        return Candidate(layout=NAME, sure=0.2, why=f"{len(images)} images and {len(labels)} labels by their names")
    by_folder = sum(bool(p.set_name) for p in placed) / len(placed)
    sets = sorted({p.set_name for p in labels if p.set_name})
    if by_folder > 0.5 and sets:
        seen = sorted({p.set_name for p in images if p.set_name}) or ["the folder above"]
        return Candidate(layout=NAME, sure=0.8, why=f"images in {_listed(seen)}, labels in {_listed(sets)}")
    return Candidate(layout=NAME, sure=0.5, why=f"{len(images)} images and {len(labels)} labels side by side, told apart by their names")


def index(listing: Listing) -> Draft:
    """Pair images and labels within each context."""
    placed, ignored = place(listing)
    labels, unused = _one_label_set([p for p in placed if p.is_label])
    images = [p for p in placed if not p.is_label]
    if not images:
        raise UserError(
            f"{listing.root.name} holds {len(labels)} labels and no image", f"put the images in a folder named images beside {_set(labels)}"
        )
    if not labels:
        raise UserError(
            f"{listing.root.name} holds {len(images)} images and no label", "put the masks in a folder named labels, with equal file names"
        )
    _one_task(listing, images, labels)
    cases, problems = _paired(images, labels)
    why = f"images and labels by their folders and names: {len(cases)} cases"
    problems += [note("label_set_unused", f"{_set(unused)} is not used, the labels are taken from {_set(labels)}")] if unused else []
    if ignored:
        folders = _listed(sorted({str(f.folder) for f in ignored}))
        problems.append(note("files_unused", f"{len(ignored)} image files in {folders} are neither image nor label"))
    return Draft(layout=NAME, why=why, cases=tuple(cases), problems=tuple(problems))


def place(listing: Listing) -> tuple[list[Placed], list[FoundFile]]:
    """Every image file by what its folders, or else its name, say it is; and those that nothing is known of."""
    placed, unknown = [], []
    for file in listing.images:
        found = _by_folder(file)
        if found is not None:
            placed.append(found)
        else:
            unknown.append(file)
    has_image_folders = any(not p.is_label for p in placed)
    has_label_folders = any(p.is_label for p in placed)
    if has_image_folders and has_label_folders:
        return placed, unknown
    # Without both kinds of folders the names decide; beside a folder of labels everything else is image.
    named = [_by_name(file, everything_is_image=has_label_folders) for file in unknown]
    if has_image_folders and not has_label_folders:  # images/a.png and images/a_mask.png
        placed = [_by_name(p.file, everything_is_image=False) for p in placed]
    return placed + named, []


def _by_folder(file: FoundFile) -> Placed | None:
    parts = file.folder.parts
    for position in range(len(parts) - 1, -1, -1):
        said = words(parts[position])
        role = _role(said)
        if role is not None:
            test = _is_test(said, parts)
            context = (*parts[:position], *parts[position + 1 :], *(["test"] if test and "test" not in parts else []))
            return Placed(file, role, context, parts[position], test)
    return None


def _by_name(file: FoundFile, *, everything_is_image: bool) -> Placed:
    parts = file.folder.parts
    return Placed(file, not everything_is_image and is_label_stem(file.stem), parts, "", _is_test((), parts))


def _role(said: tuple[str, ...]) -> bool | None:
    """True for labels, False for images, None for neither."""
    for word in (*said[:1], *said[-1:]):
        if word in LABEL_WORDS:
            return True
        if word in IMAGE_WORDS:
            return False
    return False if said[:1] in (("imagests",),) else True if said[:1] in (("labelsts",),) else None


def _is_test(said: tuple[str, ...], context: tuple[str, ...]) -> bool:
    return any(w in TEST_WORDS for w in (*said, *(c.lower() for c in context)))


def _one_label_set(labels: list[Placed]) -> tuple[list[Placed], list[Placed]]:
    """Of labels, labels_original, masks … the folder with the plainest name."""
    sets = {(p.context, p.set_name) for p in labels}
    chosen: dict[tuple[str, ...], str] = {}
    for context, name in sorted(sets, key=lambda s: _preference(s[1])):
        chosen.setdefault(context, name)
    used = [p for p in labels if chosen[p.context] == p.set_name]
    return used, [p for p in labels if chosen[p.context] != p.set_name]


def _preference(name: str) -> tuple[int, int, str]:
    said = words(name)
    rank = min((LABEL_WORDS.index(w) for w in said if w in LABEL_WORDS), default=len(LABEL_WORDS))
    return len(said), rank, name


def _one_task(listing: Listing, images: list[Placed], labels: list[Placed]) -> None:
    """Folders ct/, mr/, pet/ with the same cases in each are several tasks, and somebody has to say which."""
    contexts = {p.context for p in labels} & {p.context for p in images}
    names = {"/".join(c): {p.file.stem for p in images if p.context == c} for c in contexts if c}
    modal = sorted(n for n in names if channel_modality(n.rpartition("/")[2]) != "unknown")
    if len(modal) > 1 and len(modal) == len(names):
        raise UserError(
            f"{listing.root.name} holds {len(modal)} datasets: {_listed(modal)}, each with its own images and labels",
            f"name one of them, for example {listing.root.name}/{modal[0]}",
        )


def _paired(images: list[Placed], labels: list[Placed]) -> tuple[list[DraftCase], list[Problem]]:
    cases: list[DraftCase] = []
    problems: list[Problem] = []
    lonely: dict[tuple[str, ...], list[Placed]] = {}
    tokens: set[str] = set()
    contexts: dict[tuple[str, ...], tuple[list[Placed], list[Placed]]] = {}
    for kind, placed in enumerate((images, labels)):
        for one in placed:
            contexts.setdefault(one.context, ([], []))[kind].append(one)
    for context, (its_images, its_labels) in sorted(contexts.items()):
        found = match([p.file.stem for p in its_images], [p.file.stem for p in its_labels])
        tokens |= {token for m in found for token, _ in m.images}
        cases += [_case(context, m, its_images, its_labels) for m in found]
        used = {index for m in found for _, index in m.images}
        lonely[context] = [p for i, p in enumerate(its_images) if i not in used]
        problems += _unpaired(found, lonely[context], its_labels)
    for context, rest in lonely.items():
        alone = without_label([p.file.stem for p in rest], frozenset(tokens - {""}))
        cases += [_case(context, m, rest, []) for m in alone]
    return _unique(cases), problems


def _unpaired(found: list[Match], images: list[Placed], labels: list[Placed]) -> list[Problem]:
    used = {i for m in found for i in (m.label, *(n for _, n in m.more_labels))}
    missing = [str(p.file.path) for i, p in enumerate(labels) if i not in used]
    problems = []
    if missing:
        said, fix = f"{len(missing)} labels have no image: {_listed(missing)}", "add the images, or remove the labels"
        problems.append(error("label_without_image", said, "an image of the same name", fix))
    if images and labels and not images[0].test:
        said = f"{len(images)} images have no label: {_listed(str(p.file.path) for p in images)}"
        fix = "add the labels, or move the images to a folder named images_test"
        problems.append(error("image_without_label", said, "a label of the same name", fix))
    return problems


def _case(context: tuple[str, ...], found: Match, images: list[Placed], labels: list[Placed]) -> DraftCase:
    test = any(images[i].test for _, i in found.images)
    kept = [c for c in context if c.lower() not in (*TRAIN_WORDS, *TEST_WORDS)]
    return DraftCase(
        key="/".join((*kept, found.key)),
        images=tuple((token, image_file(images[i].file)) for token, i in found.images),
        label=None if found.label is None else image_file(labels[found.label].file),
        masks=tuple(DraftMask(name=token, file=image_file(labels[i].file)) for token, i in found.more_labels),
        group=kept[-1] if kept else None,
        split="test" if test or found.label is None else "train",
    )


def _unique(cases: list[DraftCase]) -> list[DraftCase]:
    """The file's name alone is the id where that is enough; a folder counts as patient only where it tells cases apart."""
    short = [c.key.rpartition("/")[2] for c in cases]
    plain = len(set(short)) == len(short)
    keep_groups = all(c.group is not None for c in cases) and are_patients({c.group or "" for c in cases})
    return [
        replace(c, key=s if plain and s else c.key.strip("/").replace("/", "_"), group=c.group if keep_groups else None)
        for c, s in zip(cases, short, strict=True)
    ]


def image_file(file: FoundFile) -> ImageFile:
    """A file as one channel or one label map."""
    return ImageFile(path=str(file.path))


def _listed(names: Iterable[str | PurePosixPath]) -> str:
    shown = [str(n) for n in names]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def _set(labels: list[Placed]) -> str:
    return _listed(sorted({p.set_name or str(p.file.folder) for p in labels}))
