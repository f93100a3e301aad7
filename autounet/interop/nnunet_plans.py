"""nnU-Net's plans.json and dataset.json as a plan of ours: the same decisions, named our way."""

import re
from collections.abc import Mapping
from typing import Any

from autounet.interop.nnunet_files import ForeignModel
from planners.errors import UserError
from planners.fingerprint import CaseSize, ChannelSeen, Fingerprint, Intensities, Modality, Triple
from planners.labels import LabelClass, Labels, Region
from planners.plan import (
    Architecture,
    Augmentation,
    ChannelPlan,
    Configuration,
    Folds,
    Inference,
    Plan,
    Resampling,
    Scheme,
)

SCHEMES: Mapping[str, Scheme] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale",
    "RGBTo01Normalization": "rgb",
}
CANONICAL_READERS = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
PICTURE_READERS = ("NaturalImage2DIO",)
_FIX = "such a model cannot be taken in; train it again with autounet"


def labels_of(dataset: Mapping[str, Any]) -> Labels:
    """Classes, regions in the order they are painted, and ignore."""
    named: dict[str, Any] = dict(dataset["labels"])
    ignore = named.pop("ignore", None)
    lists = {name: value if isinstance(value, list) else [value] for name, value in named.items()}
    if not any(len(values) > 1 for values in lists.values()):
        classes = sorted(((values[0], name) for name, values in lists.items()), key=lambda entry: entry[0])
        return Labels(classes=tuple(LabelClass(name=n, value=int(v)) for v, n in classes), ignore=ignore)
    order = [int(v) for v in dataset["regions_class_order"]]
    regions = [(name, values) for name, values in lists.items() if [int(v) for v in values] != [0]]
    if len(order) != len(regions):
        raise UserError(f"dataset.json lists {len(order)} values for {len(regions)} regions", "correct regions_class_order")
    values = sorted({0, *order, *(int(v) for _, vs in regions for v in vs)})
    classes_ = tuple(LabelClass(name="background" if v == 0 else f"label_{v}", value=v) for v in values)
    painted = tuple(Region(name=n, values=tuple(int(v) for v in vs), paint=p) for (n, vs), p in zip(regions, order, strict=True))
    return Labels(classes=classes_, regions=painted, ignore=ignore)


def plan_of(models: Mapping[str, ForeignModel], mirror_axes: Mapping[str, tuple[int, ...]]) -> Plan:
    """One plan with the configurations of these models, which share plans.json and dataset.json."""
    first = next(iter(models.values()))
    plans, dataset = first.plans, first.dataset
    configurations = tuple(configuration_of(plans, name, mirror_axes.get(name, ())) for name in models)
    some = _merged(plans, next(iter(models)))
    flat = all(c.dimensions == 2 for c in configurations) and plans.get("image_reader_writer") in PICTURE_READERS
    return Plan(
        planner="nnunet_imported",
        dataset=str(plans.get("dataset_name", "imported")),
        dimensions=2 if flat else 3,
        orientation="canonical" if plans.get("image_reader_writer") in CANONICAL_READERS else "stored",
        axis_order=_triple(plans.get("transpose_forward", [0, 1, 2])),
        channels=_channels(plans, dataset, some),
        labels=labels_of(dataset),
        configurations=configurations,
        train=tuple(our_name(name) for name in models),
        folds=Folds(count=5, train=tuple(sorted({f.fold for m in models.values() for f in m.folds}))),
    )


def our_name(name: str) -> str:
    """Lower case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())[:64]


def previous_of(plans: Mapping[str, Any], name: str) -> str | None:
    """The configuration whose masks this one starts from."""
    previous = _merged(plans, name).get("previous_stage")
    return previous if isinstance(previous, str) else None


def configuration_of(plans: Mapping[str, Any], name: str, mirror_axes: tuple[int, ...]) -> Configuration:
    """One configuration with all that it inherits."""
    merged = _merged(plans, name)
    architecture = _architecture(merged, name)
    flat = architecture.dimensions == 2
    spacing = [float(v) for v in merged["spacing"]]
    median = [max(1, round(float(v))) for v in merged.get("median_image_size_in_voxels", merged["patch_size"])]
    previous = previous_of(plans, name)
    return Configuration(
        name=our_name(name),
        spacing_zyx_mm=tuple([1.0, *spacing] if flat and len(spacing) == 2 else spacing[-3:]),  # type: ignore[arg-type]
        median_shape_zyx=_lifted(median[-2:] if flat else median),
        patch_zyx=_lifted(merged["patch_size"]),
        batch_size=int(merged.get("batch_size", 2)),
        resampling=_resampling(merged, name),
        architecture=architecture,
        augmentation=Augmentation(steps=()),
        inference=Inference(mirror_axes=tuple(axis + 1 for axis in mirror_axes) if flat else mirror_axes, peak="nnunet"),
        previous=None if previous is None else our_name(previous),
    )


def fingerprint_of(model: ForeignModel, plan: Plan) -> Fingerprint:
    """What nnU-Net measured, as far as it wrote it down; cases are numbered."""
    found = model.fingerprint or {}
    shapes, spacings = found.get("shapes_after_crop") or [], found.get("spacings") or []
    undo = [plan.axis_order.index(axis) for axis in range(3)]
    shape = [
        max(1, round(float(v))) for v in model.plans.get("original_median_shape_after_transp") or plan.configurations[0].median_shape_zyx
    ]
    spacing = [float(v) for v in model.plans.get("original_median_spacing_after_transp") or plan.configurations[0].spacing_zyx_mm]
    if not shapes or len(shapes) != len(spacings):
        shapes, spacings = [[shape[a] for a in undo]], [[spacing[a] for a in undo]]
    intensities = model.plans.get("foreground_intensity_properties_per_channel") or {}
    return Fingerprint(
        dataset=plan.dataset,
        dimensions=plan.dimensions,
        cases=tuple(
            CaseSize(case=str(i), shape_zyx=_triple(s), spacing_zyx_mm=tuple(float(v) for v in mm))  # type: ignore[arg-type]
            for i, (s, mm) in enumerate(zip(shapes, spacings, strict=True), 1)
        ),
        channels=tuple(
            ChannelSeen(name=c.name, modality=c.modality, confidence=0.5, foreground=_intensities(intensities.get(str(i)) or {}))
            for i, c in enumerate(plan.channels)
        ),
        labels=plan.labels,
        orientations=(),  # nnU-Net does not write them down
    )


def _merged(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with those it inherits from, the nearest last."""
    configurations = plans.get("configurations") or {}
    chain: list[dict[str, Any]] = []
    seen: set[str] = set()
    current: str | None = name
    while current is not None:
        if current not in configurations or current in seen:
            raise UserError(f"plans.json has no usable configuration {current}", _FIX)
        seen.add(current)
        chain.append(configurations[current])
        current = configurations[current].get("inherits_from")
    merged: dict[str, Any] = {}
    for one in reversed(chain):
        merged |= one
    return merged


def _architecture(merged: Mapping[str, Any], name: str) -> Architecture:
    if "architecture" in merged:
        given = merged["architecture"]
        kind, arguments = str(given["network_class_name"]).rsplit(".", 1)[-1], dict(given["arch_kwargs"])
        _check_blocks(arguments, name)
    else:  # plans before nnU-Net 2.4
        kind = str(merged.get("UNet_class_name", "PlainConvUNet"))
        arguments = _old_arguments(merged)
    kinds = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual", "ResEncUNet": "residual"}
    if kind not in kinds:
        raise UserError(f"{name} is a {kind}", _FIX)
    stages = int(arguments["n_stages"])
    widths, kernels, strides = arguments["features_per_stage"], arguments["kernel_sizes"], arguments["strides"]
    dimensions = len(arguments["strides"][0]) if isinstance(arguments["strides"][0], list) else len(merged["patch_size"])
    blocks = arguments["n_blocks_per_stage" if kinds[kind] == "residual" else "n_conv_per_stage"]
    return Architecture(
        kind=kinds[kind],  # type: ignore[arg-type]
        dimensions=dimensions,  # type: ignore[arg-type]
        features=tuple(int(w) for w in widths),
        strides_zyx=tuple(_lifted(_edges(s, dimensions)) for s in strides),
        kernels_zyx=tuple(_lifted(_edges(k, dimensions)) for k in kernels),
        encoder_blocks=tuple(int(b) for b in _each(blocks, stages)),
        decoder_convolutions=tuple(int(b) for b in _each(arguments["n_conv_per_stage_decoder"], stages - 1)),
    )


def _check_blocks(arguments: Mapping[str, Any], name: str) -> None:
    """Only blocks whose arithmetic is ours."""
    norm = str(arguments.get("norm_op", ""))
    activation = str(arguments.get("nonlin", ""))
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    options = arguments.get("norm_op_kwargs") or {}
    known = "InstanceNorm" in norm and activation.endswith("LeakyReLU") and slope == 0.01
    known = known and options.get("eps", 1e-5) == 1e-5 and bool(options.get("affine", True)) and arguments.get("conv_bias", True)
    if not known or arguments.get("dropout_op") or arguments.get("squeeze_excitation"):
        raise UserError(f"{name} is built of other blocks than convolution, instance norm and LeakyReLU 0.01", _FIX)


def _old_arguments(merged: Mapping[str, Any]) -> dict[str, Any]:
    strides = merged["pool_op_kernel_sizes"]
    widths = [min(int(merged["unet_max_num_features"]), int(merged["UNet_base_num_features"]) * 2**i) for i in range(len(strides))]
    return {
        "n_stages": len(strides),
        "features_per_stage": widths,
        "kernel_sizes": merged["conv_kernel_sizes"],
        "strides": strides,
        "n_conv_per_stage": merged["n_conv_per_stage_encoder"],
        "n_blocks_per_stage": merged["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": merged["n_conv_per_stage_decoder"],
    }


def _resampling(merged: Mapping[str, Any], name: str) -> Resampling:
    function = str(merged.get("resampling_fn_data", "resample_data_or_seg_to_shape"))
    if function == "resample_data_or_seg_to_shape":
        image, label, logits = (merged.get(f"resampling_fn_{what}_kwargs") or {} for what in ("data", "seg", "probabilities"))
        forced = logits.get("force_separate_z", image.get("force_separate_z"))
        if forced is True:
            raise UserError(f"{name} resamples one axis apart whatever the spacing", _FIX)
        return Resampling(
            image_order=int(image.get("order", 3)),
            label_order=int(label.get("order", 1)),
            logits_order=int(logits.get("order", 1)),
            thick_axis="never" if forced is False else "auto",
            thick_axis_order=int(logits.get("order_z", 0)),
        )
    if function.startswith("resample_torch"):
        separate = (merged.get("resampling_fn_probabilities_kwargs") or {}).get("force_separate_z")
        return Resampling(
            image_order=1, label_order=1, logits_order=1, thick_axis="never" if separate is False else "auto", thick_axis_order=0
        )
    raise UserError(f"{name} resamples with {function}", _FIX)


def _channels(plans: Mapping[str, Any], dataset: Mapping[str, Any], merged: Mapping[str, Any]) -> tuple[ChannelPlan, ...]:
    names = dataset.get("channel_names") or dataset.get("modality") or {}
    measured = plans.get("foreground_intensity_properties_per_channel") or plans.get("foreground_intensity_properties_by_modality") or {}
    channels = []
    for number, scheme in enumerate(merged["normalization_schemes"]):
        if scheme not in SCHEMES:
            raise UserError(f"channel {number} is normalised by {scheme}", _FIX)
        seen = measured.get(str(number)) or {}
        name = str(names.get(str(number), f"channel_{number}"))
        channels.append(
            ChannelPlan(
                name=name,
                modality=modality_of(name),
                scheme=SCHEMES[scheme],
                mask_outside=bool(merged.get("use_mask_for_norm", [False] * (number + 1))[number]),
                clip_low=float(seen.get("percentile_00_5", 0.0)),
                clip_high=float(seen.get("percentile_99_5", 0.0)),
                mean=float(seen.get("mean", 0.0)),
                std=float(seen.get("std", 1.0)),
            )
        )
    return tuple(channels)


def modality_of(name: str) -> Modality:
    """What the channel's name says."""
    lowered = name.lower()
    table: tuple[tuple[Modality, tuple[str, ...]], ...] = (
        ("ct", ("ct",)), ("pet", ("pet",)), ("us", ("us", "ultrasound")), ("rgb", ("r", "g", "b", "rgb")),
        ("mr", ("mr", "mri", "t1", "t2", "flair", "adc", "dwi", "t1w", "t2w", "t1ce", "t1gd")),
    )  # fmt: skip
    return next((modality for modality, words in table if lowered in words), "unknown")


def _intensities(seen: Mapping[str, Any]) -> Intensities:
    return Intensities(
        mean=float(seen.get("mean", 0.0)),
        median=float(seen.get("median", 0.0)),
        std=float(seen.get("std", 1.0)),
        minimum=float(seen.get("min", -3.0)),
        maximum=float(seen.get("max", 3.0)),
        percentile_00_5=float(seen.get("percentile_00_5", -2.0)),
        percentile_99_5=float(seen.get("percentile_99_5", 2.0)),
    )


def _each(value: Any, count: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value)] * count


def _edges(value: Any, dimensions: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value)] * dimensions


def _lifted(edges: Any) -> Triple:
    """Two edges get a first one of 1."""
    return _triple([1, *edges] if len(edges) == 2 else edges)


def _triple(values: Any) -> Triple:
    z, y, x = (int(v) for v in values)
    return z, y, x
