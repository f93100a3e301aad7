"""Labels that were stored the wrong way round: no header tells, but the networks that never saw the case do."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.report.looks import Look

ENDS = ("head and feet", "front and back", "left and right")
ENDS_OF_A_PICTURE = ("", "top and bottom", "left and right")
FITS = 0.5  # Dice of any class with its own; less may be chance
BETTER = 0.25  # by so much: most organs fit themselves a little when mirrored


def turned(look: Look) -> str | None:
    """What to look at, when the truth fits the prediction far better mirrored about the middle of the image."""
    if look.truth_zyx is None or look.predicted_zyx is None:
        return None
    as_stored = shared(look.truth_zyx, look.predicted_zyx)
    mirrored = {axis: shared(np.flip(look.truth_zyx, axis), look.predicted_zyx) for axis in range(1 if look.flat else 0, 3)}
    axis = max(mirrored, key=lambda one: mirrored[one])
    if mirrored[axis] < max(FITS, as_stored + BETTER):
        return None
    ends = (ENDS_OF_A_PICTURE if look.flat else ENDS)[axis]
    return (
        f"{look.case}: its label fits the prediction far better with {ends} exchanged (Dice {mirrored[axis]:.2f}, as stored "
        f"{as_stored:.2f}). Look whether the label is the wrong way round."
    )


def shared(truth_zyx: NDArray[Any], predicted_zyx: NDArray[Any]) -> float:
    """Dice of everything that is not background, where only equal values agree."""
    there, found = truth_zyx != 0, predicted_zyx != 0
    both = np.count_nonzero((truth_zyx == predicted_zyx) & there)
    whole = np.count_nonzero(there) + np.count_nonzero(found)
    return 2 * both / whole if whole else 1.0
