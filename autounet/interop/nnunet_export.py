"""A model of ours as a folder that nnU-Net v2, and the Slicer extensions built on it, load."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autounet.networks.reference_names import reference_names
from autounet.store.bundle import Bundle
from autounet.store.files import publish_json, publish_tree
from autounet.store.weights import save_tensors
from planners.errors import UserError
from planners.labels import Labels
from planners.plan import Architecture, Configuration, Plan, Resampling

if TYPE_CHECKING:
    from torch import Tensor

CHILD = Path(__file__).with_name("save_child.py")
SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale": "RescaleTo01Normalization",
    "rgb": "RGBTo01Normalization",
}
SECONDS = 600


def export_nnunet(bundle: Bundle, out: Path, *, file_ending: str = ".nii.gz") -> tuple[Path, ...]:
    """One folder nnUNetTrainer__nnUNetPlans__CONFIGURATION for each configuration that votes or is built upon."""
    plan = bundle.plan
    _check(plan)
    wanted = _wanted(plan, {m.configuration: m.folds for m in bundle.selection.members})
    folders = []
    for name, folds in wanted.items():
        folder = out / f"nnUNetTrainer__nnUNetPlans__{name}"

        def fill(place: Path, name: str = name, folds: tuple[int, ...] = folds) -> None:
            publish_json(place / "plans.json", plans_of(plan, wanted))
            publish_json(place / "dataset.json", dataset_of(plan, file_ending))
            for fold in folds:
                _write_fold(bundle, plan.configuration(name), fold, place / f"fold_{fold}")

        publish_tree(folder, fill)
        folders.append(folder)
    return tuple(folders)


def plans_of(plan: Plan, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """plans.json."""
    fine = plan.configuration(list(wanted)[-1])
    reader = "NaturalImage2DIO" if plan.dimensions == 2 else "NibabelIOWithReorient" if plan.orientation == "canonical" else "SimpleITKIO"
    backward = [plan.axis_order.index(axis) for axis in range(3)]
    statistics = {
        str(i): {
            "mean": c.mean,
            "median": c.mean,
            "std": c.std,
            "min": c.clip_low,
            "max": c.clip_high,
            "percentile_00_5": c.clip_low,
            "percentile_99_5": c.clip_high,
        }
        for i, c in enumerate(plan.channels)
    }
    return {
        "dataset_name": "Dataset001_" + "".join(letter if letter.isalnum() else "_" for letter in plan.dataset),
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(fine.spacing_zyx_mm),
        "original_median_shape_after_transp": list(fine.median_shape_zyx),
        "image_reader_writer": reader,
        "transpose_forward": list(plan.axis_order),
        "transpose_backward": backward,
        "experiment_planner_used": "autounet",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": statistics,
        "configurations": {name: _configuration(plan, plan.configuration(name), wanted) for name in wanted},
    }


def dataset_of(plan: Plan, file_ending: str) -> dict[str, Any]:
    """dataset.json."""
    labels, order = _labels(plan.labels)
    dataset: dict[str, Any] = {
        "channel_names": {str(i): "CT" if c.scheme == "ct" else c.name for i, c in enumerate(plan.channels)},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".png" if plan.dimensions == 2 else file_ending,
    }
    return dataset | ({"regions_class_order": order} if order else {})


def _labels(labels: Labels) -> tuple[dict[str, Any], list[int]]:
    values = [c.value for c in labels.classes]
    if values != list(range(len(values))):
        raise UserError(f"the label values {values} are not consecutive", "nnU-Net wants 0, 1, 2, …; such a model cannot be exported")
    ignored: dict[str, Any] = {} if labels.ignore is None else {"ignore": len(values)}
    if not labels.regions:
        return {c.name: c.value for c in labels.classes} | ignored, []
    regions: dict[str, Any] = {"background": 0, **{r.name: list(r.values) for r in labels.regions}}
    return regions | ignored, [r.paint for r in labels.regions]


def _configuration(plan: Plan, configuration: Configuration, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    skip = 1 if configuration.dimensions == 2 else 0
    image, label, logits = (
        _resampling(configuration.resampling, order, is_label)
        for order, is_label in (
            (configuration.resampling.image_order, False),
            (configuration.resampling.label_order, True),
            (configuration.resampling.logits_order, False),
        )
    )
    plain = {
        "data_identifier": f"nnUNetPlans_{configuration.name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_zyx[skip:]),
        "median_image_size_in_voxels": list(configuration.median_shape_zyx[skip:]),
        "spacing": list(configuration.spacing_zyx_mm[skip:]),
        "normalization_schemes": [SCHEMES[c.scheme] for c in plan.channels],
        "use_mask_for_norm": [c.mask_outside for c in plan.channels],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": image,
        "resampling_fn_seg_kwargs": label,
        "resampling_fn_probabilities_kwargs": logits,
        "architecture": _architecture(configuration.architecture),
        "batch_dice": configuration.loss.batch_dice,
    }
    if configuration.previous is not None:
        plain["previous_stage"] = configuration.previous
    following = [name for name in wanted if plan.configuration(name).previous == configuration.name]
    return plain | ({"next_stage": following} if following else {})


def _resampling(resampling: Resampling, order: int, is_label: bool) -> dict[str, Any]:
    forced = None if resampling.thick_axis == "auto" else False
    return {"is_seg": is_label, "order": order, "order_z": resampling.thick_axis_order, "force_separate_z": forced}


def _architecture(architecture: Architecture) -> dict[str, Any]:
    dimensions = architecture.dimensions
    residual = architecture.kind == "residual"
    arguments: dict[str, Any] = {
        "n_stages": len(architecture.features),
        "features_per_stage": list(architecture.features),
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [list(k[-dimensions:]) for k in architecture.kernels_zyx],
        "strides": [list(s[-dimensions:]) for s in architecture.strides_zyx],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": list(architecture.encoder_blocks),
        "n_conv_per_stage_decoder": list(architecture.decoder_convolutions),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _wanted(plan: Plan, chosen: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What is built upon comes first."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, folds in chosen.items():
        previous = plan.configuration(name).previous
        if previous is not None:
            wanted |= _wanted(plan, {previous: folds})
        wanted[name] = folds
    return wanted


def _check(plan: Plan) -> None:
    for channel in plan.channels:
        if channel.scheme not in SCHEMES:
            raise UserError(
                f"channel {channel.name} is normalised by {channel.scheme}, which nnU-Net has not", "such a model cannot be exported"
            )


def _write_fold(bundle: Bundle, configuration: Configuration, fold: int, folder: Path) -> None:
    folder.mkdir()
    names = reference_names(configuration.architecture)
    tensors = bundle.tensors(configuration.name, fold)
    state = with_doubles({theirs: tensors[ours] for ours, theirs in names.items()})
    axes = configuration.inference.mirror_axes
    facts = {
        "mirror_axes": [axis - 1 for axis in axes] if configuration.dimensions == 2 else list(axes),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration.name},
    }
    with TemporaryDirectory() as scratch:
        save_tensors(Path(scratch) / "weights.safetensors", state)
        (Path(scratch) / "facts.json").write_text(json.dumps(facts))
        command = [sys.executable, "-I", str(CHILD), *(str(Path(scratch) / name) for name in ("weights.safetensors", "facts.json"))]
        done = subprocess.run(
            [*command, str((folder / "checkpoint_final.pth").resolve())], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    if done.returncode:
        raise UserError(
            "the checkpoint could not be written: " + (done.stderr.strip().splitlines() or [""])[-1], "look at the disk, then try again"
        )


def with_doubles(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """nnU-Net registers each block's layers twice, and the encoder a second time in the decoder."""
    doubled: dict[str, Tensor] = {}
    for name, value in state.items():
        doubled[name] = value
        for kind, number in ((".conv.", 0), (".norm.", 1)):
            if kind in name:
                doubled[name.replace(kind, f".all_modules.{number}.")] = value
    return doubled | {f"decoder.{name}": value for name, value in doubled.items() if name.startswith("encoder.")}
