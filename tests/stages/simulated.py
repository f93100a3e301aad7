"""A work folder whose networks are known by hand: the images' channels are the logits, and each configuration reads its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from autounet.data.dataset import Case, ChannelSpec, Dataset, ImageFile
from autounet.data.splits import Fold, Splits, write_splits
from autounet.data.voxels import read_case
from autounet.images.geometry import geometry_from_affine
from autounet.images.write import write_image, write_mask
from autounet.inference import held_out
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.settings import Member, label_values
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.train import RunRecord
from autounet.store.manifest import Manifest
from autounet.store.selection import Chosen
from autounet.store.strict import write_value
from autounet.store.weights import save_tensors
from autounet.training.validation import onlooker, write_opinion
from planners.plan import Configuration, Plan
from tests.tiny_models import architecture, configuration, fingerprint_of, plan_of

SIZE = 14
HEADS = 3
FOLDS = 5
GRID = geometry_from_affine((SIZE,) * 3, np.eye(4))
FLAT = configuration((1, 16, 16), "2d")
FINE = configuration((16, 16, 16), "3d_fullres", architecture=architecture(3, (8, 16)))
COARSE = configuration((8, 8, 8), "3d_lowres", architecture=architecture(3, (8, 16)), spacing_zyx_mm=(2.0, 2.0, 2.0))


class Reader(torch.nn.Module):
    """Answers the channels that are its own, in two and three dimensions."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.own = slice(first, first + HEADS)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, self.own]


@dataclass(frozen=True)
class World:
    dataset: Dataset
    plan: Plan
    job: Job

    def members(self, plan: Plan, names: Sequence[str], folds: Sequence[int], job: Job) -> dict[str, list[Member]]:
        order = [c.name for c in self.plan.configurations]
        return {n: [Member(Reader(HEADS * order.index(n)).eval(), plan.configuration(n)) for _ in folds] for n in names}


def world(
    folder: Path,
    configurations: Sequence[Configuration],
    noise: Mapping[str, float],
    *,
    cases: int = 15,
    shared: bool = False,
    sharpness: float = 1.0,
    islands: bool = False,
    seed: int = 0,
) -> World:
    """Trained configurations whose logits are the truth and smooth noise: each its own, or all the same."""
    plan = plan_of(*configurations, classes=HEADS, channels=HEADS * len(configurations))
    plan = replace(plan, dimensions=3, channels=tuple(replace(c, scheme="none") for c in plan.channels))
    rng = np.random.default_rng(seed)
    made = []
    for number in range(cases):
        truth = _truth(rng)
        common = _noise(rng)
        files = []
        for index, one in enumerate(configurations):
            error = common if shared else _noise(rng)
            hardness = 0.5 + number / cases  # some cases are harder for everyone
            logits = 2.0 / hardness * (np.arange(HEADS)[:, None, None, None] == truth) + noise[one.name] * error
            if islands:
                logits[1, :2, -3 : -3 + 2, -3:] = 6.0
            for head in range(HEADS):
                path = f"c{number}_{HEADS * index + head:04d}.nii.gz"
                write_image(folder / "data" / path, (sharpness * logits[head]).astype(np.float32)[None], GRID)
                files.append(ImageFile(path=path))
        write_mask(folder / "data" / f"c{number}_truth.nii.gz", truth.astype(np.uint8), GRID)
        label = ImageFile(path=f"c{number}_truth.nii.gz")
        made.append(Case(id=f"c{number}", images=tuple(files), label=label, group=f"p{number}"))
    dataset = Dataset(
        root=str(folder / "data"),
        name="simulated",
        layout="pairs",
        why="made",
        dimensions=3,
        cases=tuple(made),
        channels=tuple(ChannelSpec(name=c.name) for c in plan.channels),
        labels=plan.labels,
    )
    job = Job(work=folder / "work", progress=Progress.silent(), device="cpu", threads=1)
    made_world = World(dataset, plan, job)
    _trained(made_world)
    return made_world


def _truth(rng: np.random.Generator) -> np.ndarray:
    z, y, x = np.ogrid[:SIZE, :SIZE, :SIZE]
    c = 7 + rng.uniform(-1, 1, 3)
    ball = (z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2
    return np.where(ball <= 4, 2, np.where(ball <= 16, 1, 0))


def _noise(rng: np.random.Generator) -> np.ndarray:
    rough = ndimage.gaussian_filter(rng.standard_normal((HEADS, SIZE, SIZE, SIZE)), (0, 0.7, 0.7, 0.7))
    return rough / rough.std()


def _trained(made: World) -> None:
    """Masks, records and opinions as `train` leaves them."""
    ids = [c.id for c in made.dataset.cases]
    folds = tuple(Fold(train=tuple(i for i in ids if ids.index(i) % FOLDS != f), validation=tuple(ids[f::FOLDS])) for f in range(FOLDS))
    write_splits(made.job.work / "splits.json", Splits(rule="grouped", seed=0, folds=folds))
    write_value(made.job.work / "fingerprint.json", fingerprint_of(made.plan))
    manifest = Manifest.open(made.job.work)
    for one in made.plan.configurations:
        for fold in range(FOLDS):
            run = made.job.work / "runs" / one.name / f"fold_{fold}"
            digest = save_tensors(run / "weights.safetensors", {"w": torch.zeros(1)})
            manifest.add(f"runs/{one.name}/fold_{fold}/weights.safetensors", digest)
            write_value(run / "run.json", _record(one.name, fold, folds[fold].validation))
            ensemble = Ensemble(
                made.plan, made.members(made.plan, [one.name], (fold,), made.job), [Chosen(configuration=one.name, folds=(fold,))]
            )
            for case in folds[fold].validation:
                voxels = read_case(made.dataset, made.dataset.case(case))
                assert voxels.label_zyx is not None
                witness = onlooker(made.plan, voxels.label_zyx, 0)
                found = predict_case(ensemble, voxels.image_czyx, voxels.geometry, Options(threads=1), witness)
                path = run / "validation" / f"{case}.nii.gz"
                write_mask(path, label_values(found.label_zyx, made.plan.labels), voxels.header)
                write_opinion(path, witness, digest.sha256)


def _record(name: str, fold: int, cases: tuple[str, ...]) -> RunRecord:
    return RunRecord(
        configuration=name, fold=fold, recipe="", iterations=1, seconds=1.0, execution="", loss=None, waited_seconds=0.0, train_cases=1,
        validation=(), validated=cases,
    )  # fmt: skip


def use(made: World, monkeypatch) -> World:
    """Networks come from the world and not from weights."""
    for module in ("autounet.inference.held_out", "autounet.inference.presets", "autounet.inference.int8_cost"):
        monkeypatch.setattr(f"{module}.fold_members", made.members)
    assert held_out.fold_members == made.members
    return made
