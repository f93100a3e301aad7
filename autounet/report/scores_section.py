"""How good it is: of each class, of each case, against what else was tried, and what bad cases have in common."""

from typing import Any

from autounet.report.figures import intervals, strips
from autounet.report.gallery import Gallery
from autounet.report.gather import Material
from autounet.report.groups import SHOWN, Group, failure_groups
from autounet.report.looks import Targets
from autounet.report.page import Figure, Pictures, Section, Table, Viewer
from autounet.report.pictures import COLOURS
from autounet.report.viewer import Volume
from autounet.store.selection import Selection

TRAITS = 12  # in the table of what bad cases share, the most telling first
LEGEND = 12  # classes; more make a legend nobody reads
MANY_CLASSES = 24  # columns of the table of cases; with more a row has the mean and the lowest


def scores_section(material: Material) -> Section | None:
    """Numbers; None before anything was chosen."""
    selection = material.selection
    if selection is None:
        return None
    found = material.chosen_scores
    flat = material.plan is not None and material.plan.dimensions == 2
    tables = [("", _classes(selection, found, flat))] if selection.scores else []
    if len(selection.candidates) > 1:
        tables.append(("What was tried", _candidates(selection)))
    if selection.post_steps:
        tables.append(("What is done to the masks afterwards", _post_steps(selection)))
    figures = []
    if selection.scores:
        drawn = intervals([(s.name, s.dice, s.low, s.high) for s in selection.scores])
        figures.append(Figure(svg=drawn, caption="Mean Dice of each class and its 95 % interval over patients."))
    if found is not None:
        figures.append(Figure(svg=strips(_by_target(found)), caption="Every case is a tick. Point at one to see which it is."))
        tables.append(("Every case", _cases(found)))
    words = ("Each case was predicted by networks that had not seen it. Intervals are 95 %, over patients.",)
    if not selection.scores:
        words = ("No case was held out of the training of a fold, so nothing is known of how good the model is on new images.",)
    facts = _sureness(selection)
    return Section(id="scores", title="How good it is", words=words, facts=facts, figures=tuple(figures), tables=tuple(tables))


def _classes(selection: Selection, scores: Any, flat: bool) -> Table:
    """With what makes a low Dice understandable: whether the class is missed or overdrawn. Pictures have no volume."""
    more = [("sensitivity", "Sensitivity", 3), ("precision", "Precision", 3)]
    more += [] if flat else [("volume_error_ml", "Volume error ml", 2)]
    more += [("nsd", "NSD", 3), ("hd95_mm", "HD95 mm", 2)]
    means = (scores or {}).get("mean", {})
    more = [entry for entry in more if any(mean.get(entry[0]) is not None for mean in means.values())]
    rows = []
    for one in selection.scores:
        found = means.get(one.name, {})
        beside = tuple("" if found.get(metric) is None else f"{found[metric]:.{digits}f}" for metric, _, digits in more)
        rows.append((one.name, str(one.cases), f"{one.dice:.4f}", f"{one.low:.4f}", f"{one.high:.4f}", *beside))
    head = ("Class", "Cases", "Dice", "from", "to", *(title for _, title, _ in more))
    return Table(head=head, rows=tuple(rows), numeric=(False, *(True for _ in head[1:])))


def _candidates(selection: Selection) -> Table:
    chosen = tuple((member.configuration, member.weight) for member in selection.members)
    rows = []
    for c in selection.candidates:
        said = tuple(zip(c.configurations, c.weights or (1.0,) * len(c.configurations), strict=True))
        verdict = [word for true, word in ((said == chosen, "chosen"), (c.within_noise, "within noise of the best")) if true]
        p = "" if c.p_against_best is None else f"{c.p_against_best:.3g}"
        first = "" if c.first_share is None else f"{c.first_share:.0%}"
        rows.append((c.name, f"{c.dice:.4f}", f"{c.low:.4f}", f"{c.high:.4f}", p, first, ", ".join(verdict)))
    head = ("Candidate", "Dice", "from", "to", "p against the best", "Best among redrawn patients", "Verdict")
    return Table(head=head, rows=tuple(rows), numeric=(False, True, True, True, True, True, False))


def _post_steps(selection: Selection) -> Table:
    rows = tuple(
        (step.words.rpartition(" (")[0], f"{step.gain:+.4f}", "" if step.p is None else f"{step.p:.3g}") for step in selection.post_steps
    )
    return Table(head=("Step", "Gain in Dice", "p"), rows=rows, numeric=(False, True, True))


def _sureness(selection: Selection) -> tuple[tuple[str, str], ...]:
    """How much of the mean is luck, and what the networks know of themselves."""
    facts = []
    if selection.mean_dice is not None and selection.mean_low is not None and selection.mean_high is not None:
        facts.append(("Mean Dice, 95 % interval", f"{selection.mean_low:.4f} to {selection.mean_high:.4f}"))
    if len(selection.folds) > 1:
        dice = [fold.dice for fold in selection.folds]
        facts.append((f"Of the {len(dice)} folds", f"{min(dice):.4f} to {max(dice):.4f}"))
    if selection.expectation is not None:
        near = f"{selection.expectation.below:+.3f} to {selection.expectation.above:+.3f}"
        facts.append((f"Dice guessed for a new case is off by ({selection.expectation.coverage:.0%})", near))
    if selection.calibration is not None:
        found = selection.calibration
        facts.append(("Calibration error of probabilities", f"{found.ece_before:.3f}, tempered {found.ece_after:.3f}"))
    return tuple(facts)


def _by_target(scores: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    found = []
    for name in scores["targets"]:
        values = [(c["case"], c["metrics"][name]["dice"]) for c in scores["cases"] if "metrics" in c]
        found.append((name, [(case, dice) for case, dice in values if dice is not None]))
    return found


def _cases(scores: Any) -> Table:
    names = list(scores["targets"])
    few = names if len(names) <= MANY_CLASSES else []
    rows = []
    for case in scores["cases"]:
        metrics = case.get("metrics", {})
        values = {name: metrics[name]["dice"] for name in names if metrics and metrics[name]["dice"] is not None}
        mean = f"{sum(values.values()) / len(values):.4f}" if values else ""
        lowest = min(values, key=lambda name: values[name]) if values else ""
        middle = tuple(f"{values[n]:.4f}" if n in values else "" for n in few) if few else (f"{values[lowest]:.4f}" if values else "",)
        rows.append((case["case"], mean, *middle, *(() if few else (lowest,)), case.get("problem", "")))
    rows.sort(key=lambda row: (row[1] == "", row[1]))  # worst first
    if few:
        head: tuple[str, ...] = ("Case", "Mean Dice", *few, "Remark")
        return Table(head=head, rows=tuple(rows), numeric=(False, True, *(True for _ in few), False))
    return Table(head=("Case", "Mean Dice", "Lowest", "of", "Remark"), rows=tuple(rows), numeric=(False, True, True, False, False))


def cases_section(material: Material, shown: Gallery, volumes: tuple[Volume, ...]) -> Section | None:
    """Pictures of the worst and the best, what bad cases share, and the viewer."""
    groups = failure_groups(material)
    if not (groups or shown.worst or shown.best or volumes):
        return None
    rows = list[Pictures]()
    legend = legend_of(material.targets, predicted=True)
    if shown.worst:
        words = "Where truth and prediction of the class with the lowest Dice differ most."
        rows.append(Pictures(heading="The worst cases", words=words, figures=shown.worst, legend=legend))
    if shown.best:
        rows.append(Pictures(heading="The best cases", words="", figures=shown.best))
    said = ["Look here before you trust a mean."] if rows else list[str]()
    if rows and material.masks_of != material.chosen:
        said.append(f"Masks are those of {material.masks_of} alone; the scores are those of the networks together.")
    if rows and material.selection is not None and material.selection.post_steps:
        said.append("The masks are shown before they are repaired; the scores are of the repaired ones.")
    return Section(
        id="cases",
        title="Good and bad cases",
        words=tuple(said),
        pictures=tuple(rows),
        viewer=viewer_of(material.targets, volumes),
        tables=(("What bad cases have in common", _groups(groups)),) if groups else (),
    )


def _groups(groups: tuple[Group, ...]) -> Table:
    rows = []
    for group in groups[:TRAITS]:
        ids = ", ".join(group.cases[:SHOWN]) + (f" and {len(group.cases) - SHOWN} more" if len(group.cases) > SHOWN else "")
        elsewhere = "" if group.elsewhere != group.elsewhere else f"{group.elsewhere:.4f}"
        rows.append((group.trait, str(len(group.cases)), f"{group.dice:.4f}", elsewhere, group.verdict, ids))
    head = ("Trait", "Cases", "Mean Dice", "elsewhere", "Verdict", "Which, the worst first")
    return Table(head=head, rows=tuple(rows), numeric=(False, True, True, True, False, False))


def viewer_of(targets: Targets, volumes: tuple[Volume, ...]) -> Viewer | None:
    """Buttons for the volumes; None without any."""
    if not volumes:
        return None
    return Viewer(cases=tuple(f"{v.case}: Dice {v.dice:.3f}" for v in volumes), targets=tuple(name for name, _ in targets))


def legend_of(targets: Targets, *, predicted: bool) -> tuple[tuple[str, str], ...]:
    """What the lines are; of very many classes only the first are named."""
    names = [(f"k{index % COLOURS + 1}", name) for index, (name, _) in enumerate(targets[:LEGEND])]
    if len(targets) > LEGEND:
        names.append(("", f"and {len(targets) - LEGEND} more; point at a line for its name"))
    return (("truth", "truth"), *((style, f"predicted {name}" if style else name) for style, name in names)) if predicted else tuple(names)
