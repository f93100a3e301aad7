"""The network as a picture: the two arms of the U, each stage a block, skips between them."""

from math import prod

from planners.plan import Architecture
from planners.words import by

_STAGE_HEIGHT, _BLOCK_HEIGHT, _LEFT, _RIGHT, _WIDEST = 56, 30, 130, 560, 150


def network_text(architecture: Architecture) -> str:
    """A table, finest stage first."""
    dimensions = architecture.dimensions
    block = "convolutions" if architecture.kind == "plain" else "residual blocks"
    rows = [("stage", "finer by", "features", "kernel", block, "decoder")]
    total = [1, 1, 1]
    for stage, width in enumerate(architecture.features):
        total = [t * s for t, s in zip(total, architecture.strides_zyx[stage], strict=True)]
        deepest = stage == len(architecture.features) - 1
        rows.append(
            (
                str(stage),
                by([1 / 1 if t == 1 else t for t in total][-dimensions:]).replace(".0", ""),
                str(width),
                by(architecture.kernels_zyx[stage][-dimensions:]),
                str(architecture.encoder_blocks[stage]),
                "-" if deepest else f"{architecture.decoder_convolutions[-1 - stage]} convolutions",
            )
        )
    rows[0] = ("stage", "shrunk by", "features", "kernel", block, "decoder")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def network_svg(architecture: Architecture) -> str:
    """A drawing in the text's own colour, so that it suits a light and a dark page."""
    stages = len(architecture.features)
    height = 40 + stages * _STAGE_HEIGHT
    parts = [_head(architecture, height)]
    for stage in range(stages):
        parts += _stage(architecture, stage)
    parts.append("</svg>")
    return "\n".join(parts)


def _head(architecture: Architecture, height: int) -> str:
    title = f"{architecture.kind} U-Net with {len(architecture.features)} stages"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 690 {height}" role="img" aria-label="{title}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor" stroke="none"><title>{title}</title>'
    )


def _stage(architecture: Architecture, stage: int) -> list[str]:
    width, top = architecture.features[stage], 20 + stage * _STAGE_HEIGHT
    length = 24 + round((_WIDEST - 24) * width / max(architecture.features))
    blocks = architecture.encoder_blocks[stage]
    kind = "conv" if architecture.kind == "plain" else "residual"
    deepest = stage == len(architecture.features) - 1
    middle = (_LEFT + _RIGHT) // 2
    kernel = "x".join(map(str, architecture.kernels_zyx[stage][-architecture.dimensions :]))
    if deepest:
        return [_block(middle, top, length, f"{width}"), _word(middle, top + _BLOCK_HEIGHT + 14, f"{blocks} {kind} {kernel}")]
    decoder = architecture.decoder_convolutions[-1 - stage]
    line = top + _BLOCK_HEIGHT // 2
    parts = [
        _line(_LEFT + length // 2, line, _RIGHT - length // 2, line, dashed=True),
        _block(_LEFT, top, length, f"{width}"),
        _block(_RIGHT, top, length, f"{width}"),
        _word(_LEFT, top + _BLOCK_HEIGHT + 14, f"{blocks} {kind} {kernel}"),
        _word(_RIGHT, top + _BLOCK_HEIGHT + 14, f"{decoder} conv {kernel}"),
    ]
    stride = architecture.strides_zyx[stage + 1]
    shrink = f"÷ {'x'.join(map(str, stride[-architecture.dimensions :]))}" if prod(stride) > 1 else ""
    parts.append(_word(_LEFT - 100, top + _BLOCK_HEIGHT + 14, shrink))
    return parts


def _block(centre: int, top: int, length: int, text: str) -> str:
    box = f'<rect x="{centre - length // 2}" y="{top}" width="{length}" height="{_BLOCK_HEIGHT}" rx="5" '
    return (
        box + 'fill="var(--network-block, currentColor)" fill-opacity="0.14" stroke="currentColor" stroke-opacity="0.7"/>'
        f'<text x="{centre}" y="{top + 20}" text-anchor="middle">{text}</text>'
    )


def _word(centre: int, base: int, text: str) -> str:
    return f'<text x="{centre}" y="{base}" text-anchor="middle" fill-opacity="0.65" font-size="10">{text}</text>' if text else ""


def _line(x1: int, y1: int, x2: int, y2: int, *, dashed: bool) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" stroke-opacity="0.45"{dash}/>'
