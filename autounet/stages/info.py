"""What a file or folder is, in a few lines: a model, a plan, a work folder or an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autounet.progress.wording import size
from planners.errors import UserError

if TYPE_CHECKING:
    from autounet.store.selection import Selection
    from planners.plan import Configuration, Plan

STEPS = (
    ("index.json", "checked"),
    ("fingerprint.json", "measured"),
    ("plan.json", "planned"),
    ("runs", "trained"),
    ("selection.json", "selected"),
    ("report/index.html", "reported"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Lines for people, and the same for --json."""

    lines: tuple[str, ...]
    plain: dict[str, object] = field(default_factory=dict)


def look(path: Path) -> Facts:
    """Whatever it is, told from its content."""
    if path.is_dir():
        return _work_folder(path)
    if path.suffix == ".aunet":
        return _model(path)
    if path.suffix == ".json":
        return _plan_file(path)
    return _image(path)


def _model(path: Path) -> Facts:
    from autounet.store.bundle import open_bundle
    from planners.strict_json import to_plain

    bundle = open_bundle(path)
    plan, card, chosen = bundle.plan, bundle.card, bundle.selection
    networks = ", ".join(f"{c.configuration} (folds {', '.join(map(str, c.folds))})" for c in chosen.members)
    lines = [
        f"{card.name}: a model of {size(path.stat().st_size)}, content {bundle.sha256[:12]}",
        f"  segments    {', '.join(name for name, _ in plan.labels.targets)}",
        f"  takes       {_channels(plan)}",
        f"  networks    {networks}",
        f"  why these   {chosen.why}",
        *(_network(plan.configuration(c.configuration)) for c in chosen.members),
    ]
    if chosen.scores:
        lines.append(f"  Dice        {chosen.mean_dice:.3f} out of fold, over {chosen.cases} cases")
        lines += [f"              {s.name} {s.dice:.3f} ({s.low:.3f} to {s.high:.3f})" for s in chosen.scores]
    lines += [f"  repairs     {s.words}" for s in chosen.post_steps]
    lines += [f"  {line}" for line in (*(p.words for p in chosen.presets), *_honesty(chosen))]
    lines += [f"  --engine openvino-int8: {chosen.int8.words}"] if chosen.int8 else []
    lines += [f"  licences    weights: {card.licence_weights}; data: {card.licence_data}", f"  intended    {card.intended_use}"]
    plain = {
        "kind": "model",
        "sha256": bundle.sha256,
        "card": to_plain(card),
        "selection": to_plain(chosen),
        "labels": to_plain(plan.labels),
    }
    return Facts(lines=tuple(lines), plain=plain)


def _honesty(chosen: Selection) -> tuple[str, ...]:
    """What is known of the probabilities, and of masks without truth."""
    lines = []
    if chosen.calibration is not None:
        found = chosen.calibration
        told = f"temperature {chosen.temperature:.3g}, ECE {found.ece_before:.4f} before, {found.ece_after:.4f} after"
        lines.append(f"calibrated  {told if chosen.temperature != 1 else f'no temperature helps; ECE {found.ece_before:.4f}'}")
    if chosen.expectation is not None:
        known, wide = chosen.expectation, chosen.expectation.above - chosen.expectation.below
        told = f"the Dice of a mask to within {wide:.2f} ({known.coverage:.0%}), and names masks to look at"
        lines.append(f"foresees    {told if wide < 1 else f'little: {known.cases} held-out cases are too few'}")
    return tuple(lines)


def _plan_file(path: Path) -> Facts:
    from autounet.store.strict import read_value
    from planners.plan import Plan
    from planners.strict_json import to_plain

    if path.name != "plan.json" and not path.name.endswith("plan.json"):
        raise UserError(f"{path.name} is no plan, model or image", "name a .aunet file, a plan.json, an image, or a work folder")
    plan = read_value(path, Plan)
    lines = (
        f"a plan for {plan.dataset}, made by the planner {plan.planner}",
        f"  segments    {', '.join(name for name, _ in plan.labels.targets)}",
        f"  takes       {_channels(plan)}",
        *(_network(c) for c in plan.configurations),
    )
    return Facts(lines=lines, plain={"kind": "plan", "plan": to_plain(plan)})


def _work_folder(path: Path) -> Facts:
    if not any((path / name).exists() for name, _ in STEPS):
        raise UserError(f"{path} is no work folder", f"to see what is in a folder of images, type: autounet check {path}")
    done = [word for name, word in STEPS if (path / name).exists()]
    missing = [word for _, word in STEPS if word not in done]
    folds = sorted(p.parent.relative_to(path / "runs").as_posix() for p in path.glob("runs/*/fold_*/run.json"))
    models = sorted(p.name for p in path.glob("*.aunet"))
    lines = [f"{path}: a work folder", f"  done        {', '.join(done)}"]
    lines += [f"  not yet     {', '.join(missing)}"] if missing else []
    lines += [f"  folds       {', '.join(folds)}"] if folds else []
    lines += [f"  model       {path / name}" for name in models]
    if (path / "report" / "index.html").exists():
        lines.append(f"  report      {path / 'report' / 'index.html'}")
    return Facts(lines=tuple(lines), plain={"kind": "work folder", "done": done, "folds": folds, "models": models})


def _image(path: Path) -> Facts:
    from autounet.images.orientation import orientation_of
    from autounet.images.read import read_header

    seen = read_header(path)
    geometry = seen.geometry
    shape, spacing = " x ".join(map(str, geometry.shape_zyx[::-1])), " x ".join(f"{mm:g}" for mm in geometry.spacing_zyx_mm[::-1])
    code = orientation_of(geometry).code
    lines = (
        f"{path.name}: an image in the format {seen.format}",
        f"  size        {shape} voxels (x, y, z) of {seen.dtype}, {seen.channels} channel{'s' if seen.channels != 1 else ''}",
        f"  spacing     {spacing} mm",
        f"  axes        {code}" + ("" if code == "2D" else " (towards right or left, anterior or posterior, superior or inferior)"),
    )
    plain: dict[str, object] = {
        "kind": "image",
        "format": str(seen.format),
        "shape_zyx": list(geometry.shape_zyx),
        "spacing_zyx_mm": list(geometry.spacing_zyx_mm),
        "channels": seen.channels,
        "dtype": str(seen.dtype),
        "axes": code,
    }
    return Facts(lines=lines, plain=plain)


def _channels(plan: Plan) -> str:
    return ", ".join(c.name if c.modality == "unknown" else f"{c.name} ({c.modality})" for c in plan.channels)


def _network(configuration: Configuration) -> str:
    shape = configuration.architecture
    patch, mm = " x ".join(map(str, configuration.patch_zyx)), " x ".join(f"{v:.3g}" for v in configuration.spacing_zyx_mm)
    network = f"{shape.kind}, {len(shape.features)} stages, patch {patch}, batch {configuration.batch_size}, at {mm} mm"
    return f"  {configuration.name:<11} {network}"
