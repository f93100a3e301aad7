"""A fast way is taken where it gives the plain way's gradients, and given up in one calm line where it does not."""

from dataclasses import replace
from math import inf, isinf
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from autounet.networks import blocks
from autounet.networks.blocks import ConvNormAct, InstanceNorm, finished
from autounet.training import agreement, execution
from autounet.training.agreement import probed, trusted
from autounet.training.execution import Compiled, Execution, plain
from autounet.training.fastest import fastest, seconds_a_step
from autounet.training.fold import fresh_learner, train_fold
from planners.plan import Loss, LossTerm, TermKind
from tests.training.test_loop import SHORT, fold, job
from tests.training.tiny import recipe

FAST = Execution(device=torch.device("cpu"), precision="bfloat16", channels_last=True)


@pytest.fixture(autouse=True)
def _asked_anew():
    probed.cache_clear()
    yield
    probed.cache_clear()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_agrees_is_taken_without_a_word_and_asked_once(dimensions, monkeypatch):
    said = []
    assert trusted((FAST,), dimensions, said.append) == (FAST,)
    monkeypatch.setattr(agreement, "_gradients", pytest.fail)
    assert trusted((FAST, plain(FAST)), dimensions, said.append) == (FAST, plain(FAST))
    assert said == []


def wrong_norm(factor):
    real = blocks._ChannelsLastNorm.backward

    def backward(ctx, *gradients):
        maps, scale, shift, nothing = real(ctx, *gradients)
        return factor(maps), scale, shift, nothing

    return staticmethod(backward)


@pytest.mark.parametrize("factor", [lambda g: g * float("nan"), lambda g: g.flip(0), lambda g: 2 * g], ids=["nan", "swapped", "doubled"])
def test_a_fast_way_with_other_gradients_is_given_up_in_one_line_and_the_training_goes_the_plain_way(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(blocks._ChannelsLastNorm, "backward", wrong_norm(factor))
    monkeypatch.setattr("autounet.training.fold.ways", lambda *_: (replace(FAST, precision="float32"),))
    at, notes = job(tmp_path), []
    monkeypatch.setattr(at.progress, "note", notes.append)
    trained = train_fold(fold(tmp_path, replace(SHORT, iterations=2)), at)
    assert trained.state.execution == "cpu, float32, contiguous"
    (line,) = [text for text in notes if "gradients" in text]
    assert line.startswith("cpu, float32, channels last gives other gradients here than the plain way (agreement 0.")


def test_a_way_that_this_machine_cannot_go_is_given_up_with_its_reason(monkeypatch):
    def lacking(*_):
        raise RuntimeError("no kernel for this\nand a long story")

    monkeypatch.setattr(blocks._ChannelsLastNorm, "forward", staticmethod(lacking))
    said = []
    assert trusted((FAST,), 3, said.append) == (plain(FAST),)
    assert said == ["cpu, bfloat16, channels last cannot be used here (no kernel for this); training goes another way"]


def compiler(monkeypatch, made):
    calls = []

    def stand_in(function, dynamic):
        calls.append((function, dynamic))
        return made

    monkeypatch.setattr(torch, "compile", stand_in)
    return calls


def test_a_compiled_pass_is_used_by_every_block_and_probed_as_the_rest(monkeypatch):
    used = []
    calls = compiler(monkeypatch, lambda *given: used.append(1) or finished(*given))
    way, said = replace(FAST, compiled=True), []
    assert trusted((way, FAST), 2, said.append) == (way, FAST)
    assert calls == [(finished, True)]
    assert len(used) == 5  # blocks of the tiny network
    compiler(monkeypatch, lambda maps, norm, activate: finished(maps, norm, False))  # forgets the activation
    probed.cache_clear()
    assert trusted((way, FAST), 2, said.append) == (FAST,)
    assert "cpu, bfloat16, channels last, compiled gives other gradients" in said[0]


def test_a_compiler_that_fails_at_some_shape_is_given_up_and_other_errors_are_not_hidden():
    from torch._dynamo.exc import TorchDynamoException

    norm, maps = InstanceNorm(3), torch.randn(2, 3, 4, 4)

    def failing(*_):
        raise TorchDynamoException("no C++ compiler")

    one_pass = Compiled(failing)
    with pytest.warns(UserWarning, match="compiler failed"):
        assert torch.equal(one_pass(maps, norm, True), finished(maps, norm, True))
    one_pass.fast = pytest.fail
    assert torch.equal(one_pass(maps, norm, True), finished(maps, norm, True))

    def broken(*_):
        raise ValueError("a bug of ours")

    with pytest.raises(ValueError, match="a bug of ours"):
        Compiled(broken)(maps, norm, True)


def test_only_a_long_training_on_cuda_with_what_the_compiler_needs_is_compiled(monkeypatch):
    monkeypatch.setattr(execution, "_device", lambda device: torch.device(device))
    monkeypatch.setattr(execution, "hardware", lambda device: SimpleNamespace(precisions=("float32",)))
    monkeypatch.setattr(execution, "find_spec", lambda name: object())

    def kinds(device, steps):
        return [(way.channels_last, way.compiled) for way in execution.ways(device, "float32", steps)]

    contiguous, last, compiled = (False, False), (True, False), (True, True)
    assert kinds("cuda", 250_000) == [contiguous, last, compiled]
    assert kinds("cuda", 1000) == [contiguous, last]
    assert kinds("cpu", 250_000) == [last]
    assert kinds("mps", 250_000) == [contiguous]
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    assert kinds("cuda", 250_000) == [contiguous, last]


def test_the_fastest_way_is_taken_and_one_that_does_not_fit_is_not():
    slow, quick = plain(FAST), FAST
    assert fastest((slow, quick), {slow: 0.2, quick: 0.1}.__getitem__) == (
        quick,
        "cpu, float32, contiguous: 200 ms a step; cpu, bfloat16, channels last: 100 ms a step",
    )
    assert fastest((slow, quick), {slow: 0.2, quick: inf}.__getitem__)[0] == slow
    assert fastest((slow, quick), {slow: inf, quick: inf}.__getitem__)[0] == slow


@pytest.mark.parametrize("term", get_args(TermKind))
def test_a_step_with_any_term_of_the_loss_can_be_timed_on_made_up_images(term):
    made = recipe(loss=Loss(terms=(LossTerm(kind="dice"), LossTerm(kind=term))))
    assert 0 < seconds_a_step(made.plan, made.configuration, FAST) < 60


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")])
def test_a_way_that_does_not_fit_or_lacks_a_kernel_takes_for_ever(monkeypatch, error):
    made = recipe()

    def full(*_):
        raise error

    monkeypatch.setattr("autounet.training.fastest.made_up", full)
    assert isinf(seconds_a_step(made.plan, made.configuration, FAST))


def test_a_long_training_tries_its_ways_once_and_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    slow, tried = replace(plain(FAST), channels_last=True), []
    monkeypatch.setattr("autounet.training.fold.ways", lambda *_: (plain(FAST), slow))

    def seconds(plan, configuration, way):
        tried.append(way)
        return 1.0 if way == plain(FAST) else 0.5

    monkeypatch.setattr("autounet.training.fold.seconds_a_step", seconds)
    monkeypatch.setattr("autounet.training.fold.worth_a_trial", lambda schedule: schedule.iterations > 2)
    short, longer = replace(SHORT, iterations=2), replace(SHORT, iterations=4)
    assert train_fold(fold(tmp_path / "short", short), job(tmp_path)).state.execution == str(plain(FAST))
    assert tried == []
    assert train_fold(fold(tmp_path / "long", longer), job(tmp_path)).state.execution == str(slow)
    assert tried == [plain(FAST), slow]
    for record in (tmp_path / "long" / "fold_0" / "checkpoints").glob("*.json"):
        assert '"cpu, float32, channels last"' in record.read_text()
        record.write_text(record.read_text().replace('"cpu, ', '"cuda:1, '))  # it was begun on another card
    used = []

    def noted(fold, how, reduce):
        used.append(how)
        return fresh_learner(fold, how, reduce)

    monkeypatch.setattr("autounet.training.fold.fresh_learner", noted)
    train_fold(fold(tmp_path / "long", replace(SHORT, iterations=6)), job(tmp_path))
    assert used == [slow]
    assert len(tried) == 2


def test_the_plain_block_is_what_it_was():
    block, maps = ConvNormAct(2, 4, (3, 3), (1, 1)), torch.randn(1, 2, 5, 5)
    assert torch.equal(block(maps), torch.nn.functional.leaky_relu(block.norm(block.conv(maps)), 0.01))
