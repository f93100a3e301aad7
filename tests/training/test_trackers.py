"""Other programs hear of a training: by stand-ins that record what they are told, and never at the training's cost."""

import sys
from types import SimpleNamespace

import pytest

from autounet.training import trackers
from autounet.training.fold import train_fold
from autounet.training.trackers import module, tracking
from planners.errors import UserError
from tests.training.test_loop import fold, job

EVENTS = (
    ("train", {"step": 1, "loss": 2.0, "text": "no number"}),
    ("train", {"step": 7, "loss": 9.0}),  # only every tenth
    ("train", {"step": 10, "loss": 1.0}),
    ("validation", {"step": 11, "dice": 0.5, "dice_box": None}),
    ("note", {"text": "no step"}),
)
HEARD = [(1, "train/loss", 2.0), (10, "train/loss", 1.0), (11, "validation/dice", 0.5)]


def told(kind, tmp_path, warn=pytest.fail):
    with tracking(kind, tmp_path, "2d fold 1", warn) as hear:
        for event in EVENTS:
            hear(*event)


class Writer:
    def __init__(self, log_dir):
        self.log_dir, self.heard, self.closed = log_dir, [], False
        Writer.last = self

    def add_scalar(self, key, value, step):
        self.heard.append((step, key, value))

    def close(self):
        self.closed = True


def test_tensorboard_hears_numbers_under_the_folds_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    told("tensorboard", tmp_path)
    assert Writer.last.heard == HEARD
    assert Writer.last.closed
    assert Writer.last.log_dir == str(tmp_path / "tensorboard")


def test_wandb_is_opened_offline_and_finished(tmp_path, monkeypatch):
    heard, begun = [], {}

    class Run:
        def log(self, values, step):
            heard.extend((step, key, value) for key, value in values.items())

        def finish(self):
            begun["finished"] = True

    def init(**given):
        begun.update(given)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    told("wandb", tmp_path)
    assert heard == HEARD
    assert begun == {"project": "autounet", "name": "2d fold 1", "dir": str(tmp_path), "mode": "offline", "finished": True}


def test_mlflow_writes_into_a_folder_and_ends_its_run(tmp_path, monkeypatch):
    heard, said = [], []

    class Client:
        def __init__(self, tracking_uri):
            said.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return f"experiment {name}"

        def create_run(self, experiment, run_name):
            said.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def log_metric(self, run, key, value, step):
            heard.append((step, key, value))
            assert run == "r1"

        def set_terminated(self, run):
            said.append(f"ended {run}")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client))
    told("mlflow", tmp_path)
    assert heard == HEARD
    assert said == [(tmp_path / "mlflow").resolve().as_uri(), ("experiment autounet", "2d fold 1"), "ended r1"]


@pytest.mark.parametrize(("kind", "name"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_what_is_missing_is_named_with_what_to_install(kind, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{kind} is not installed.*pip install 'autounet\[track-{kind}\]'"):
        module(kind)


def test_a_tracker_that_breaks_is_named_once_and_the_training_goes_on(tmp_path, monkeypatch):
    class Broken(Writer):
        def add_scalar(self, key, value, step):
            raise OSError("disk full")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Broken))
    at = job(tmp_path)
    trained = train_fold(fold(tmp_path, track="tensorboard"), at)
    assert trained.state.step == 12
    assert sum("tensorboard failed (OSError: disk full)" in text for text in at.progress.warnings) == 1


def test_nothing_is_imported_when_nobody_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "module", pytest.fail)
    told(None, tmp_path)
