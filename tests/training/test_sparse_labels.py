"""Cases in which not everything was drawn teach nearly as much as complete ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autounet.job import Job
from autounet.progress import Progress
from autounet.training.fold import Fold, train_fold
from planners.labels import LabelClass, Labels
from planners.plan import Augmentation, Schedule, Step
from tests.training.tiny import case, recipe

PLAN = Schedule(
    optimiser="adamw", learning_rate=5e-3, momentum=0.9, weight_decay=1e-2, shape="warmup_stable_decay",
    warmup_fraction=0.05, decay_fraction=0.4, iterations=200, iterations_per_epoch=50, ema_decay=0.98,
)  # fmt: skip
CLASSES = tuple(LabelClass(name=n, value=i) for i, n in enumerate(("background", "ball", "box")))
FLIPS = Augmentation(steps=(Step(kind="mirror", probability=0.5),), mirror_axes=(0, 1, 2))
SHAPE = (24, 24, 24)


def mean_dice(tmp_path, cases, *, ignore=False, annotated=()):
    """Of the two classes, over three cases that were not trained on."""
    labels = Labels(classes=CLASSES, ignore=9 if ignore else None)
    made = recipe(schedule=PLAN, labels=labels, augmentation=FLIPS, cases=tuple(cases))
    job = Job(work=tmp_path, progress=Progress.silent(), threads=1, device="cpu")
    trained = train_fold(Fold(recipe=replace(made, annotated=annotated), cases=cases, folder=tmp_path / "fold_0"), job)
    scores = []
    for seed in (91, 92, 93):
        held = case(seed, SHAPE)
        with torch.no_grad():
            found = trained.network(torch.from_numpy(held.image_czyx)[None]).argmax(1)[0].numpy()
        for k in (1, 2):
            scores.append(2 * np.sum((found == k) & (held.label_zyx == k)) / (np.sum(found == k) + np.sum(held.label_zyx == k)))
    return float(np.mean(scores))


def full():
    return {str(seed): case(seed, SHAPE) for seed in range(6)}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    torch.set_num_threads(1)
    return mean_dice(tmp_path_factory.mktemp("complete"), full())


@pytest.mark.slow
def test_complete_labels_are_learnt(complete):
    assert complete > 0.9


@pytest.mark.slow
def test_cases_in_which_only_one_class_was_drawn_come_within_five_points(tmp_path, complete):
    cases, annotated = full(), []
    for index, (name, held) in enumerate(cases.items()):
        drawn = 1 + index % 2
        held.label_zyx[held.label_zyx == 3 - drawn] = 0  # the other class reads background
        annotated.append((name, (drawn,)))
    assert mean_dice(tmp_path, cases, annotated=tuple(annotated)) > complete - 0.05


@pytest.mark.slow
def test_scribbles_come_within_five_points(tmp_path, complete):
    cases = full()
    for seed, held in enumerate(cases.values()):
        kept = np.random.default_rng(seed).random(SHAPE) < 0.1  # nine voxels of ten were not annotated
        held.label_zyx[~kept] = 3
        held.ignore = 3
    assert mean_dice(tmp_path, cases, ignore=True) > complete - 0.05
