"""The sections of the page, in the order in which a reader asks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autounet.report.gather import Material
from autounet.report.page import Page, Section, Table
from planners.fingerprint import Fingerprint
from planners.plan import Plan


def page_of(material: Material, *, public: bool) -> Page:
    """The whole page."""
    makers = (_scores, _data, _plan, _network, _use)
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
        tiles.append((f"{material.selection.mean_dice:.3f}", "mean Dice", f"on {material.selection.cases} cases held out of training"))
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
    tables = [
        ("", Table(head=("Class", "Cases", "Dice", "from", "to"), rows=rows, numeric=(False, True, True, True, True))),
        (
            "What was tried",
            Table(
                head=("Candidate", "Dice", "from", "to"),
                rows=tuple((c.name, f"{c.dice:.4f}", f"{c.low:.4f}", f"{c.high:.4f}") for c in selection.candidates),
                numeric=(False, True, True, True),
            ),
        ),
    ]
    chosen = selection.members[0].configuration
    if chosen in material.scores:
        tables.append(("Every case", _case_table(material.scores[chosen])))
    words = ("Each case was predicted by networks that had not seen it. Intervals are 95 %, over patients.",)
    return Section(id="scores", title="How good it is", words=words, tables=tuple(tables))


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
    return None if material.plan is None else _drawn(material.plan)


def _drawn(plan: Plan) -> Section | None:
    return None


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
