"""Where each weight of ours stands in nnU-Net's state: names only, no tensors."""

from planners.plan import Architecture


def reference_names(architecture: Architecture) -> dict[str, str]:
    """Our parameter name to the name in nnU-Net's PlainConvUNet or ResidualEncoderUNet."""
    names = _residual_encoder(architecture) if architecture.kind == "residual" else _plain_encoder(architecture)
    for level, count in enumerate(architecture.decoder_convolutions):
        names |= _pair(f"decoder.up.{level}", f"decoder.transpconvs.{level}")
        names |= _pair(f"decoder.heads.{level}", f"decoder.seg_layers.{level}")
        for index in range(count):
            names |= _block(f"decoder.levels.{level}.{index}", f"decoder.stages.{level}.convs.{index}")
    return names


def _plain_encoder(architecture: Architecture) -> dict[str, str]:
    names: dict[str, str] = {}
    for stage, count in enumerate(architecture.encoder_blocks):
        for index in range(count):
            names |= _block(f"encoder.stages.{stage}.{index}", f"encoder.stages.{stage}.0.convs.{index}")
    return names


def _residual_encoder(architecture: Architecture) -> dict[str, str]:
    names = _block("encoder.stem", "encoder.stem.convs.0")
    width = architecture.features[0]
    for stage, count in enumerate(architecture.encoder_blocks):
        for index in range(count):
            ours, theirs = f"encoder.stages.{stage}.{index}", f"encoder.stages.{stage}.blocks.{index}"
            names |= _block(f"{ours}.conv1", f"{theirs}.conv1") | _block(f"{ours}.conv2", f"{theirs}.conv2")
        if width != architecture.features[stage]:
            # The average pool, where there is one, is the shortcut's first module.
            strided = any(step != 1 for step in architecture.strides_zyx[stage][-architecture.dimensions :])
            names |= _block(f"encoder.stages.{stage}.0.project", f"encoder.stages.{stage}.blocks.0.skip.{int(strided)}", bias=False)
        width = architecture.features[stage]
    return names


def _block(ours: str, theirs: str, *, bias: bool = True) -> dict[str, str]:
    names = {f"{ours}.conv.weight": f"{theirs}.conv.weight"} | _pair(f"{ours}.norm", f"{theirs}.norm")
    return names | ({f"{ours}.conv.bias": f"{theirs}.conv.bias"} if bias else {})


def _pair(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
