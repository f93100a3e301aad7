"""One fold by two processes together, through the real command line: started by torchrun, or by `--devices` itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autounet.store.weights import load_tensors

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("torch.distributed.run", "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m")
STEPS = 16  # enough that a score on the way is worth its time
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="the launcher wants POSIX")]


def said_by(*words: object) -> str:
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def plainly_planned(data: Path, work: Path) -> None:
    """A plan in which rounding stays rounding: AdamW makes steps of full size out of gradients that are zero but for it."""
    said_by("autounet", "plan", data, "--work", work, "--quiet", "--time", "10m")
    plan = json.loads((work / "plan.json").read_text())
    for configuration in plan["configurations"]:
        configuration["loss"]["batch_dice"] = True
        configuration["schedule"] |= {"precision": "float32", "optimiser": "sgd", "momentum": 0.9, "seconds": None}
    (work / "plan.json").write_text(json.dumps(plan))


def events(work: Path, kind: str) -> list[dict[str, object]]:
    lines = (work / "runs" / "3d_fullres" / "fold_0" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.mark.parametrize("started", ["by torchrun", "by devices"])
def test_two_processes_train_the_weights_of_one_and_only_the_first_writes(tmp_path, started):
    data = tmp_path / "organs"
    said_by("autounet", "demo", "--cases", 4, "--size", 20, "--folder", data, "--data-only", "--quiet")
    words = ("autounet", "train", data, "--iterations", STEPS, "--folds", 0, "--configurations", "3d_fullres")
    for name in ("alone", "together"):
        plainly_planned(data, tmp_path / name)
    said_by(*words, "--work", tmp_path / "alone", "--threads", 1)
    words = (*words, "--work", tmp_path / "together", "--threads", 2)
    said = said_by(*LAUNCHER, *words) if started == "by torchrun" else said_by(*words, "--devices", "cpu,cpu")
    assert said.count("The folds are trained") == 1
    runs = [tmp_path / name / "runs" / "3d_fullres" / "fold_0" for name in ("alone", "together")]
    one, other = (load_tensors(run / "weights.safetensors", "numpy") for run in runs)
    for name, weight in one.items():
        np.testing.assert_allclose(other[name], weight, atol=5e-5, rtol=0)
    # Batch Dice is no mean of the ranks' own: the losses agree because its sums are those of the whole batch.
    losses = [[event["loss_dice"] for event in events(tmp_path / name, "train")] for name in ("alone", "together")]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(losses[0], losses[1], atol=5e-5)
    scores = [[(event["step"], event["dice"]) for event in events(tmp_path / name, "validation")] for name in ("alone", "together")]
    assert len(scores[0]) >= 1
    np.testing.assert_allclose(scores[0], scores[1], atol=5e-3)
    assert [event["words"][0] for event in map(json.loads, (tmp_path / "together" / "events.jsonl").read_text().splitlines())
            if event["kind"] == "command"] == ["plan", "train"]  # fmt: skip
    names = {path.relative_to(tmp_path / "together").as_posix() for path in (tmp_path / "together" / "runs").rglob("*.nii.gz")}
    assert len(names) == 1  # the mask of the one case held out, written once


def test_a_whole_run_that_a_launcher_started_trains_together_and_ends_with_one_model(tmp_path):
    data, work = tmp_path / "organs", tmp_path / "work"
    said_by("autounet", "demo", "--cases", 4, "--size", 20, "--folder", data, "--data-only", "--quiet")
    said = said_by(*LAUNCHER, "autounet", "run", data, "--work", work, "--time", "10m", "--iterations", 6, "--folds", 0, "--threads", 2)
    assert said.count("Model:") == said.count("Report:") == 1
    assert (work / "organs.aunet").is_file()
    assert len((work / "runs" / "3d_fullres" / "fold_0" / "events.jsonl").read_text().split('"kind": "train"')) == 6 + 1


def test_a_team_one_of_which_is_killed_says_so_and_the_same_command_goes_on_to_the_end(tmp_path):
    data, work = tmp_path / "organs", tmp_path / "work"
    said_by("autounet", "demo", "--cases", 4, "--size", 20, "--folder", data, "--data-only", "--quiet")
    plainly_planned(data, work)
    words = ("autounet", "train", data, "--work", work, "--iterations", 60, "--folds", 0, "--devices", "cpu,cpu", "--threads", 2)
    typed = [sys.executable, "-m", *map(str, words), "--verbose"]
    command = subprocess.Popen(typed, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert command.stderr is not None
    second = next(int(line.rpartition(",")[2]) for line in command.stderr if ": process " in line)
    log = work / "runs" / "3d_fullres" / "fold_0" / "events.jsonl"
    while not log.exists() or not events(work, "train"):
        assert command.poll() is None
        time.sleep(0.05)
    os.kill(second, signal.SIGKILL)
    _, said = command.communicate(timeout=300)
    assert command.returncode == 4
    assert "killed by SIGKILL" in said.splitlines()[-1]
    assert not list((work / "runs").rglob("run.json"))
    assert "The folds are trained" in said_by(*words)
    assert json.loads((log.parent / "run.json").read_text())["iterations"] == 60
