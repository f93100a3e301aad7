"""A trained nnU-Net v2 model as a bundle."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from autounet.inference.golden import make_golden
from autounet.inference.load import device_named, member_of
from autounet.inference.settings import Member
from autounet.interop.nnunet_files import ForeignModel, opened
from autounet.interop.nnunet_plans import fingerprint_of, our_name, plan_of, previous_of
from autounet.networks.reference_names import reference_names
from autounet.store.bundle import Card, Contents, MemberFile, write_bundle
from autounet.store.digest import Digest
from autounet.store.selection import Chosen, Selection
from autounet.store.weights import load_tensors, save_tensors
from planners.errors import UserError
from planners.plan import Configuration, Plan

CHILD = Path(__file__).with_name("convert_child.py")
SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was taken in."""

    path: Path
    digest: Digest
    plan: Plan
    folds: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()


def import_nnunet(source: Path, out: Path, *, configuration: str | None = None) -> Imported:
    """Convert the models of a folder or zip; with several configurations the one named, or the last in the plans, votes."""
    with opened(source) as models, TemporaryDirectory() as scratch:
        _check_one_training(models, source)
        every = [_converted(model, Path(scratch) / str(number)) for number, model in enumerate(models)]
        converted = {one.configuration: one for one in reversed(every)}
        chosen = _chosen(converted, configuration)
        _add_first_stages(converted, chosen, Path(scratch))
        needed = _needed(converted, chosen)
        plan = plan_of({name: converted[name].model for name in needed}, {name: converted[name].mirror_axes for name in needed})
        members = [_renamed(converted[name], plan, fold, Path(scratch)) for name in needed for fold in converted[name].weights]
        model = converted[chosen].model
        selection = Selection(
            members=(Chosen(configuration=our_name(chosen), folds=tuple(sorted(converted[chosen].weights))),),
            why=f"{chosen}, imported from nnU-Net",
        )
        fingerprint = fingerprint_of(model, plan)
        voters = {c.name: [_voter(plan, c, members)] for c in plan.configurations}
        card = Card(
            name=plan.dataset,
            description=f"Segments {', '.join(c.name for c in plan.labels.foreground)}.",
            imported_from=f"nnU-Net v2, trainer {converted[chosen].trainer}, plans {model.plans.get('plans_name', 'unknown')}",
        )
        digest = write_bundle(
            out,
            Contents(
                plan=plan,
                fingerprint=fingerprint,
                selection=selection,
                card=card,
                members=members,
                golden=make_golden(plan, fingerprint, selection, voters),
                written_by="autounet import",
            ),
        )
    folds = {our_name(name): tuple(sorted(converted[name].weights)) for name in needed}
    return Imported(path=out, digest=digest, plan=plan, folds=folds, notes=_notes(converted[chosen]))


def _check_one_training(models: Sequence[ForeignModel], source: Path) -> None:
    """Models of one configuration from several trainers or plans are alternatives; somebody has to say which."""
    found: dict[str, str] = {}
    for model in models:
        other = found.setdefault(model.configuration, model.folder.name)
        if model.configuration and other != model.folder.name:
            raise UserError(f"{source.name} holds {other} and {model.folder.name}", "name the one folder that is meant")


def _add_first_stages(converted: "dict[str, _Converted]", chosen: str, scratch: Path) -> None:
    """A second stage that was named alone brings the first one from the folder beside it."""
    current = chosen
    while (previous := previous_of(converted[current].model.plans, current)) is not None:
        if previous not in converted:
            beside = converted[current].model.sibling(previous)
            if beside is None:
                return
            converted[previous] = _converted(beside, scratch / previous)
        current = previous


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converted:
    """A model whose checkpoints have become safetensors, still under nnU-Net's names."""

    model: ForeignModel
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]
    weights: Mapping[int, Path]


def _converted(model: ForeignModel, scratch: Path) -> _Converted:
    weights: dict[int, Path] = {}
    facts: dict[str, object] = {}
    for fold in model.folds:
        place = scratch / str(fold.fold)
        place.mkdir(parents=True)
        facts = convert(fold.checkpoint, place)
        weights[fold.fold] = place / "weights.safetensors"
    name = str(facts["configuration"]) or model.configuration
    if name not in (model.plans.get("configurations") or {}):
        raise UserError(
            f"the checkpoint was trained for {name or 'no named configuration'}, which plans.json lacks", "name a folder that nnU-Net wrote"
        )
    axes = facts["mirror_axes"]
    assert isinstance(axes, list), "the child writes a list"
    return _Converted(model=model, configuration=name, trainer=str(facts["trainer"]), mirror_axes=tuple(axes), weights=weights)


def convert(checkpoint: Path, out: Path) -> dict[str, object]:
    """Open one checkpoint in a guarded process; its weights lie in out/weights.safetensors afterwards."""
    command = [sys.executable, "-I", str(CHILD), str(checkpoint.resolve()), str(out.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env={}, cwd=out)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise UserError(f"the checkpoint could not be opened safely: {reason[:300]}", "take a checkpoint that nnU-Net v2 itself wrote")
    facts = json.loads((out / "facts.json").read_text())
    assert isinstance(facts, dict), "the child writes an object"
    return facts


def _chosen(converted: Mapping[str, _Converted], wanted: str | None) -> str:
    if wanted is not None and wanted not in converted:
        raise UserError(f"there is no trained {wanted}", f"choose one of {', '.join(converted)}")
    order = (wanted, "3d_cascade_fullres", "3d_fullres", "3d_lowres", "2d", next(iter(converted)))
    return next(name for name in order if name is not None and name in converted)


def _needed(converted: Mapping[str, _Converted], chosen: str) -> list[str]:
    """The configuration that votes, after those it starts from."""
    needed = [chosen]
    while (previous := previous_of(converted[needed[0]].model.plans, needed[0])) is not None:
        if previous not in converted:
            raise UserError(
                f"{needed[0]} starts from the masks of {previous}, which is not there",
                f"name the folder above, which holds {previous} too",
            )
        needed.insert(0, previous)
    return needed


def _renamed(one: _Converted, plan: Plan, fold: int, scratch: Path) -> MemberFile:
    """The weights under our names."""
    configuration = plan.configuration(our_name(one.configuration))
    tensors = load_tensors(one.weights[fold])
    names = reference_names(configuration.architecture)
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    extra = sorted(set(tensors) - set(names.values()))
    if missing or extra:
        raise UserError(
            f"the checkpoint of {one.configuration} {'lacks ' + missing[0] if missing else 'has ' + extra[0]}",
            "its trainer built another network than its plans say: such a model cannot be taken in",
        )
    path = scratch / f"{configuration.name}_{fold}.safetensors"
    save_tensors(path, {ours: tensors[theirs] for ours, theirs in names.items()})
    return MemberFile(configuration.name, fold, path)


def _voter(plan: Plan, configuration: Configuration, members: list[MemberFile]) -> Member:
    file = next(m for m in members if m.configuration == configuration.name)
    return member_of(plan, configuration, load_tensors(file.path), device_named("cpu"))


def _notes(one: _Converted) -> tuple[str, ...]:
    if one.trainer not in ("nnUNetTrainer", ""):
        return (f"trained by {one.trainer}: what it changed in prediction beyond mirroring is not taken over",)
    return ()
