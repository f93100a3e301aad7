"""Models that AutoUNet trains here, given out: nnU-Net's masks against our own.

pytest tests/interop --reference-python PATH/TO/AN/ENVIRONMENT/WITH/NNUNETV2/bin/python
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from autounet import phantoms
from autounet.interop.nnunet_export import export_nnunet
from autounet.job import Job
from autounet.model import Wish
from autounet.progress import Progress
from autounet.stages import bundle, check, measure, prepare, train
from autounet.store.bundle import Contents, MemberFile, open_bundle, write_bundle
from autounet.store.selection import Chosen, Selection
from autounet.store.weights import save_tensors
from planners import planner
from planners.hardware import Budget, Hardware
from planners.plan import Configuration, Plan, Schedule, Step
from tests.interop import reference as peer
from tests.interop.reference import Reference
from tests.interop.test_parity import compare

pytestmark = pytest.mark.slow

QUICK = Schedule(
    optimiser="adamw", learning_rate=5e-3, momentum=0.9, weight_decay=1e-2, shape="warmup_stable_decay", warmup_fraction=0.05,
    decay_fraction=0.4, iterations=120, iterations_per_epoch=120, ema_decay=0.95,
)  # fmt: skip
WAYS = (
    ("default", "3d_fullres", "organs"),
    ("default", "2d", "organs"),
    ("nnunet_resenc_m", "3d_fullres", "organs"),
    ("nnunet", "3d_fullres", "multichannel"),
    ("default", "3d_fullres", "ct"),
    ("default", "2d", "cells"),
)


SIZES = {"cells": 96, "ct": 60}  # a voxel of the boundary is less among many


def narrow(plan: Plan, name: str, schedule: Schedule) -> Plan:
    """One configuration of the plan, with few feature maps and a short training; all that decides prediction stays."""
    chosen = next(c for c in plan.configurations if c.name == name)
    stages = len(chosen.architecture.features)
    made: Configuration = replace(
        chosen,
        architecture=replace(chosen.architecture, features=(8, 16, 24, 32, 32, 32, 32, 32)[:stages]),
        batch_size=2,
        schedule=schedule,
        augmentation=replace(chosen.augmentation, steps=(Step(kind="mirror", probability=0.5),)),
        inference=replace(chosen.inference, precision="float32", skip_air=False),
        previous=None,
    )
    return replace(plan, configurations=(made,), train=(name,))


def trained(folder: Path, planned_by: str, name: str, kind: str) -> Path:
    """A model file, from phantoms."""
    phantoms.make(kind, folder / "data", cases=6, size=SIZES.get(kind, 40), seed=3, layout="nnunet")
    job = Job(work=folder / "work", progress=Progress.silent(), threads=1, device="cpu")
    job.work.mkdir()
    dataset = check.check(folder / "data", job)
    fingerprint = measure.measure(dataset, job)
    machine = Hardware(accelerator="cpu", name="test", accelerator_bytes=0, host_bytes=8 * 2**30, cores=1)
    plan = narrow(planner(planned_by)(fingerprint, machine, Budget(training_seconds=3600, folds=5)), name, QUICK)
    prepare.prepare(dataset, plan, job)
    from autounet.data.splits import read_splits

    train.train(dataset, plan, read_splits(job.work / "splits.json", dataset), job, folds=(0,))
    selection = Selection(members=(Chosen(configuration=name, folds=(0,)),), why="the only one")
    return bundle.make_bundle(dataset, plan, selection, job)


@pytest.mark.parametrize(("planned_by", "name", "kind"), WAYS)
def test_nnunet_predicts_a_model_of_ours_as_we_do(planned_by: str, name: str, kind: str, reference_python: Path, tmp_path: Path) -> None:
    model = trained(tmp_path, planned_by, name, kind)
    (folder,) = export_nnunet(open_bundle(model), tmp_path / "given_out")
    images = tmp_path / "data" / "imagesTr"
    reference = Reference(reference_python, tmp_path / "reference")
    ways = (True, False)
    asked = {"do": "predict", "model": str(folder), "images": str(images), "folds": [0]}
    reference.do(
        [
            {**asked, "mirror": mirror, "single": single, "out": str(tmp_path / f"{'single' if single else 'half'}{mirror}")}
            for single, mirror in product((False, True), ways)
        ]
    )
    same_tiles = with_peak_of_nnunet(model, tmp_path / "same_tiles.aunet")
    for mirror in ways:
        ours = peer.predicted_by_us(same_tiles, images, tmp_path / f"ours{mirror}", Wish(mirror=mirror))
        compare(tmp_path / f"half{mirror}", ours)
        assert all(one.different == 0 for one in peer.agreement(tmp_path / f"single{mirror}", ours).values()), "not one voxel may differ"
        # Our own importance is the same from either end, nnU-Net's leans by half a voxel: of patches of 12 voxels that is much.
        own = peer.agreement(
            tmp_path / f"half{mirror}", peer.predicted_by_us(model, images, tmp_path / f"own{mirror}", Wish(mirror=mirror))
        )
        assert sum(one.different for one in own.values()) < 0.1 * sum(one.voxels for one in own.values()), own


def with_peak_of_nnunet(model: Path, path: Path) -> Path:
    """The same model, its tiles weighed as nnU-Net weighs them."""
    opened = open_bundle(model)
    (chosen,) = opened.plan.configurations
    leaning = replace(chosen, inference=replace(chosen.inference, peak="nnunet"))
    weights = path.with_suffix(".safetensors")
    save_tensors(weights, opened.tensors(chosen.name, 0))
    contents = Contents(
        plan=replace(opened.plan, configurations=(leaning,)), fingerprint=opened.fingerprint, selection=opened.selection,
        card=opened.card, members=[MemberFile(chosen.name, 0, weights)],
    )  # fmt: skip
    write_bundle(path, contents)
    return path
