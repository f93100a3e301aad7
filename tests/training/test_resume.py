"""Real processes that are really killed: what goes on afterwards ends in the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.killed import SAVED_EVERY, STEPS

ROOT = Path(__file__).resolve().parents[2]
SIGKILLED = -9

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its victims")


def endings(folder: Path, steps: range | tuple[int, ...] = (), seeds: range | tuple[int, ...] = (), workers: tuple[int, ...] = ()) -> None:
    """Asks that all trainings ended in the same bits: weights, averages, momenta."""
    lists = [",".join(map(str, numbers)) for numbers in (steps, seeds, workers)]
    words = [sys.executable, "-m", "tests.training.killed", str(folder), *lists]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    unbroken = found["unbroken"]
    assert unbroken["step"] == STEPS
    for name, end in found.items():
        assert (end["step"], end["weights"], end["state"]) == (STEPS, unbroken["weights"], unbroken["state"]), name
    for step in steps:
        assert found[f"step {step}"]["death"] == SIGKILLED
        assert found[f"step {step}"]["saved"] == (step - 1) // SAVED_EVERY * SAVED_EVERY  # or it would not have lost what is meant
    for seed in seeds:
        assert found[f"moment {seed}"]["death"] == SIGKILLED


def test_killed_once_a_training_of_forty_steps_ends_in_the_bits_of_an_unbroken_one(tmp_path):
    endings(tmp_path, steps=(20,), seeds=(1,))


@pytest.mark.slow
def test_killed_after_every_single_step_it_ends_in_the_bits_of_an_unbroken_one_and_so_it_does_with_any_workers(tmp_path):
    endings(tmp_path, steps=range(1, STEPS), workers=(0, 2, 4))


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_in_the_bits_of_an_unbroken_one(tmp_path):
    endings(tmp_path, seeds=range(100, 120))
