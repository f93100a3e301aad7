"""What prediction is told, and what it gives back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from planners.hardware import Precision
from planners.labels import Labels
from planners.plan import Configuration

if TYPE_CHECKING:
    from torch import nn

    from autounet.inference.openvino_engine import OpenVino


@dataclass(frozen=True, slots=True)
class Member:
    """One trained network in eval mode, and the configuration it was trained for."""

    network: "nn.Module"
    configuration: Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """How the networks are slid over the image, and what is kept beside the labels."""

    step_fraction: float = 0.5
    sigma_fraction: float = 0.125
    peak: Literal["middle", "nnunet"] = "middle"
    mirror_axes: tuple[int, ...] = ()
    precision: Precision = "float32"
    skip_air: bool = False
    batch_tiles: int | None = None  # None: as many as memory and profit suggest
    probabilities: bool = False
    uncertainty: bool = False
    engine: "OpenVino | None" = None  # None: torch runs the networks

    @classmethod
    def of(cls, configuration: Configuration) -> "InferenceSettings":
        """As the plan says."""
        wanted = configuration.inference
        return cls(
            step_fraction=wanted.step_fraction,
            sigma_fraction=wanted.sigma_fraction,
            peak=wanted.peak,
            mirror_axes=wanted.mirror_axes,
            precision=wanted.precision,
            skip_air=wanted.skip_air,
        )

    def maps_share(self, members: int) -> float:
        """Memory that so many networks hold for a patch, against what torch holds."""
        return 1.0 if self.engine is None else self.engine.maps_share(members, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the networks say of one case, on the stored grid."""

    label_zyx: NDArray[Any]  # class indices
    probabilities_kzyx: NDArray[np.float32] | None = None  # one map a head
    entropy_zyx: NDArray[np.float32] | None = None  # nats, of the mean of all members
    disagreement_zyx: NDArray[np.float32] | None = None  # nats: how far the members' probabilities lie apart


def label_values(label_zyx: NDArray[Any], labels: Labels) -> NDArray[Any]:
    """Class indices as the values the user's label maps use, in the smallest type that holds them."""
    values = [c.value for c in labels.classes]
    if values == list(range(len(values))):
        return label_zyx
    kind = (
        np.min_scalar_type(max(values))
        if min(values) >= 0
        else np.result_type(np.min_scalar_type(min(values)), np.min_scalar_type(max(values)))
    )
    table: NDArray[Any] = np.asarray(values, kind)
    named: NDArray[Any] = table[label_zyx]
    return named
