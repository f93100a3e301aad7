import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autounet.store.weights import load_tensors
from autounet.training.distributed import Rank
from autounet.training.fold import positions

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, number: int, count: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "tests.training.rank", str(folder), str(number), str(count)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_ranks_share_out_every_sample_of_a_batch_once():
    for batch, count in ((4, 2), (5, 2), (7, 3)):
        shares = [positions(batch, Rank(number, count)) for number in range(count)]
        assert sorted(p for share in shares for p in share) == list(range(batch))


@pytest.mark.slow
def test_two_ranks_train_the_weights_of_one_process_with_batch_dice_over_both(tmp_path):
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        ranks = [start(folder, number, count) for number in range(count)]
        for rank in ranks:
            said, _ = rank.communicate(timeout=120)
            assert rank.returncode == 0, said.decode()
    alone = load_tensors(tmp_path / "1" / "rank_0.safetensors")
    both = [load_tensors(tmp_path / "2" / f"rank_{number}.safetensors") for number in range(2)]
    for name, weight in alone.items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], weight, atol=2e-5, rtol=1e-3)
