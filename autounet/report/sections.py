"""The sections of the page, in the order in which a reader asks."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from autounet.report.figures import curves
from autounet.report.gallery import Gallery
from autounet.report.gather import Material
from autounet.report.page import Figure, Page, Pictures, Section, Table
from autounet.report.scores_section import cases_section, legend_of, scores_section
from autounet.report.speed import FoldSpeed, measured
from autounet.report.viewer import Volume
from planners.fingerprint import Fingerprint
from planners.network_picture import network_svg


def page_of(material: Material, shown: Gallery, volumes: tuple[Volume, ...] = ()) -> Page:
    """The whole page; a public one comes with an empty gallery."""
    sections = (
        scores_section(material),
        cases_section(material, shown, volumes),
        _data(material, shown),
        _plan(material),
        _network(material),
        _training(material),
        _speed(material),
        _use(material),
    )
    return Page(
        title=material.name,
        lead=_lead(material),
        tiles=_tiles(material),
        sections=tuple(section for section in sections if section is not None),
    )


def _lead(material: Material) -> tuple[str, ...]:
    if material.selection is None:
        return ("The training is not finished: this page shows what is there so far.",)
    return (material.selection.why[0].upper() + material.selection.why[1:] + ".",)


def _tiles(material: Material) -> tuple[tuple[str, str, str], ...]:
    tiles = []
    selection = material.selection
    if selection is not None and selection.mean_dice is not None:
        small = f"over {selection.cases} held-out case{'s' if selection.cases != 1 else ''}"
        if selection.mean_low is not None and selection.mean_high is not None:
            small = f"{selection.mean_low:.3f} to {selection.mean_high:.3f} {small}"
        tiles.append((f"{selection.mean_dice:.3f}", "mean Dice", small))
    if material.fingerprint is not None:
        tiles.append((str(len(material.fingerprint.cases)), "cases", f"{material.fingerprint.dimensions}D"))
        tiles.append((str(len(material.fingerprint.labels.foreground)), "classes", ""))
    if material.plan is not None:
        tiles.append((str(len(material.plan.train)), "configurations", ", ".join(material.plan.train)))
    return tuple(tiles)


def _data(material: Material, shown: Gallery) -> Section | None:
    seen = material.fingerprint
    if seen is None:
        return None
    classes = tuple((c.name, str(c.cases), f"{c.volume_ml:.3g}", f"{c.components:.3g}") for c in seen.classes)
    tables = [("Classes", Table(head=("Class", "Cases", "Median ml", "Pieces"), rows=classes, numeric=(False, True, True, True)))]
    pictures: tuple[Pictures, ...] = ()
    if shown.data:
        legend = legend_of(material.targets, predicted=False)
        words = "The slice with most on it; lines are the outlines of the true masks." + _hanging(material)
        pictures = (Pictures(heading="Some of the cases", words=words, figures=shown.data, legend=legend),)
    found = _problems(material)
    return Section(
        id="data",
        title="The data",
        words=shown.notes,
        facts=_facts(seen),
        pictures=pictures,
        tables=(*(tables if classes else ()), *((("What was noticed", found),) if found else ())),
    )


def _hanging(material: Material) -> str:
    flat = material.fingerprint is not None and material.fingerprint.dimensions == 2
    return "" if flat else " The patient's right is on the left."


def _problems(material: Material) -> Table | None:
    """What `check` found, by case; paths stay out of the page."""
    problems = [p for p in (material.dataset.problems if material.dataset else ()) if p.severity != "note"]
    if not problems:
        return None
    rows = tuple((p.severity, p.case or "all", p.code.replace("_", " ")) for p in problems)
    return Table(head=("Severity", "Case", "What"), rows=rows, numeric=(False, False, False))


def _facts(seen: Fingerprint) -> tuple[tuple[str, str], ...]:
    spacing = np.array([c.spacing_zyx_mm for c in seen.cases])
    shape = np.array([c.shape_zyx for c in seen.cases])
    known = (("Cases", str(len(seen.cases))), ("Channels", ", ".join(f"{c.name} ({c.modality})" for c in seen.channels)))
    if seen.dimensions == 2 and (spacing == 1).all():  # pictures have no millimetres
        return (*known, ("Median size", " × ".join(f"{v:.0f}" for v in np.median(shape, 0)[1:]) + " pixels"))
    return (
        *known,
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
    for configuration in (c for c in material.plan.configurations if c.name in chosen):  # the plan may be newer than the choice
        name = configuration.name
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


def _speed(material: Material) -> Section | None:
    if not material.folds:
        return None
    rows = tuple(
        (
            f.configuration,
            str(f.fold),
            f"{f.iterations:,}",
            f"{f.seconds / 60:.1f}",
            _step(f),
            f"{f.waited_seconds / f.seconds:.0%}" if f.seconds else "",
            "" if f.held_bytes is None else f"{f.held_bytes / 2**30:.2f}",
            "" if f.seconds_per_case is None else f"{f.seconds_per_case:.2f}",
            f.execution,
        )
        for f in material.folds
    )
    head = ("Configuration", "Fold", "Steps", "Minutes", "Seconds a step", "Waited for data", "GiB held", "Seconds a case to predict")
    table = Table(head=(*head, "Where and how"), rows=rows, numeric=(False, *(True,) * 7, False))
    return Section(id="speed", title="Speed and memory", facts=_memory(material), tables=(("", table), *_presets(material)))


def _step(fold: FoldSpeed) -> str:
    """The median, or the mean where the log of the fold is gone."""
    if fold.step_seconds is not None:
        return f"{fold.step_seconds:.3f}"
    return f"{fold.seconds / fold.iterations:.3f}" if fold.iterations else ""


def _memory(material: Material) -> tuple[tuple[str, str], ...]:
    """What was planned beside what was measured."""
    facts = []
    names = {fold.configuration for fold in material.folds}
    for one in material.plan.configurations if material.plan else ():
        if one.name not in names:
            continue
        planned = f"{one.memory.training_bytes / 2**30:.1f} GiB planned" if one.memory.training_bytes else ""
        said = ", ".join(words for words in (planned, measured(material.folds, one.name).words) if words)
        if said:
            facts.append((f"{one.name}, to train", said))
        if one.memory.inference_bytes:
            facts.append((f"{one.name}, to predict", f"{one.memory.inference_bytes / 2**30:.1f} GiB planned"))
    if material.model_bytes:
        facts.append(("The model file", f"{material.model_bytes / 1e6:.1f} MB"))
    return tuple(facts)


def _presets(material: Material) -> tuple[tuple[str, Table], ...]:
    presets = material.selection.presets if material.selection else ()
    if not presets:
        return ()
    rows = tuple(
        (
            f"--{p.name}",
            f"{p.step_fraction:g}",
            "yes" if p.mirror else "no",
            "all" if not p.folds else str(p.folds),
            "" if p.dice is None else f"{p.dice:.4f}",
            str(p.cases) if p.cases else "",
            "" if p.seconds_per_case is None else f"{p.seconds_per_case:.3g}",
        )
        for p in presets
    )
    head = ("Preset", "Step", "Mirrored", "Folds", "Dice of one fold", "Cases", "Seconds a case")
    return (("Faster or better", Table(head=head, rows=rows, numeric=(False, True, False, True, True, True, True))),)


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
        id="use",
        title="How to use the model",
        words=("One file holds everything: networks, plan, labels and what was chosen. Nothing in it can execute.",),
        code="\n".join(lines),
    )


def _by(values: Sequence[float], between: str = " × ") -> str:
    return between.join(f"{v:.4g}" for v in values)
