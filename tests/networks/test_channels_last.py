"""What is computed in another way where channels lie beside each other: the same numbers, forward and backward."""

import pytest
import torch
from torch.nn import functional

from autounet.networks import blocks, build
from autounet.networks.blocks import InstanceNorm, enlarged
from autounet.training.execution import Execution, laid_out
from tests.networks.test_networks import architecture, picture

CPU = torch.device("cpu")
LAST = Execution(device=CPU, channels_last=True)


def maps_of(shape, seed=0):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1
    return maps.contiguous(memory_format=blocks.LAYOUT[maps.ndim]).requires_grad_()


@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (3, 4, 2, 5, 3), (1, 3, 40, 40)])
@pytest.mark.parametrize("large", [1, 10_000])  # each of the two ways forward
def test_the_norms_gradients_are_those_of_torchs_instance_norm(shape, large, monkeypatch):
    monkeypatch.setattr(blocks, "LARGE_MAP", large)
    norm = InstanceNorm(shape[1]).double()
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    maps, above = maps_of(shape), torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = norm(maps)
    assert type(found.grad_fn).__name__ == "_ChannelsLastNormBackward"
    expected = functional.instance_norm(maps, None, None, norm.weight, norm.bias)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (maps, norm.weight, norm.bias), above)
    # A gradient may come in any layout.
    for given in (above, above.contiguous(memory_format=blocks.LAYOUT[above.ndim])):
        got = torch.autograd.grad(found, (maps, norm.weight, norm.bias), given, retain_graph=True)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 6, 5, 4), (2, 2)), ((2, 6, 4, 3, 5), (2, 2, 2)), ((1, 4, 5, 6, 3), (1, 2, 2)), ((2, 3, 3, 4), (1, 2))]
)
def test_an_enlargement_as_matrices_has_the_gradients_of_the_transposed_convolution(shape, kernel):
    kind = torch.nn.ConvTranspose2d if len(kernel) == 2 else torch.nn.ConvTranspose3d
    convolution = kind(shape[1], 3, kernel, kernel).double()
    maps = maps_of(shape)
    found, expected = enlarged(convolution, maps), convolution(maps)
    assert type(found.grad_fn).__name__ == "_EnlargedBackward"
    torch.testing.assert_close(found, expected)
    above = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = (maps, convolution.weight, convolution.bias)
    for one, other in zip(torch.autograd.grad(found, inputs, above), torch.autograd.grad(expected, inputs, above), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_whole_network_has_the_outputs_and_gradients_of_the_plain_layout(kind, dimensions):
    results = []
    for how in (Execution(device=CPU), LAST):
        torch.manual_seed(0)
        network = how.placed(build(architecture(kind, dimensions), 2, 3)).train()
        levels = network(how.image(picture(dimensions)))
        sum((level.square()).mean() for level in levels).backward()
        results.append((levels, [p.grad for p in network.parameters()]))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    largest = max(float(g.abs().max()) for g in results[0][1])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * largest, rtol=1e-3)


def test_a_picture_of_one_channel_says_by_its_strides_that_channels_are_last():
    for shape, axes in (((2, 1, 4, 6), (24, 1, 6, 1)), ((2, 1, 3, 4, 6), (72, 1, 24, 6, 1))):
        image = torch.randn(shape)
        placed = laid_out(image)
        assert placed.stride() == axes
        assert torch.equal(placed, image)
        kind = torch.nn.Conv2d if len(shape) == 4 else torch.nn.Conv3d
        assert blocks.channels_last(kind(1, 8, 3, padding=1)(placed))
        assert not blocks.channels_last(kind(1, 8, 3, padding=1)(image))
