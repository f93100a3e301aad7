import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autounet.store.weights import load_tensors
from autounet.training.distributed import Rank
from autounet.training.fold import positions

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, number: int, count: int, program: str = "rank") -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", f"tests.training.{program}", str(folder), str(number), str(count)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_ranks_share_out_every_sample_of_a_batch_once():
    for batch, count in ((4, 2), (5, 2), (7, 3)):
        shares = [positions(batch, Rank(number, count)) for number in range(count)]
        assert sorted(p for share in shares for p in share) == list(range(batch))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["rank", "tried_rank"])
def test_two_ranks_train_the_weights_of_one_process_with_batch_dice_over_both(tmp_path, program):
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        ranks = [start(folder, number, count, program) for number in range(count)]
        for rank in ranks:
            said, _ = rank.communicate(timeout=120)
            assert rank.returncode == 0, said.decode()
    alone = load_tensors(tmp_path / "1" / "rank_0.safetensors")
    both = [load_tensors(tmp_path / "2" / f"rank_{number}.safetensors") for number in range(2)]
    for name, weight in alone.items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], weight, atol=2e-5, rtol=1e-3)
    for state in tmp_path.glob("?/state_*.json"):
        assert json.loads(state.read_text())["runs_on"] == "device"
    assert len(list(tmp_path.glob("?/state_*.json"))) == (3 if program == "tried_rank" else 0)


@pytest.mark.slow
def test_two_ranks_score_and_stop_at_a_plateau_as_one_process_does(tmp_path):
    states, events = {}, {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        ranks = [start(folder, number, count, "scored_rank") for number in range(count)]
        for rank in ranks:
            said, _ = rank.communicate(timeout=400)
            assert rank.returncode == 0, said.decode()
        states[count] = [json.loads((folder / f"state_{number}.json").read_text()) for number in range(count)]
        lines = (folder / "fold_0" / "events.jsonl").read_text().splitlines()
        events[count] = [event for event in map(json.loads, lines) if event["kind"] == "validation"]
    (alone,) = states[1]
    # A plateau needs two scores on each side of a fifth of the way; then the decay is as long as a quarter of the way so far.
    assert [scored["step"] for scored in alone["scored"]] == [2, 4, 6, 8]
    assert alone["decay_from"] == 0.5
    assert alone["step"] == 10 < 16
    for state in states[2]:
        assert (state["step"], state["decay_from"]) == (10, 0.5)
        assert state["scored"] == states[2][0]["scored"]
        for one, other in zip(state["scored"], alone["scored"], strict=True):
            assert one["step"] == other["step"]
            assert one["dice"] == pytest.approx(other["dice"], abs=2e-3)  # of weights that are the same but for rounding
    assert len(events[2]) == len(events[1]) == 4  # once each, by the first
    for one, other in zip(events[2], events[1], strict=True):
        assert one["step"] == other["step"]
        assert one["dice"] > 0.01
        for name in ("dice", "dice_ball", "dice_box"):
            assert one[name] == pytest.approx(other[name], abs=2e-3)
