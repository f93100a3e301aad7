"""Which cases are shown, and their pictures: some of the data, the worst and the best of what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autounet import stop
from autounet.data.dataset import Case
from autounet.job import Job
from autounet.report.gather import Material
from autounet.report.looks import Look, Plane, Targets, by_channel, mean_dice, most_seen, most_wrong, plane, range_of, read_look, window
from autounet.report.page import Figure
from autounet.report.pictures import draw
from autounet.report.turned import turned
from autounet.report.viewer import Volume, volume_of
from planners.errors import UserError

OF_THE_DATA, WORST, BEST = 6, 6, 3  # pictures at most
IN_VIEWER = 4
PICTURE_BYTES = 900_000  # of all pictures together, as text in the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A held-out case with its mask."""

    case: str
    dice: float
    target: str  # the one with the lowest Dice
    target_dice: float
    mask: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """All pictures of the page, and the volumes of the viewer; empty in a public report."""

    data: tuple[Figure, ...] = ()
    worst: tuple[Figure, ...] = ()
    best: tuple[Figure, ...] = ()
    volumes: tuple[Volume, ...] = ()
    notes: tuple[str, ...] = ()  # what could not be shown, and what should be looked at


def gallery(material: Material, job: Job) -> Gallery:
    """Read the chosen cases one after the other; one that cannot be read is a note."""
    dataset = material.dataset
    if dataset is None:
        return Gallery()
    if not dataset.folder.is_dir():
        return Gallery(notes=("The dataset is not where it was when it was checked, so there are no pictures.",))
    ranked = ranking(material)
    worst = ranked[: min(WORST, (len(ranked) + 1) // 2)]
    best = ranked[len(worst) :][-BEST:][::-1]
    shown = spread(dataset.training, OF_THE_DATA)
    masks = {one.case: one for one in ranked}
    wanted = {case.id: case for case in (*shown, *(dataset.case(one.case) for one in (*worst, *best)))}
    made, shown_range = _Made(material.targets, [c.name for c in dataset.channels]), range_of(material.fingerprint)
    in_viewer = [one.case for one in (*worst[: IN_VIEWER - 1], *best[:1])]
    with job.progress.task("picture", total=len(wanted), unit="case") as task:
        for case_id, case in wanted.items():
            stop.check()
            task.step(doing=case_id, n=0)
            scored = masks.get(case_id)
            try:
                look = read_look(dataset, case, scored.mask if scored else None, shown_range)
            except UserError as error:
                made.notes.append(f"{case_id} is not shown: {error.problem}.")
            else:
                made.show(look, case, scored, in_viewer=case_id in in_viewer)
                if suspicion := turned(look):
                    made.notes.append(suspicion)
                    job.progress.warn(suspicion)
            task.step()
    return made.gallery(
        [c.id for c in shown], [one.case for one in worst], [one.case for one in best], [c for c in in_viewer if c in made.volumes]
    )


class _Made:
    """Pictures by case, as they come."""

    def __init__(self, targets: Targets, channels: Sequence[str]) -> None:
        self.targets, self.channels = targets, channels
        self.data: dict[str, tuple[Figure, ...]] = {}  # a picture a channel
        self.scored: dict[str, tuple[Figure, ...]] = {}
        self.volumes: dict[str, Volume] = {}
        self.notes: list[str] = []

    def show(self, look: Look, case: Case, scored: Scored | None, *, in_viewer: bool) -> None:
        """Everything that is made of one case while it is in memory."""
        index, channels = most_seen(look, self.targets), by_channel(look)
        self.data[case.id] = tuple(
            self._of_the_data(plane(one, index), case, self.channels[number] if len(channels) > 1 else "")
            for number, one in enumerate(channels)
        )
        if scored is None or look.truth_zyx is None:
            return
        values = dict(self.targets)[scored.target]
        wrong = window(plane(look, most_wrong(look, values)))
        words = f"{scored.case}: mean Dice {scored.dice:.3f}"
        if len(self.targets) > 1:
            words += f", lowest {scored.target} with {scored.target_dice:.3f}"
        words += f"; {wrong.name}" if wrong.name else ""
        self.scored[case.id] = (Figure(svg=draw(wrong, self.targets, title=words), caption=words),)
        if in_viewer and not look.flat and len(look.gray_czyx) == 1:
            self.volumes[case.id] = volume_of(look, self.targets, scored.dice)

    def _of_the_data(self, whole: Plane, case: Case, channel: str) -> Figure:
        about = ", ".join(text for text in (case.stratum, channel, whole.name) if text)
        svg = draw(replace(whole, predicted_yx=None), self.targets, title=f"{case.id}, {about}")
        return Figure(svg=svg, caption=f"{case.id}{': ' if about else ''}{about}")

    def gallery(self, shown: Sequence[str], worst: Sequence[str], best: Sequence[str], volumes: Sequence[str]) -> Gallery:
        """As much as fits the page: first the worst cases, which nobody should miss."""
        left = PICTURE_BYTES
        kept: list[tuple[Figure, ...]] = []
        for names, figures in ((worst, self.scored), (best, self.scored), (shown, self.data)):
            row = []
            for figure in (figure for name in names for figure in figures.get(name, ())):
                left -= len(figure.svg)
                if left >= 0:
                    row.append(figure)
            kept.append(tuple(row))
        notes = list(self.notes)
        if left < 0:
            notes.append(f"Some pictures were left out: together they were larger than {PICTURE_BYTES // 1000} kB.")
        return Gallery(worst=kept[0], best=kept[1], data=kept[2], volumes=tuple(self.volumes[name] for name in volumes), notes=tuple(notes))


def ranking(material: Material) -> tuple[Scored, ...]:
    """Held-out cases with a mask, the worst first."""
    found = []
    known = {case.id for case in material.dataset.training} if material.dataset else set()
    names = {name for name, _ in material.targets}
    for row in (material.chosen_scores or {}).get("cases", []):
        mask = material.masks.get(str(row["case"]).replace("/", "_"))
        metrics = {name: found for name, found in row.get("metrics", {}).items() if name in names}  # a plan may have changed since
        dice = mean_dice(metrics)
        if mask is None or dice is None or row["case"] not in known:
            continue
        lowest = min((float(m["dice"]), name) for name, m in metrics.items() if m["dice"] is not None)
        found.append(Scored(case=row["case"], dice=dice, target=lowest[1], target_dice=lowest[0], mask=mask))
    return tuple(sorted(found, key=lambda one: (one.dice, one.case)))


def spread(cases: Sequence[Case], most: int) -> tuple[Case, ...]:
    """Some of the cases, evenly from the first to the last."""
    if len(cases) <= most:
        return tuple(cases)
    return tuple(cases[round(index * (len(cases) - 1) / (most - 1))] for index in range(most))
