"""SIGTERM as a scheduler sends it, through the real command line: exit 75, nothing lost, the same bits at the end."""

import os

import pytest

from autounet.store.checkpoints import Checkpoints
from tests.training.command import FOLD, STEPS, finished, start, steps_made, stopped_at, training_of, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]


def test_a_training_stopped_twice_loses_no_step_and_ends_in_the_bits_of_an_undisturbed_one(tmp_path):
    data = tmp_path / "organs"
    finished("demo", "--cases", "4", "--size", "24", "--folder", data, "--data-only")
    words = training_of(data)
    finished(*words, "--work", tmp_path / "undisturbed")
    work = tmp_path / "stopped"
    fold = work / FOLD
    for step, how in ((5, ()), (12, ("--workers", "2", "--worker-processes"))):
        said = stopped_at(start(*words, *how, "--work", work), fold, step)
        assert said.splitlines()[-1].startswith("error: stopped by SIGTERM; what was finished is kept.")
        latest = Checkpoints(fold / "checkpoints").latest("numpy")
        assert latest is not None
        assert latest.step == steps_made(fold)[-1]  # the step in work was finished and kept
        assert latest.step < STEPS  # or the training was over before the signal came
    finished(*words, "--work", work)
    assert steps_made(fold) == list(range(1, STEPS + 1))  # none was made twice
    assert weights_of(work) == weights_of(tmp_path / "undisturbed")
