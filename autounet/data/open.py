"""A folder becomes a dataset: list, recognise, pair, look into headers, find the labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autounet.data.assemble import assemble, with_declared_channels
from autounet.data.config import Config, find_config, read_config
from autounet.data.dataset import Case, Dataset, Problem
from autounet.data.headers import in_threads, with_headers
from autounet.data.layouts import bids, case_folders, decathlon, dicom, nnunet, pairs, table
from autounet.data.layouts.draft import Candidate, Draft, error, note
from autounet.data.layouts.label_table import labels_of, values_only
from autounet.data.listing import Listing, list_folder
from autounet.images.formats import SUPPORTED
from planners.errors import UserError
from planners.labels import LabelClass, Labels

TIE = 0.1  # candidates this close to the best are equally likely


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to arrange files: how it is recognised, how it is read."""

    recognise: Callable[[Listing], Candidate | None]
    index: Callable[[Listing, Config], Draft]


LAYOUTS: dict[str, Layout] = {
    nnunet.NAME: Layout(nnunet.recognise, lambda listing, _: nnunet.index(listing)),
    decathlon.NAME: Layout(decathlon.recognise, lambda listing, _: decathlon.index(listing)),
    table.NAME: Layout(table.recognise, lambda listing, _: table.index(listing)),
    bids.NAME: Layout(bids.recognise, lambda listing, _: bids.index(listing)),
    case_folders.NAME: Layout(case_folders.recognise, lambda listing, _: case_folders.index(listing)),
    pairs.NAME: Layout(pairs.recognise, lambda listing, _: pairs.index(listing)),
    dicom.NAME: Layout(dicom.recognise, lambda listing, config: dicom.index(listing, config.series)),
}


def open_dataset(path: Path | str, *, layout: str | None = None, config: Path | None = None) -> Dataset:
    """What lies in a folder: cases, channels, labels. Label values are looked up in the masks only when no table names them."""
    dataset = understand(Path(path), layout=layout, config=config)
    if dataset.labels_said or not dataset.cases:
        return dataset
    return with_found_labels(dataset)


def understand(path: Path, *, layout: str | None = None, config: Path | None = None, work: Path | None = None) -> Dataset:
    """The same without reading any voxels; labels are background only until somebody has looked. A file is a table of its folder."""
    said = read_config(config or find_config(path, work))
    listing = list_folder(path.parent if path.is_file() else path, follow_outside=said.reading.follow_symlinks)
    if path.is_file():
        listing, layout = table.alone(listing, path.name), table.NAME
    chosen, why = choose(listing, layout or said.layout)
    draft = LAYOUTS[chosen].index(listing, said)
    if not draft.cases:
        raise _nothing(listing)
    draft = with_declared_channels(draft, said)
    assembled = assemble(draft, said, f"{listing.root.name} {_common_folder(draft)}")
    labels = (
        said.labels
        or draft.labels
        or (labels_of(tuple((n, v) for v, n in enumerate(assembled.mask_names, 1))) if assembled.mask_names else None)
    )
    dataset = Dataset(
        root=str(listing.root),
        name=said.name or draft.name or _dataset_name(listing.root),
        layout=chosen,
        why=f"{why}; {draft.why}",
        dimensions=3,
        cases=assembled.cases,
        channels=assembled.channels,
        labels=labels or Labels(classes=(LabelClass(name="background", value=0),)),
        label_style="masks" if assembled.mask_names else draft.label_style,
        labels_said=labels is not None,
        reading=said.reading,
        given_folds=draft.given_folds,
        fold_rule="nnunet" if said.fold_rule == "nnunet" else "grouped",
        problems=(*listing.problems, *_junk(listing), *assembled.problems),
    )
    return with_headers(dataset, draft, said)


def choose(listing: Listing, layout: str | None) -> tuple[str, str]:
    """The layout that was asked for, or the one that fits best; two that fit equally well are a question."""
    if layout is not None:
        if layout not in LAYOUTS:
            raise UserError(f"there is no layout {layout!r}", f"choose one of {', '.join(LAYOUTS)}")
        return layout, f"layout {layout}, as asked for"
    found = sorted((c for one in LAYOUTS.values() if (c := one.recognise(listing)) is not None), key=lambda c: -c.sure)
    if not found:
        raise _nothing(listing)
    close = [c for c in found if c.sure > found[0].sure - TIE]
    if len(close) > 1:
        table = "; ".join(f"{c.layout} ({c.why})" for c in close)
        raise UserError(f"{listing.root.name} can be read in {len(close)} ways: {table}", f"choose with --layout {close[0].layout}")
    return found[0].layout, f"layout {found[0].layout}: {found[0].why}"


def with_found_labels(dataset: Dataset) -> Dataset:
    """The label table from the values in the masks."""
    from autounet.data import label_values
    from autounet.data.voxels import read_stored_label

    def values(case: Case) -> tuple[int, ...] | Problem:
        try:
            return label_values.count(read_stored_label(dataset, case)).values
        except UserError as refused:
            return error("label", refused.problem, "a readable label map", refused.fix, case.id)

    labelled = [c for c in dataset.cases if c.label is not None]
    found = list(in_threads(values, labelled))
    problems = [f for f in found if isinstance(f, Problem)]
    return name_values(
        replace(dataset, problems=dataset.problems + tuple(problems)), {v for f in found if not isinstance(f, Problem) for v in f}
    )


def name_values(dataset: Dataset, values: set[int]) -> Dataset:
    """Give the values that were seen plain names."""
    negative = sorted(v for v in values if v < 0)
    return replace(dataset, labels=values_only(v for v in values if v not in negative), labels_said=False)


def _common_folder(draft: Draft) -> str:
    folders = {"/".join(f.path.split("/")[:-1]) for c in draft.cases for _, f in c.images}
    return next(iter(folders)).replace("/", " ") if len(folders) == 1 else ""


def _dataset_name(root: Path) -> str:
    from autounet.data.names import safe_id

    try:
        return safe_id(root.name)
    except UserError:
        return "dataset"


def _junk(listing: Listing) -> tuple[Problem, ...]:
    if not listing.junk:
        return ()
    return (note("junk", f"{listing.junk} files of the system or of editors were left out (._…, .DS_Store, …~)"),)


def _nothing(listing: Listing) -> UserError:
    """Nothing fits. What the walk left out comes first: a folder of links is full to its owner and empty to us."""
    kinds: dict[str, int] = {}
    for file in listing.files:
        kind = file.suffix.lower() or file.path.suffix.lower() or "no suffix"
        kinds[kind] = kinds.get(kind, 0) + 1
    seen = ", ".join(f"{n} {k}" for k, n in sorted(kinds.items(), key=lambda e: -e[1])[:6]) or "nothing"
    left_out = f"; left out: {len(listing.problems):,}" if listing.problems else ""
    nothing = f"{listing.root.name} holds no dataset that is understood (found: {seen}{left_out})"
    if listing.problems:
        return UserError(f"{nothing}; {listing.problems[0].found}", listing.problems[0].remedy)
    return UserError(
        f"{nothing}; images can be {SUPPORTED}",
        "put images in images/ and masks of equal names in labels/, or write a table with the columns case, image, label",
    )
