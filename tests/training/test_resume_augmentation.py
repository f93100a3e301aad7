"""Whoever augments is chosen once: a run that is stopped and gone on with has the bits of an unbroken one."""

import json
from dataclasses import replace

import pytest
import torch

from autounet import stop
from autounet.augment import backend as module
from autounet.job import Job
from autounet.progress import Progress
from autounet.store.checkpoints import Checkpoints
from autounet.training import fold as folds
from autounet.training.fold import Fold, train_fold
from autounet.training.loader import Workers
from autounet.training.loop import Surroundings
from planners.plan import Schedule
from tests.training.prepared_cases import prepared
from tests.training.tiny import REFERENCE, recipe

SHORT = Schedule(iterations=8, iterations_per_epoch=4, momentum=0.9, ema_decay=0.9)
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::SyntaxWarning"
)


def trained(folder, cases, backend, workers=Workers(count=2)):  # noqa: B008 - a frozen value
    made = recipe(schedule=SHORT, augmentation=replace(REFERENCE, backend=backend))
    fold = Fold(recipe=made, cases=cases, folder=folder, workers=workers)
    return train_fold(fold, Job(work=folder, progress=Progress.silent(), threads=1, device="cpu")).weights


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopped_after(monkeypatch, step, folder, *given):
    def surroundings(**made):
        real = made["log"].event

        def event(kind, **fields):
            real(kind, **fields)
            if kind == "train" and fields["step"] == step:
                stop.request("test")

        made["log"].event = event
        return Surroundings(**made)

    with monkeypatch.context() as patched:
        patched.setattr(folds, "Surroundings", surroundings)
        with pytest.raises(stop.Stopped):
            trained(folder, *given)
    stop.clear()


def test_batchgenerators_makes_the_same_weights_in_threads_in_processes_and_in_two_parts(tmp_path, monkeypatch):
    cases = prepared(tmp_path / "cache")
    whole = trained(tmp_path / "whole", cases, "batchgenerators")
    assert not equal(whole, trained(tmp_path / "native", cases, "native"))
    stopped_after(monkeypatch, 3, tmp_path / "parts", cases, "batchgenerators")
    assert equal(trained(tmp_path / "parts", cases, "batchgenerators"), whole)
    assert equal(trained(tmp_path / "processes", cases, "batchgenerators", Workers(count=2, processes=True)), whole)


def test_what_a_probe_chose_is_written_down_and_kept_when_it_would_choose_otherwise(tmp_path, monkeypatch):
    cases = prepared(tmp_path / "cache")
    whole = trained(tmp_path / "whole", cases, "batchgenerators")
    monkeypatch.setattr(module, "_seconds", lambda one, *given: {"native": 1.0, "batchgenerators": 0.1}[one.name])
    stopped_after(monkeypatch, 3, tmp_path / "parts", cases, "auto")
    assert Checkpoints(tmp_path / "parts" / "checkpoints").latest().state["backend"] == "batchgenerators"
    monkeypatch.setattr(module, "_seconds", lambda one, *given: {"native": 0.1, "batchgenerators": 1.0}[one.name])
    assert equal(trained(tmp_path / "parts", cases, "auto"), whole)
    said = [json.loads(line) for line in (tmp_path / "parts" / "events.jsonl").read_text().splitlines()]
    (choice,) = [event for event in said if event["kind"] == "augmentation"]
    assert choice["backend"] == "batchgenerators"
    assert "native 1000.0 ms, batchgenerators 100.0 ms" in choice["why"]
