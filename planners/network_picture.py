"""The network as a picture: the two arms of the U, each stage a block, skips between them."""

from planners.plan import Architecture
from planners.words import by

_STAGE_HEIGHT, _BLOCK_HEIGHT, _WIDEST = 56, 30, 150
_LEFT, _MIDDLE, _RIGHT = 130, 345, 560


def network_text(architecture: Architecture) -> str:
    """A table, finest stage first."""
    dimensions = architecture.dimensions
    block = "convolutions" if architecture.kind == "plain" else "residual blocks"
    rows = [("stage", "shrunk by", "features", "kernel", block, "decoder")]
    total = [1, 1, 1]
    for stage, width in enumerate(architecture.features):
        total = [t * s for t, s in zip(total, architecture.strides_zyx[stage], strict=True)]
        deepest = stage == len(architecture.features) - 1
        rows.append(
            (
                str(stage),
                by(total[-dimensions:]),
                str(width),
                by(architecture.kernels_zyx[stage][-dimensions:]),
                str(architecture.encoder_blocks[stage]),
                "-" if deepest else _counted(architecture.decoder_convolutions[-1 - stage], "convolution"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


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
    width, top = architecture.features[stage], _top(stage)
    length, line = _length(architecture, stage), top + _BLOCK_HEIGHT // 2
    block = f"{architecture.encoder_blocks[stage]} {'conv' if architecture.kind == 'plain' else 'residual'}"
    kernel = "x".join(map(str, architecture.kernels_zyx[stage][-architecture.dimensions :]))
    if stage == len(architecture.features) - 1:
        return [_block(_MIDDLE, top, length, f"{width}"), _word(_MIDDLE, top + _BLOCK_HEIGHT + 14, f"{block} {kernel}", "middle")]
    stride = "x".join(map(str, architecture.strides_zyx[stage + 1][-architecture.dimensions :]))
    below = top + _BLOCK_HEIGHT + 16
    return [
        _path(f"M{_LEFT + length // 2} {line} H{_RIGHT - length // 2}", dashed=True),
        *_to_the_next(architecture, stage),
        _block(_LEFT, top, length, f"{width}"),
        _block(_RIGHT, top, length, f"{width}"),
        _word(_LEFT - 8, below, f"÷ {stride}", "end"),
        _word(_LEFT + 8, below, f"{block} {kernel}", "start"),
        _word(_RIGHT + 8, below, f"{architecture.decoder_convolutions[-1 - stage]} conv {kernel}", "start"),
    ]


def _to_the_next(architecture: Architecture, stage: int) -> list[str]:
    """Down on the left, up on the right; to the block in the middle from the last but one."""
    start, end = _top(stage) + _BLOCK_HEIGHT, _top(stage + 1)
    if stage + 1 < len(architecture.features) - 1:
        return [_path(f"M{_LEFT} {start} V{end}"), _path(f"M{_RIGHT} {end} V{start}")]
    half, line = _length(architecture, stage + 1) // 2, end + _BLOCK_HEIGHT // 2
    return [_path(f"M{_LEFT} {start} V{line} H{_MIDDLE - half}"), _path(f"M{_MIDDLE + half} {line} H{_RIGHT} V{start}")]


def _top(stage: int) -> int:
    return 20 + stage * _STAGE_HEIGHT


def _length(architecture: Architecture, stage: int) -> int:
    return 28 + round((_WIDEST - 28) * architecture.features[stage] / max(architecture.features))


def _block(centre: int, top: int, length: int, text: str) -> str:
    box = f'<rect x="{centre - length // 2}" y="{top}" width="{length}" height="{_BLOCK_HEIGHT}" rx="5" '
    return (
        box + 'fill="var(--network-block, currentColor)" fill-opacity="0.14" stroke="currentColor" stroke-opacity="0.7"/>'
        f'<text x="{centre}" y="{top + 20}" text-anchor="middle">{text}</text>'
    )


def _word(at: int, base: int, text: str, anchor: str) -> str:
    return f'<text x="{at}" y="{base}" text-anchor="{anchor}" fill-opacity="0.65" font-size="10">{text}</text>'


def _path(way: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<path d="{way}" fill="none" stroke="var(--network-line, currentColor)" stroke-opacity="0.45"{dash}/>'
