"""The chosen networks, the plan and the card in one file."""

from pathlib import Path

from autounet.data.dataset import Dataset
from autounet.inference.golden import make_golden
from autounet.inference.load import device_named, member_of
from autounet.inference.settings import Member
from autounet.job import Job
from autounet.store.bundle import SUFFIX, Card, Contents, MemberFile, write_bundle
from autounet.store.manifest import Manifest
from autounet.store.selection import Chosen, Selection
from autounet.store.strict import read_value
from autounet.store.weights import load_tensors
from planners.fingerprint import Fingerprint
from planners.plan import Plan


def make_bundle(dataset: Dataset, plan: Plan, selection: Selection, job: Job) -> Path:
    """Write <work>/<name>.aunet."""
    fingerprint = read_value(job.work / "fingerprint.json", Fingerprint)
    chosen = with_first_stages(plan, selection.members)
    members = [
        MemberFile(name, fold, job.work / "runs" / name / f"fold_{fold}" / "weights.safetensors")
        for name, folds in chosen
        for fold in folds
    ]
    path = job.work / f"{safe_name(dataset.name)}{SUFFIX}"
    voters = {name: [_voter(plan, name, next(m.path for m in members if m.configuration == name), job)] for name, _ in chosen}
    contents = Contents(
        plan=plan,
        fingerprint=fingerprint,
        selection=selection,
        card=card_of(dataset, plan, selection),
        members=members,
        golden=make_golden(plan, fingerprint, selection, voters),
        written_by="autounet",
    )
    manifest = Manifest.open(job.work)
    manifest.remove(path.name)  # first, or a kill in between leaves a model that its entry does not describe
    manifest.add(path.name, write_bundle(path, contents))
    return path


def _voter(plan: Plan, name: str, weights: Path, job: Job) -> Member:
    return member_of(plan, plan.configuration(name), load_tensors(weights), device_named(job.device))


def with_first_stages(plan: Plan, members: tuple[Chosen, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The configurations that vote, and those they build on."""
    wanted: dict[str, tuple[int, ...]] = {}
    for member in members:
        name: str | None = member.configuration
        while name is not None:
            wanted[name] = tuple(sorted({*wanted.get(name, ()), *member.folds}))
            name = plan.configuration(name).previous
    return list(wanted.items())


def card_of(dataset: Dataset, plan: Plan, selection: Selection) -> Card:
    """What a person should know; no case ids, no paths."""
    classes = ", ".join(c.name for c in plan.labels.foreground)
    channels = ", ".join(f"{c.name} ({c.modality})" for c in plan.channels)
    return Card(
        name=dataset.name,
        description=f"Segments {classes} in {plan.dimensions}D images of {channels}.",
        trained_on=f"{len(dataset.training)} cases of {len({c.group for c in dataset.training})} patients",
        limitations="Validated on cases of the training set's kind only; see the scores for how well.",
    )


def safe_name(name: str) -> str:
    """A file name."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).strip("._")
    return kept or "model"
