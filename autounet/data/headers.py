"""What the headers say of every case: grids, channels in one file, pictures or volumes. No voxels are read."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from autounet import stop
from autounet.data.agreement import compare
from autounet.data.config import Config
from autounet.data.dataset import Case, ChannelSpec, Dataset, ImageFile, Problem
from autounet.data.layouts.draft import Draft, error, note, warning
from autounet.data.voxels import read_options, refused
from autounet.images.image import ImageInfo
from autounet.images.read import read_header, read_image
from planners.errors import UserError

MOST_CHANNELS = 8  # in one undeclared 4D file; a series in time has more
GRAY_SAMPLES = 48
MIN_VOLUMES = 5  # fewer stacks than this are more likely many pictures than few volumes

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """The headers of one case, or why they cannot be read."""

    case: Case
    images: tuple[ImageInfo, ...]  # one a file, in the order of first use
    problem: Problem | None = None


def with_headers(dataset: Dataset, draft: Draft, config: Config) -> Dataset:
    """The dataset with grids, dimensions and the channels that lie in one file."""
    infos = list(in_threads(lambda case: _case_info(dataset, case), dataset.cases))
    problems = [i.problem for i in infos if i.problem is not None]
    good = [i for i in infos if i.problem is None]
    if not good:
        return replace(dataset, cases=(), problems=dataset.problems + tuple(problems))
    good, channels, reading_gray, said = _channels_in_files(dataset, good, draft, config)
    problems += said
    dataset = replace(dataset, cases=(), channels=channels, reading=replace(dataset.reading, gray=reading_gray))
    cases: list[Case] = []
    for info in good:
        problem = _grids(dataset, info)
        problems += [problem] if problem else []
        if problem is None or problem.severity != "error":
            geometry = info.images[0].geometry
            cases.append(replace(info.case, shape_zyx=geometry.shape_zyx, spacing_zyx_mm=geometry.spacing_zyx_mm))
    dataset = replace(dataset, cases=tuple(cases), problems=dataset.problems + tuple(problems))
    return _dimensions(dataset, good, config)


def in_threads(work: Callable[[A], B], items: Iterable[A], threads: int | None = None) -> Iterator[B]:
    """Results in order. Reading and inflating let other threads run, so threads are enough and nothing is copied."""
    from autounet.machine import cores

    count = threads or cores()
    if count == 1:
        for item in items:
            stop.check()
            yield work(item)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting = []
        iterator = iter(items)
        try:
            for item in iterator:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * count:  # a bounded queue: results are taken before more is begun
                    stop.check()
                    yield waiting.pop(0).result()
            while waiting:
                stop.check()
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _case_info(dataset: Dataset, case: Case) -> CaseInfo:
    try:
        files = list(dict.fromkeys((f.path, f.series) for f in case.images))
        infos = tuple(read_header(dataset.folder / path, read_options(dataset, series=series)) for path, series in files)
    except UserError as refused_:
        return CaseInfo(case, (), error("unreadable", refused_.problem, "a readable image", refused_.fix, case.id))
    return CaseInfo(case, infos)


def _grids(dataset: Dataset, info: CaseInfo) -> Problem | None:
    """Channels against each other; labels follow when they are read."""
    files = list({f.path: f for f in info.case.images}.values())
    first = info.images[0].geometry
    for file, other in zip(files[1:], info.images[1:], strict=True):
        agreement = compare(first, other.geometry)
        refusal = refused(agreement, file, dataset.reading, info.case)
        if refusal is not None:
            return error("channel_grid", refusal.problem, f"the grid of {files[0].path}", refusal.fix, info.case.id)
        if agreement.verdict == "header":
            return warning(
                "channel_header",
                f"{file.path}: {agreement.found}",
                f"the header of {files[0].path}",
                "check that the arrays do fit",
                info.case.id,
            )
    return None


def _channels_in_files(
    dataset: Dataset, infos: list[CaseInfo], draft: Draft, config: Config
) -> tuple[list[CaseInfo], tuple[ChannelSpec, ...], bool, list[Problem]]:
    """How many channels the files hold, and what follows: gray, colour, or several volumes in one file."""
    counts = {info.images[0].channels for info in infos}
    one_file = all(len({f.path for f in i.case.images}) == 1 for i in infos)
    pictures = all(i.images[0].format in ("png", "jpeg", "bmp", "tiff") for i in infos)
    declared = len(dataset.channels)
    if pictures and one_file and counts in ({3}, {1, 3}):
        return _pictures(dataset, infos, config)
    if not one_file or counts == {1} or draft.in_one_file:
        return _several_files(dataset, infos, draft)
    return _volumes_in_one(dataset, infos, max(counts), declared)


def _several_files(
    dataset: Dataset, infos: list[CaseInfo], draft: Draft
) -> tuple[list[CaseInfo], tuple[ChannelSpec, ...], bool, list[Problem]]:
    """Every file must hold as many channels as were declared: one, or all of them."""
    expected = len(dataset.channels) if draft.in_one_file else 1
    good, problems = [], []
    for info in infos:
        wrong = next(((f, i.channels) for f, i in zip(_files(info.case), info.images, strict=True) if i.channels != expected), None)
        if wrong is None:
            good.append(info)
        else:
            said = f"{wrong[0].path} holds {wrong[1]} channel{'s' if wrong[1] > 1 else ''}"
            problems.append(error("channel_count", said, f"{expected}", "split the file, or declare its channels", info.case.id))
    return good, dataset.channels, dataset.reading.gray, problems


def _files(case: Case) -> list[ImageFile]:
    return list({(f.path, f.series): f for f in case.images}.values())


def _pictures(
    dataset: Dataset, infos: list[CaseInfo], config: Config
) -> tuple[list[CaseInfo], tuple[ChannelSpec, ...], bool, list[Problem]]:
    """Colour pictures, some of them gray perhaps: all of them gray are one channel, else three."""
    colour = [i for i in infos if i.images[0].channels == 3]
    if config.reading.gray or (len(config.channels) == 1) or (len(dataset.channels) == 1 and _all_gray(dataset, colour)):
        said = note("gray", f"{len(colour)} pictures store gray as colour; their one channel is used", remedy="")
        return infos, dataset.channels, True, [said] if colour else []
    names = dataset.channels if len(dataset.channels) == 3 else tuple(ChannelSpec(name=n) for n in ("red", "green", "blue"))
    channels = tuple(replace(c, modality="rgb") for c in names)
    problems = []
    if len(colour) < len(infos):
        problems.append(
            note("mixed_colour", f"{len(colour)} of {len(infos)} pictures are colour; gray ones are taken as three equal channels")
        )
    out = [replace(i, case=_in_one(i.case, 3)) for i in infos]
    return out, channels, False, problems


def _all_gray(dataset: Dataset, colour: list[CaseInfo]) -> bool:
    """Whether a sample, spread over all pictures, holds gray only; the rest is verified when it is read."""
    step = max(1, len(colour) // GRAY_SAMPLES)

    def gray(info: CaseInfo) -> bool:
        try:
            return len(read_image(dataset.folder / info.case.images[0].path, read_options(dataset, channels=1)).voxels_czyx) == 1
        except UserError:  # real colour is refused as one channel
            return False

    return all(in_threads(gray, colour[::step]))


def _volumes_in_one(
    dataset: Dataset, infos: list[CaseInfo], most: int, declared: int
) -> tuple[list[CaseInfo], tuple[ChannelSpec, ...], bool, list[Problem]]:
    """4D files: channels when they were declared or are few and equal everywhere, else a series nobody asked for."""
    said = declared > 1
    wanted = declared if said else most
    if not said and (most > MOST_CHANNELS or len(infos) < 2 or sum(i.images[0].channels == most for i in infos) < 0.5 * len(infos)):
        wanted = 1
    problems, good = [], []
    for info in infos:
        volumes = info.images[0].channels
        if volumes == wanted:
            good.append(info if wanted == 1 else replace(info, case=_in_one(info.case, wanted)))
            continue
        fix = "split it into one file per volume, or name its volumes under [channels] in autounet.toml"
        path = info.case.images[0].path
        problems.append(error("four_dimensions", f"{path} holds {volumes} volumes", f"{wanted}", fix, info.case.id))
    if not said and wanted > 1:
        found = f"every image holds {wanted} volumes, taken as {wanted} channels"
        problems.append(
            warning("volumes_as_channels", found, "one volume, or named channels", "name them under [channels] in autounet.toml")
        )
    channels = dataset.channels if said or wanted == 1 else tuple(ChannelSpec(name=f"channel_{c}") for c in range(wanted))
    return good, channels, False, problems


def _in_one(case: Case, channels: int) -> Case:
    return replace(case, images=tuple(replace(case.images[0], part=c) for c in range(channels)))


def _dimensions(dataset: Dataset, infos: list[CaseInfo], config: Config) -> Dataset:
    """Pictures or volumes; a stack of pages can be either."""
    kept = {c.id for c in dataset.cases}
    infos = [i for i in infos if i.case.id in kept]
    flat = [i for i in infos if i.images[0].geometry.shape_zyx[0] == 1 or 1 in i.images[0].geometry.shape_zyx[1:]]
    stacks = [i for i in infos if i.images[0].format == "tiff" and i.images[0].geometry.shape_zyx[0] > 1]
    if stacks and config.stacks is None and len(stacks) == len(infos) and len(stacks) < MIN_VOLUMES:
        path, pages = stacks[0].case.images[0].path, stacks[0].images[0].geometry.shape_zyx[0]
        raise UserError(
            f"{path} holds {pages} pictures, which may be slices of a volume or single pictures",
            'set stacks = "slices" (each picture is a case) or "volume" under [dataset] in autounet.toml',
        )
    if stacks and config.stacks == "slices":
        return replace(dataset, dimensions=2, cases=tuple(c for i in infos for c in _sections(i)))
    dimensions: Literal[2, 3] = 2 if len(flat) == len(infos) else 3
    if config.dimensions in (2, 3):
        dimensions = 2 if config.dimensions == 2 else 3
    problems: tuple[Problem, ...] = ()
    if flat and dimensions == 3:
        names = ", ".join(i.case.id for i in flat[:20])
        problems = (
            warning("single_slices", f"{len(flat)} cases have a single slice: {names}", "volumes", "train them apart, or remove them"),
        )
    return replace(dataset, dimensions=dimensions, problems=dataset.problems + problems)


def _sections(info: CaseInfo) -> list[Case]:
    """Each picture of a stack as a case; neighbours look alike, but a single stack has to be divided somehow."""
    pages = info.images[0].geometry.shape_zyx[0]
    case = info.case
    digits = len(str(pages - 1))
    if pages == 1:
        return [case]
    return [
        replace(
            case,
            id=f"{case.id}_{page:0{digits}d}",
            group=f"{case.id}_{page:0{digits}d}" if case.group == case.id else case.group,
            images=tuple(replace(f, section=page) for f in case.images),
            label=None if case.label is None else replace(case.label, section=page),
            shape_zyx=(1, *info.images[0].geometry.shape_zyx[1:]),
            spacing_zyx_mm=info.images[0].geometry.spacing_zyx_mm,
        )
        for page in range(pages)
    ]
