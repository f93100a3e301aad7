"""How a stored volume became the array the network sees, and the way back, exactly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.orientation import Orientation, orient
from planners.fingerprint import Triple, TripleMm

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Stored grid → oriented → axes ordered ("working") → cropped → network grid."""

    orientation: Orientation
    axis_order: Triple
    stored_shape_zyx: Triple
    box: tuple[Span, Span, Span]  # (start, stop) of the crop on the working axes
    cropped_shape_zyx: Triple
    cropped_spacing_zyx_mm: TripleMm
    shape_zyx: Triple  # the network grid
    spacing_zyx_mm: TripleMm
    thick_axis: int | None  # the working axis that is resampled apart from the other two

    def cropped_view(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The crop of a stored array (last three axes) on working axes, as a view: writing to it writes to `stored`."""
        z, y, x = (slice(*span) for span in self.box)
        return working_view(stored, self.orientation, self.axis_order)[..., z, y, x]

    def to_stored(self, cropped_zyx: NDArray[Any]) -> NDArray[Any]:
        """The stored grid, background outside the crop, holding what lies on the cropped native grid."""
        assert cropped_zyx.shape == self.cropped_shape_zyx, f"{cropped_zyx.shape} voxels are not {self.cropped_shape_zyx}"
        stored = np.zeros(self.stored_shape_zyx, cropped_zyx.dtype)
        self.cropped_view(stored)[...] = cropped_zyx
        return stored


def working_view(stored: NDArray[Any], orientation: Orientation, axis_order: Triple) -> NDArray[Any]:
    """The last three axes oriented and put in working order, as a view."""
    lead = stored.ndim - 3
    view: NDArray[Any] = orient(stored, orientation).transpose(*range(lead), *(lead + axis for axis in axis_order))
    assert np.shares_memory(view, stored) or stored.size == 0, "orientation copied; writing through the view would be lost"
    return view
