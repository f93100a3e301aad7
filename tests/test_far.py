"""What would not work on an accelerator is found without one: on a device that is none, see tests/far_device.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).resolve().parents[1]
KNOWN = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
pytestmark = pytest.mark.skipif(not KNOWN, reason="this torch knows no devices whose kernels are Python's")

STEPS = ("tests/training/test_far_steps.py", "tests/inference/test_far_prediction.py")
MORE = (
    "tests/training/test_loop.py",
    "tests/training/test_on_device.py",
    "tests/inference/test_sweep_and_export.py",
    "tests/inference/test_witness.py",
    "tests/inference/test_in_step.py",
    "tests/inference/test_outlook.py",
    "tests/inference/test_budget.py",
    "tests/inference/test_pace.py",
)


def passed_there(*files: str) -> None:
    words = (sys.executable, "-m", "pytest", "-q", "--far", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
    done = subprocess.run([*words, *files], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_training_steps_and_prediction_find_all_they_need_on_the_device_and_seldom_wait_for_it():
    passed_there(*STEPS)


@pytest.mark.slow
def test_training_and_prediction_do_on_the_device_what_they_do_on_the_processor():
    passed_there(*MORE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["organs", "cells"])
def test_a_whole_run_on_the_device_makes_a_model_its_scores_and_its_report(kind, tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.far_run", kind, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
