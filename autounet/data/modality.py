"""What kind of image a channel is: said by the user, told by a name, or guessed from its numbers, with how sure that is."""

from collections.abc import Sequence

import numpy as np

from autounet.data.dataset import ChannelSpec
from autounet.data.record import ChannelRecord
from planners.fingerprint import Modality

AIR_HU = -900.0  # at most; scanners pad with even lower values
PADDING_HU = -33_000.0
SURE_NAME = 0.9
SURE_HU = 0.95


def guess(spec: ChannelSpec, records: Sequence[ChannelRecord], dimensions: int) -> tuple[Modality, float]:
    """Modality and confidence, 0 to 1."""
    if spec.said_by_user:
        return spec.modality, 1.0
    if spec.modality == "rgb":
        return "rgb", 1.0
    hounsfield = _hounsfield(records) if dimensions == 3 or spec.modality in ("ct", "unknown") else 0.0
    if spec.modality == "ct":
        # A name alone may lie (windowed exports, masks): without Hounsfield units clipping by them makes no sense.
        return ("ct", max(SURE_NAME, hounsfield)) if hounsfield > 0.5 else ("ct", 0.5)
    if spec.modality != "unknown":
        return spec.modality, SURE_NAME if hounsfield < 0.5 else 0.4
    if hounsfield > 0.5:
        return "ct", hounsfield
    return "unknown", 0.0


def _hounsfield(records: Sequence[ChannelRecord]) -> float:
    """How many of the cases look like Hounsfield units: whole numbers, air near -1000, soft tissue around 0 to 100, bone above."""
    votes = []
    for record in records:
        values, shares = record.everywhere.points()
        if not values.size:
            continue
        cumulated = np.cumsum(shares)
        air = float(shares[(values <= AIR_HU) & (values >= PADDING_HU)].sum())
        tissue = float(shares[(values >= -200) & (values <= 300)].sum())
        top = float(values[min(int(np.searchsorted(cumulated, 0.999)), values.size - 1)])
        low_enough = PADDING_HU <= record.everywhere.low <= AIR_HU
        votes.append(
            low_enough and tissue > 0.05 and top < 32_000 and (air > 0.001 or record.everywhere.low >= -1100) and record.whole_numbers
        )
    return SURE_HU * float(np.mean(votes)) if votes else 0.0
