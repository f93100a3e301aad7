"""Left and right: a mirrored image shows a patient who does not exist, when labels know their side."""

from dataclasses import dataclass

from planners.fingerprint import Fingerprint, Triple

_SIDE_WORDS = frozenset(("left", "right", "lt", "rt", "l", "r", "lh", "rh", "links", "rechts", "gauche", "droite", "droit"))
LEFT_RIGHT = 2  # canonical axis x


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """Working axes that may be flipped in training and at prediction, whether labels change sides, and why."""

    training_axes: tuple[int, ...]
    inference_axes: tuple[int, ...]
    swap_sides: bool
    why: str


def mirroring(fingerprint: Fingerprint, order: Triple, dimensions: int) -> Mirroring:
    """All axes of the patch; across a pair of sides labels are exchanged, and a lone side forbids the flip."""
    axes = tuple(range(3))[3 - dimensions :]
    lone = [c.name for c in fingerprint.labels.foreground if sided(c.name) and not _paired(c.name, fingerprint)]
    pairs = [p for p in fingerprint.side_pairs if order.index(p.axis) in axes]
    across = {order.index(p.axis) for p in pairs}
    if lone:
        kept = tuple(axis for axis in axes if axis != order.index(LEFT_RIGHT) and axis not in across)
        why = f"the class {lone[0]} has a side but no partner, so a mirrored patient would carry a wrong label"
        return Mirroring(training_axes=kept, inference_axes=kept, swap_sides=False, why=why)
    kept = tuple(axis for axis in axes if axis not in across)
    if pairs and fingerprint.labels.regions:
        why = f"{pairs[0].left} and {pairs[0].right} are mirror images inside regions, which cannot change sides"
        return Mirroring(training_axes=kept, inference_axes=kept, swap_sides=False, why=why)
    if pairs:
        more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        why = f"{pairs[0].left} and {pairs[0].right}{more} are mirror images: a flip across them exchanges the labels"
        return Mirroring(training_axes=axes, inference_axes=kept, swap_sides=True, why=why)
    return Mirroring(training_axes=axes, inference_axes=axes, swap_sides=False, why="no class knows its side")


def sided(name: str) -> bool:
    """Whether a class is named after a side."""
    words = name.casefold().replace("-", "_").replace(" ", "_").replace(".", "_").split("_")
    return any(word in _SIDE_WORDS for word in words)


def _paired(name: str, fingerprint: Fingerprint) -> bool:
    return any(name in (pair.left, pair.right) for pair in fingerprint.side_pairs)
