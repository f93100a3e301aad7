"""Our networks against nnU-Net's own, whose answers are kept in reference_networks.json (dynamic_network_architectures 0.4.4)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autounet.networks import build
from autounet.networks.blocks import InstanceNorm, convolved
from autounet.networks.reference_names import reference_names
from planners.plan import Architecture

REFERENCE = json.loads((Path(__file__).parent / "reference_networks.json").read_text())
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)


def architecture(kind="plain", dimensions=3, stages=3, width=4, cap=6, **changes):
    stride = (2, 2, 2) if dimensions == 3 else (1, 2, 2)
    blocks = {"plain": (2,) * stages, "residual": (1, 2, 2)[:stages]}[kind] if stages == 3 else changes.pop("blocks")
    return Architecture(
        kind=kind,
        dimensions=dimensions,
        features=tuple(min(cap, width * 2**i) for i in range(stages)),
        strides_zyx=((1, 1, 1), *[stride] * (stages - 1)),
        kernels_zyx=((3, 3, 3) if dimensions == 3 else (1, 3, 3),) * stages,
        encoder_blocks=blocks,
        decoder_convolutions=(2 if kind == "plain" else 1,) * (stages - 1),
        **changes,
    )


def filled(plan):
    """A network whose weights follow from the names they have in the reference."""
    network, names = build(plan, 2, 3), reference_names(plan)
    for name, parameter in network.named_parameters():
        rng = np.random.RandomState(zlib.crc32(names[name].encode()) & 0x7FFFFFFF)
        values = rng.standard_normal(tuple(parameter.shape)) * (0.3 if parameter.ndim > 1 else 0.2)
        values += 1.0 if name.endswith("norm.weight") else 0.0
        parameter.data = torch.from_numpy(values).float()
    return network


def picture(dimensions):
    return torch.from_numpy(np.random.RandomState(5).standard_normal((2, 2) + (8,) * dimensions)).float()


@pytest.mark.parametrize(
    ("kind", "dimensions", "stages", "cap", "parameters"),
    [
        ("plain", 3, 6, 320, 31_196_399),
        ("residual", 3, 6, 320, 102_350_575),
        ("plain", 2, 8, 512, 46_326_581),
        ("residual", 2, 8, 512, 140_019_061),
    ],
)
def test_the_usual_networks_have_as_many_parameters_as_the_references(kind, dimensions, stages, cap, parameters):
    blocks = (2,) * stages if kind == "plain" else RESIDUAL_BLOCKS[:stages]
    with torch.device("meta"):
        network = build(architecture(kind, dimensions, stages, 32, cap, blocks=blocks), 1, 3)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["plain_3d", "plain_2d", "residual_3d", "residual_2d"])
def test_with_the_references_weights_outputs_and_gradients_are_the_references(name):
    kind, dimensions = name[:-3], int(name[-2])
    network, truth = filled(architecture(kind, dimensions)).train(), REFERENCE[name]
    levels = network(picture(dimensions))
    assert len(levels) == len(truth["outputs"])
    for level, expected in zip(levels, truth["outputs"], strict=True):
        sampled = level.detach().flatten()[:: max(1, level.numel() // 40)]
        np.testing.assert_allclose(sampled.numpy(), expected, atol=1e-4)
    sum((level * level).mean() for level in levels).backward()
    names = reference_names(architecture(kind, dimensions))
    assert {names[n] for n, _ in network.named_parameters()} == set(truth["gradient_norms"])
    for ours, parameter in network.named_parameters():
        # A bias before a norm has no effect: its gradient is zero but for rounding.
        assert float(parameter.grad.norm()) == pytest.approx(truth["gradient_norms"][names[ours]], rel=1e-3, abs=1e-4)


def test_the_norm_is_torchs_instance_norm_in_every_layout():
    norm, maps = InstanceNorm(5), torch.randn(2, 5, 6, 7, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    expected = functional.instance_norm(maps, None, None, norm.weight, norm.bias)
    torch.testing.assert_close(norm(maps), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm(maps.contiguous(memory_format=torch.channels_last_3d)), expected, atol=1e-5, rtol=1e-5)


def test_in_eval_mode_only_the_finest_level_comes_out():
    network = filled(architecture()).eval()
    finest = network(picture(3))
    network.train()
    torch.testing.assert_close(finest, network(picture(3))[0])


def test_recomputed_stages_give_the_same_gradients():
    plain, again = filled(architecture()), filled(architecture(checkpointed_stages=2))
    for network in (plain, again):
        network.train()
        sum((level * level).mean() for level in network(picture(3))).backward()
    for (_, one), (_, other) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_residual_block_begins_as_its_shortcut():
    network = build(architecture("residual"), 2, 3)
    block = network.encoder.stages[1][1]
    maps = torch.rand(1, 6, 8, 8, 8)
    torch.testing.assert_close(block(maps), maps)  # nothing is negative, so the activation changes nothing


def test_fresh_weights_are_he_normal_and_biases_zero():
    network = build(architecture("plain", width=32, cap=64), 1, 2)
    convolution = network.encoder.stages[1][1].conv
    wanted = (2 / (1 + 0.01**2) / (convolution.in_channels * 27)) ** 0.5
    assert float(convolution.weight.detach().std()) == pytest.approx(wanted, rel=0.02)
    assert float(convolution.bias.detach().abs().max()) == 0


@pytest.mark.parametrize(("edges", "stride"), [((2, 4, 4), 1), ((2, 2, 2), 1), ((4, 1, 1), 2)])
def test_very_small_maps_get_sound_gradients_in_bfloat16(edges, stride):
    """oneDNN's own bfloat16 gradient of these weights reads memory that is not its own."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 6, *edges, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    convolution = torch.nn.Conv3d(6, 6, 3, stride, 1)
    expected = torch.autograd.grad(convolution(maps).square().sum(), convolution.weight)[0]
    for _ in range(5):
        torch.full((100_000,), 1e3)  # freed memory that is not zero
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.autograd.grad(convolved(convolution, maps).float().square().sum(), convolution.weight)[0]
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_in_bfloat16_channels_last_gradients_point_where_the_plain_ones_do():
    from autounet.training.execution import Execution, agreement

    gradients = []
    for how in (
        Execution(device=torch.device("cpu")),
        Execution(device=torch.device("cpu"), precision="bfloat16", channels_last=True),
    ):
        network = how.placed(filled(architecture())).train()
        with how.autocast():
            levels = network(how.image(picture(3)))
        functional.cross_entropy(levels[0].float(), torch.zeros(2, 8, 8, 8, dtype=torch.long)).backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert agreement(*gradients) > 0.995
