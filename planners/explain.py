"""A plan in words: on one screen, one decision in depth, and the difference between two plans."""

from difflib import get_close_matches
from textwrap import wrap
from typing import Any

from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.hardware import GiB
from planners.network_picture import network_svg, network_text
from planners.plan import Configuration, Plan
from planners.quantiles import axis_medians
from planners.strict_json import to_plain
from planners.words import by, duration

__all__ = ["deep", "difference", "network_svg", "network_text", "one_screen"]

WIDTH = 80
_LABEL = 11


def one_screen(plan: Plan, fingerprint: Fingerprint) -> str:
    """What was seen, what was chosen and why, memory and time, and what to type to change it."""
    lines = [f"Plan for {plan.dataset}  (planner: {plan.planner})", "", *_seen(plan, fingerprint), ""]
    for name in plan.train:
        lines += _network(plan.configuration(name), plan.dimensions)
    spare = [one.name for one in plan.configurations if one.name not in plan.train]
    if spare:
        lines += _entry("Not trained", f"{', '.join(spare)} (planned; train with --configurations)")
    lines += ["", "Why"]
    for reason in plan.reasons:
        if reason.decision not in spare:
            lines += _entry(reason.decision, f"{reason.chosen}: {reason.why}", indent=2)
    lines += ["", *_change(plan)]
    return "\n".join(line.rstrip() for line in lines)


def deep(plan: Plan, name: str) -> str:
    """Everything about one decision, or about one configuration with its network."""
    names = [one.name for one in plan.configurations]
    topics = [*names, *(reason.decision for reason in plan.reasons if reason.decision not in names)]
    if name not in topics:
        near = get_close_matches(name, topics, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"the plan holds nothing called {name!r}", f"{hint}ask for one of {', '.join(topics)}")
    lines: list[str] = []
    for reason in plan.reasons:
        if reason.decision == name:
            lines += [*wrap(f"{name}: {reason.chosen}", WIDTH), *wrap(reason.why, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    if name in names:
        one = plan.configuration(name)
        lines += ["", network_text(one.architecture), "", *_leaves(name, to_plain(one))]
    return "\n".join(lines)


def difference(a: Plan, b: Plan) -> str:
    """Every decision in which two plans differ: key, then the first's value and the second's."""
    left, right = dict(_flat("", _named(a))), dict(_flat("", _named(b)))
    lines = []
    for key in dict.fromkeys((*left, *right)):
        if key.startswith("reasons") or left.get(key) == right.get(key):
            continue
        lines += wrap(f"{key}: {left.get(key, '(absent)')} -> {right.get(key, '(absent)')}", WIDTH, subsequent_indent="    ")
    return "\n".join(lines) if lines else "The two plans decide the same."


def _seen(plan: Plan, fingerprint: Fingerprint) -> list[str]:
    shape = axis_medians([case.shape_zyx for case in fingerprint.cases])
    spacing = axis_medians([case.spacing_zyx_mm for case in fingerprint.cases])
    channels = ", ".join(f"{c.name} ({c.modality})" for c in fingerprint.channels)
    classes = ", ".join(name for name, _ in plan.labels.targets)
    flat = fingerprint.dimensions == 2
    size = f"{by([round(s) for s in shape][flat:])} " + ("pixels" if flat else f"voxels of {by(spacing)} mm")
    return [
        *_entry("Seen", f"{len(fingerprint.cases)} cases, median {size}"),
        *_entry("Channels", channels),
        *_entry("To find", f"{len(plan.labels.targets)}: {classes}" if len(classes) < 300 else f"{len(plan.labels.targets)} classes"),
    ]


def _network(one: Configuration, dimensions: int) -> list[str]:
    net, memory = one.architecture, one.memory
    grid = f", at {by(one.spacing_zyx_mm[3 - net.dimensions :])} mm" if dimensions == 3 else ""
    after = f", guided by the masks of {one.previous}" if one.previous else ""
    parts = f" in {one.accumulate} parts" if one.accumulate > 1 else ""
    length = f"{one.schedule.iterations} steps at most" if one.schedule.seconds is None else f"{duration(one.schedule.seconds)} a fold"
    text = (
        f"{net.kind} U-Net, {len(net.features)} stages, {net.features[0]} to {net.features[-1]} features{after};"
        f" {one.batch_size} patches of {by(one.patch_zyx[3 - net.dimensions :])} a step{parts}{grid}; {length}"
    )
    need = f"{memory.training_bytes / GiB:.1f} GiB to train, {memory.inference_bytes / GiB:.1f} GiB to predict ({one.schedule.precision})"
    return [*_entry(one.name, text), *_entry("", f"memory {need}")]


def _change(plan: Plan) -> list[str]:
    return [
        *_entry("To change", "--replan with --gpu-memory 8GB, --time 4h, --target cpu or --planner nnunet;"),
        *_entry("", "plan.json can be edited, and is checked when it is read;"),
        *_entry("", f"--explain {plan.train[0]} shows the network and every number."),
    ]


def _entry(label: str, text: str, indent: int = 0) -> list[str]:
    column = indent + max(_LABEL, len(label)) + 1 if len(label) <= 2 * _LABEL else indent + _LABEL + 1
    head = " " * indent + label.ljust(column - indent)
    if len(head) > column:
        return [head, *wrap(text, WIDTH, initial_indent=" " * column, subsequent_indent=" " * column)]
    return wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * (indent + _LABEL + 1)) or [head]


def _named(plan: Plan) -> dict[str, Any]:
    """Configurations under their names, so that a missing one does not shift the others."""
    plain: dict[str, Any] = to_plain(plan)
    return {**plain, "configurations": {one["name"]: one for one in plain["configurations"]}}


def _flat(prefix: str, plain: Any) -> list[tuple[str, str]]:
    if isinstance(plain, dict):
        return [entry for key, value in plain.items() for entry in _flat(f"{prefix}.{key}" if prefix else key, value)]
    if isinstance(plain, list) and any(isinstance(value, dict) for value in plain):
        return [entry for index, value in enumerate(plain) for entry in _flat(f"{prefix}[{index}]", value)]
    return [(prefix, str(plain))]


def _leaves(prefix: str, plain: Any) -> list[str]:
    return [line for key, value in _flat(prefix, plain) for line in wrap(f"{key} = {value}", WIDTH, subsequent_indent="    ")]
