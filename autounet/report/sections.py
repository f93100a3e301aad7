"""The sections of the page, in the order in which a reader asks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from autounet.report.figures import curves, intervals, strips
from autounet.report.gather import Material
from autounet.report.page import Figure, Page, Section, Table
from autounet.store.selection import Selection
from planners.fingerprint import Fingerprint
from planners.network_picture import network_svg


def page_of(material: Material, *, public: bool) -> Page:
    """The whole page."""
    makers = (_scores, _data, _plan, _network, _training, _use)
    return Page(
        title=material.name,
        lead=_lead(material),
        tiles=_tiles(material),
        sections=tuple(section for section in (maker(material) for maker in makers) if section is not None),
    )


def _lead(material: Material) -> tuple[str, ...]:
    if material.selection is None:
        return ("The training is not finished: this page shows what is there so far.",)
    return (material.selection.why[0].upper() + material.selection.why[1:] + ".",)


def _tiles(material: Material) -> tuple[tuple[str, str, str], ...]:
    tiles = []
    if material.selection is not None and material.selection.mean_dice is not None:
        tiles.append(
            (
                f"{material.selection.mean_dice:.3f}",
                "mean Dice",
                f"over {material.selection.cases} held-out case{'s' if material.selection.cases != 1 else ''}",
            )
        )
    if material.fingerprint is not None:
        tiles.append((str(len(material.fingerprint.cases)), "cases", f"{material.fingerprint.dimensions}D"))
        tiles.append((str(len(material.fingerprint.labels.foreground)), "classes", ""))
    if material.plan is not None:
        tiles.append((str(len(material.plan.train)), "configurations", ", ".join(material.plan.train)))
    return tuple(tiles)


def _scores(material: Material) -> Section | None:
    selection = material.selection
    if selection is None:
        return None
    rows = tuple((s.name, str(s.cases), f"{s.dice:.4f}", f"{s.low:.4f}", f"{s.high:.4f}") for s in selection.scores)
    tables = (
        [("", Table(head=("Class", "Cases", "Dice", "from", "to"), rows=rows, numeric=(False, True, True, True, True)))] if rows else []
    )
    if len(selection.candidates) > 1:
        tables.append(("What was tried", _candidates(selection)))
    figures = []
    if selection.scores:
        drawn = intervals([(s.name, s.dice, s.low, s.high) for s in selection.scores])
        figures.append(Figure(svg=drawn, caption="Mean Dice of each class and its 95 % interval over patients."))
    chosen = " + ".join(m.configuration for m in selection.members).replace(" + ", "+")
    found = material.scores.get(chosen)
    if found is not None:
        figures.append(Figure(svg=strips(_by_target(found)), caption="Every case is a tick. Point at one to see which it is."))
        tables.append(("Worst cases", _worst(found)))
        tables.append(("Every case", _case_table(found)))
    words = ("Each case was predicted by networks that had not seen it. Intervals are 95 %, over patients.",)
    if not rows:
        words = ("No case was held out of the training of a fold, so nothing is known of how good the model is on new images.",)
    return Section(id="scores", title="How good it is", words=words, figures=tuple(figures), tables=tuple(tables))


def _candidates(selection: Selection) -> Table:
    rows = tuple(
        (
            c.name,
            f"{c.dice:.4f}",
            f"{c.low:.4f}",
            f"{c.high:.4f}",
            "" if c.p_against_best is None else f"{c.p_against_best:.3g}",
            "within noise of the best" if c.within_noise else "",
        )
        for c in selection.candidates
    )
    return Table(
        head=("Candidate", "Dice", "from", "to", "p against the best", "Verdict"), rows=rows, numeric=(False, True, True, True, True, False)
    )


def _by_target(scores: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    return [(name, [(case, dice) for case, dice in _dice(scores, name) if dice is not None]) for name in scores["targets"]]


def _dice(scores: Any, name: str) -> list[tuple[str, float | None]]:
    return [(c["case"], c["metrics"][name]["dice"]) for c in scores["cases"] if "metrics" in c]


def _worst(scores: Any, most: int = 5) -> Table:
    """Where to look first."""
    every = [(case, name, dice) for name in scores["targets"] for case, dice in _dice(scores, name) if dice is not None]
    rows = []
    for case, name, dice in sorted(every, key=lambda entry: entry[2])[:most]:
        found = next(c for c in scores["cases"] if c["case"] == case)["metrics"][name]
        rows.append((case, name, f"{dice:.4f}", str(found["tp"] + found["fn"]), str(found["tp"] + found["fp"])))
    return Table(
        head=("Case", "Class", "Dice", "True voxels", "Predicted voxels"), rows=tuple(rows), numeric=(False, False, True, True, True)
    )


def _case_table(scores: Any) -> Table:
    names = list(scores["targets"])
    rows = []
    for case in scores["cases"]:
        if "problem" in case:
            rows.append((case["case"], *("" for _ in names), case["problem"]))
            continue
        rows.append((case["case"], *(_number(case["metrics"][n]["dice"]) for n in names), ""))
    return Table(head=("Case", *(f"Dice {n}" for n in names), "Remark"), rows=tuple(rows), numeric=(False, *(True for _ in names), False))


def _data(material: Material) -> Section | None:
    seen = material.fingerprint
    if seen is None:
        return None
    classes = tuple((c.name, str(c.cases), f"{c.volume_ml:.3g}", f"{c.components:.3g}") for c in seen.classes)
    tables = (("Classes", Table(head=("Class", "Cases", "Median ml", "Pieces"), rows=classes, numeric=(False, True, True, True))),)
    return Section(id="data", title="The data", facts=_facts(seen), tables=tables if classes else ())


def _facts(seen: Fingerprint) -> tuple[tuple[str, str], ...]:
    spacing = np.array([c.spacing_zyx_mm for c in seen.cases])
    shape = np.array([c.shape_zyx for c in seen.cases])
    return (
        ("Cases", str(len(seen.cases))),
        ("Channels", ", ".join(f"{c.name} ({c.modality})" for c in seen.channels)),
        ("Median size", " × ".join(f"{v:.0f}" for v in np.median(shape, 0)) + " voxels"),
        ("Median spacing", " × ".join(f"{v:.3g}" for v in np.median(spacing, 0)) + " mm"),
        ("Orientations", ", ".join(seen.orientations)),
    )


def _plan(material: Material) -> Section | None:
    plan = material.plan
    if plan is None:
        return None
    rows = tuple((r.decision, r.chosen, r.why) for r in plan.reasons)
    head = ("Configuration", "Spacing mm", "Patch", "Batch", "Features")
    configurations = tuple(
        (c.name, _by(c.spacing_zyx_mm), _by(c.patch_zyx), str(c.batch_size), _by(c.architecture.features, " ")) for c in plan.configurations
    )
    tables = [("Configurations", Table(head=head, rows=configurations, numeric=(False,) * 5))]
    if rows:
        tables.append(("Why", Table(head=("Decision", "Chosen", "Because"), rows=rows, numeric=(False,) * 3)))
    return Section(id="plan", title="The plan", words=(f"Made by the planner “{plan.planner}”.",), tables=tuple(tables))


def _network(material: Material) -> Section | None:
    if material.plan is None:
        return None
    chosen = [m.configuration for m in material.selection.members] if material.selection else list(material.plan.train)
    figures = []
    for name in chosen:
        configuration = material.plan.configuration(name)
        caption = f"{name}: {configuration.architecture.kind} U-Net of {len(configuration.architecture.features)} stages."
        figures.append(Figure(svg=Markup(network_svg(configuration.architecture)), caption=caption))
    return Section(id="network", title="The network", figures=tuple(figures))


def _training(material: Material) -> Section | None:
    figures = []
    for configuration, folds in material.curves.items():
        drawn = curves([(f"fold {fold}", points) for fold, points in folds.items()], across="step", up="Dice of whole held-out volumes")
        if drawn:
            figures.append(Figure(svg=drawn, caption=f"{configuration}: Dice of a few whole held-out volumes while training, by step."))
    return Section(id="training", title="The training", figures=tuple(figures)) if figures else None


def _use(material: Material) -> Section | None:
    if not material.model:
        return None
    lines = (
        f"autounet predict {material.model} IMAGES MASKS",
        "",
        "# or in Python",
        "import autounet",
        f"model = autounet.load({material.model!r})",
        "model.predict('image.nii.gz').save('mask.nii.gz')",
    )
    return Section(
        id="use", title="How to use the model", words=("One file holds everything. Nothing in it can execute.",), code="\n".join(lines)
    )


def _by(values: Sequence[float], between: str = " × ") -> str:
    return between.join(f"{v:.4g}" for v in values)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
