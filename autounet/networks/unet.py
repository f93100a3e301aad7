"""The U-Net of a plan: an encoder of stages, a decoder of levels, one output a level."""

from collections.abc import Callable, Iterable

from torch import Tensor, cat, nn
from torch.utils.checkpoint import checkpoint

from autounet.networks.blocks import CONVOLUTION, UP_CONVOLUTION, ConvNormAct, ResidualBlock, convolved, enlarged
from planners.plan import Architecture


class Encoder(nn.Module):
    """Stages, finest first; each returns its maps."""

    def __init__(self, stem: nn.Module | None, stages: Iterable[nn.Module], checkpointed: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.checkpointed = checkpointed

    def forward(self, maps: Tensor) -> list[Tensor]:
        """The maps of every stage, finest first."""
        if self.stem is not None:
            maps = self._again(self.stem, maps, 0)
        kept = []
        for depth, stage in enumerate(self.stages):
            maps = self._again(stage, maps, depth)
            kept.append(maps)
        return kept

    def _again(self, stage: nn.Module, maps: Tensor, depth: int) -> Tensor:
        return recomputed(stage, maps) if self.training and depth < self.checkpointed else stage(maps)


class Decoder(nn.Module):
    """Levels, coarsest first; every level has an output, so that all of them can be trained."""

    def __init__(self, architecture: Architecture, heads: int) -> None:
        super().__init__()
        dimensions = architecture.dimensions
        widths, checkpointed = architecture.features, architecture.checkpointed_stages
        ones = (1,) * dimensions
        self.up, self.levels, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.deep_supervision = architecture.deep_supervision
        self.checkpointed_from = len(widths) - 1 - checkpointed
        for depth in reversed(range(len(widths) - 1)):
            stride = architecture.strides_zyx[depth + 1][-dimensions:]
            kernel = architecture.kernels_zyx[depth][-dimensions:]
            width, count = widths[depth], architecture.decoder_convolutions[len(widths) - 2 - depth]
            self.up.append(UP_CONVOLUTION[dimensions](widths[depth + 1], width, stride, stride))  # type: ignore[arg-type]
            self.levels.append(nn.Sequential(*(ConvNormAct(2 * width if i == 0 else width, width, kernel, ones) for i in range(count))))
            self.heads.append(CONVOLUTION[dimensions](width, heads, 1))

    def forward(self, kept: list[Tensor]) -> Tensor | list[Tensor]:
        """Logits, finest first: of every level while training with deep supervision, else of the finest."""
        maps, logits = kept[-1], []
        every = self.training and self.deep_supervision
        for index, (up, level, head) in enumerate(zip(self.up, self.levels, self.heads, strict=True)):
            maps = cat((enlarged(up, maps), kept[-2 - index]), 1)
            maps = recomputed(level, maps) if self.training and index >= self.checkpointed_from else level(maps)
            if every or index == len(self.levels) - 1:
                logits.append(convolved(head, maps))
        return logits[::-1] if every else logits[-1]


class UNet(nn.Module):
    """Encoder and decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(b, c, [z,] y, x) to logits (b, k, [z,] y, x), or a list of them, finest first."""
        return self.decoder(self.encoder(image))  # type: ignore[no-any-return]


def plain(architecture: Architecture, channels_in: int, heads: int) -> UNet:
    """Stages of convolutions, the first of a stage carries the stride."""
    return UNet(
        Encoder(None, _stages(architecture, channels_in, ConvNormAct), architecture.checkpointed_stages), Decoder(architecture, heads)
    )


def residual(architecture: Architecture, channels_in: int, heads: int) -> UNet:
    """A convolution, then stages of residual blocks; the decoder is plain."""
    width, dimensions = architecture.features[0], architecture.dimensions
    stem = ConvNormAct(channels_in, width, architecture.kernels_zyx[0][-dimensions:], (1,) * dimensions)
    stages = _stages(architecture, width, ResidualBlock)
    return UNet(Encoder(stem, stages, architecture.checkpointed_stages), Decoder(architecture, heads))


def recomputed(module: nn.Module, maps: Tensor) -> Tensor:
    """The module's output; its inner maps are not kept but computed again in the backward pass."""
    return checkpoint(module, maps, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]


def _stages(architecture: Architecture, channels_in: int, block: Callable[..., nn.Module]) -> list[nn.Module]:
    dimensions = architecture.dimensions
    stages: list[nn.Module] = []
    columns = zip(architecture.features, architecture.kernels_zyx, architecture.strides_zyx, architecture.encoder_blocks, strict=True)
    for width, kernel, stride, count in columns:
        blocks = []
        for index in range(count):
            step = stride[-dimensions:] if index == 0 else (1,) * dimensions
            blocks.append(block(channels_in, width, kernel[-dimensions:], step))
            channels_in = width
        stages.append(nn.Sequential(*blocks))
    return stages
