"""Plans, networks and bundles small enough for a test, and networks whose answer is known by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autounet.arrays.frame import Frame
from autounet.images.orientation import PICTURE
from autounet.inference.settings import Member
from autounet.networks import build
from autounet.store.bundle import Card, Contents, MemberFile, write_bundle
from autounet.store.selection import Chosen, Selection
from autounet.store.weights import save_tensors
from planners.fingerprint import CaseSize, ChannelSeen, Fingerprint, Intensities, Triple
from planners.labels import LabelClass, Labels, Region
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Inference, Plan, Resampling


class Identity(torch.nn.Module):
    """The perfect network: it answers what it is shown."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Recorder(torch.nn.Module):
    """Answers what it is shown, and counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.asked += len(image)
        return image


def architecture(dimensions: int = 3, features: tuple[int, ...] = (4, 8), kind: str = "plain") -> Architecture:
    stages = len(features)
    step = (1, 2, 2) if dimensions == 2 else (2, 2, 2)
    return Architecture(
        kind=kind,  # type: ignore[arg-type]
        dimensions=dimensions,  # type: ignore[arg-type]
        features=features,
        strides_zyx=((1, 1, 1), *(step,) * (stages - 1)),
        kernels_zyx=((1, 3, 3) if dimensions == 2 else (3, 3, 3),) * stages,
        encoder_blocks=(1,) * stages,
        decoder_convolutions=(1,) * (stages - 1),
    )


def configuration(patch_zyx: Triple, name: str = "3d_fullres", **changes: object) -> Configuration:
    dimensions = 2 if patch_zyx[0] == 1 else 3
    axes = (1, 2) if dimensions == 2 else (0, 1, 2)
    plain = Configuration(
        name=name,
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=patch_zyx,
        patch_zyx=patch_zyx,
        batch_size=2,
        architecture=architecture(dimensions),
        augmentation=Augmentation(steps=()),
        inference=Inference(mirror_axes=axes),
        resampling=Resampling(thick_axis="never"),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def plan_of(*configurations: Configuration, classes: int = 3, channels: int = 1, labels: Labels | None = None) -> Plan:
    labels = labels or Labels(classes=tuple(LabelClass(name="background" if n == 0 else f"class_{n}", value=n) for n in range(classes)))
    return Plan(
        planner="test",
        dataset="tiny",
        dimensions=3 if any(c.dimensions == 3 for c in configurations) else 2,
        channels=tuple(ChannelPlan(name=f"channel_{n}", modality="mr", scheme="none") for n in range(channels)),
        labels=labels,
        configurations=configurations,
        train=tuple(c.name for c in configurations),
    )


def regions() -> Labels:
    """A whole made of values 1 and 2, and in it a core of value 2."""
    return Labels(
        classes=(LabelClass(name="background", value=0), LabelClass(name="rim", value=1), LabelClass(name="core", value=2)),
        regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="inner", values=(2,), paint=2)),
    )


def frame_of(network_zyx: Triple, native_zyx: Triple, stored_zyx: Triple | None = None) -> Frame:
    """A crop in the corner of a stored grid that is not turned."""
    return Frame(
        orientation=PICTURE,
        axis_order=(0, 1, 2),
        stored_shape_zyx=stored_zyx or native_zyx,
        box=((0, native_zyx[0]), (0, native_zyx[1]), (0, native_zyx[2])),
        cropped_shape_zyx=native_zyx,
        cropped_spacing_zyx_mm=(1.0, 1.0, 1.0),
        shape_zyx=network_zyx,
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        thick_axis=None,
    )


def fingerprint_of(plan: Plan, case: str = "case") -> Fingerprint:
    around = Intensities(mean=0.0, median=0.0, std=1.0, minimum=-5.0, maximum=5.0, percentile_00_5=-3.0, percentile_99_5=3.0)
    return Fingerprint(
        dataset="tiny",
        dimensions=plan.dimensions,
        cases=(CaseSize(case=case, shape_zyx=(20, 24, 28) if plan.dimensions == 3 else (1, 24, 28), spacing_zyx_mm=(1.0, 1.0, 1.0)),),
        channels=tuple(ChannelSeen(name=c.name, modality=c.modality, confidence=1.0, foreground=around) for c in plan.channels),
        labels=plan.labels,
    )


def network_of(plan: Plan, name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    chosen = plan.configuration(name)
    channels = len(plan.channels) + (len(plan.labels.foreground) if chosen.previous else 0)
    return build(chosen.architecture, channels, plan.labels.heads).eval()


def member(network: torch.nn.Module, chosen: Configuration) -> Member:
    return Member(network.eval(), chosen)


def tiny_bundle(folder: Path, plan: Plan, folds: tuple[int, ...] = (0,), case: str = "case") -> Path:
    """A model with random weights of all configurations that are trained."""
    files = []
    for name in [c.name for c in plan.configurations]:
        for fold in folds:
            path = folder / f"{name}_{fold}.safetensors"
            save_tensors(path, network_of(plan, name, fold).state_dict())
            files.append(MemberFile(name, fold, path))
    contents = Contents(
        plan=plan,
        fingerprint=fingerprint_of(plan, case),
        selection=Selection(members=(Chosen(configuration=plan.train[-1], folds=folds),), why="the only one"),
        card=Card(name="tiny"),
        members=files,
    )
    path = folder / "tiny.aunet"
    write_bundle(path, contents)
    return path


def smooth(shape: tuple[int, ...], seed: int, sigma: float = 2.0) -> np.ndarray:
    """Smooth noise, float32, channel by channel."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    return np.stack([ndimage.gaussian_filter(rng.standard_normal(shape[1:]), sigma) * 10 for _ in range(shape[0])]).astype(np.float32)
