"""The demo trains by steps, so that it shows a good model on a slow or busy machine, too; and whoever names a time gets it."""

from pathlib import Path

import pytest

from autounet import pipeline
from autounet.cli.making import DEMO_ITERATIONS, DEMO_SECONDS
from autounet.job import Job
from autounet.pipeline import Outcome, Wishes
from autounet.training.order import limited_schedule
from tests.cli.conftest import Call
from tests.tiny_models import configuration


@pytest.mark.parametrize(
    ("words", "seconds", "iterations"),
    [
        ([], DEMO_SECONDS, DEMO_ITERATIONS),
        (["--time", "20m"], 1200.0, None),
        (["--iterations", "7"], DEMO_SECONDS, 7),
        (["--iterations", "7", "--time", "20m"], 1200.0, 7),
    ],
    ids=["nothing", "a time", "steps", "both"],
)
def test_a_demo_is_as_long_as_asked_or_a_number_of_steps(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], seconds: float, iterations: int | None
) -> None:
    seen: list[Wishes] = []

    def run(dataset: Path, job: Job, wishes: Wishes) -> Outcome:
        seen.append(wishes)
        return Outcome(model=dataset, report=dataset, summary=())

    monkeypatch.setattr(pipeline, "run", run)
    assert call("demo", "--cases", "2", "--size", "16", "--folder", tmp_path / "organs", *words).code == 0
    assert [(w.seconds, w.iterations, w.folds) for w in seen] == [(seconds, iterations, (0,))]


def test_a_number_of_steps_counts_however_long_they_take() -> None:
    chosen = configuration((8, 8, 8))
    by_steps = limited_schedule(chosen, 180.0, 400)
    assert (by_steps.seconds, by_steps.iterations) == (None, 400)
    by_time = limited_schedule(chosen, 180.0, None)
    assert (by_time.seconds, by_time.iterations) == (180.0, chosen.schedule.iterations)
    assert limited_schedule(chosen, None, None) == chosen.schedule
