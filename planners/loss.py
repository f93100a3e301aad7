"""Dice and cross-entropy at every resolution of the decoder."""

from planners.plan import Loss


def level_weights(stages: int) -> tuple[float, ...]:
    """Halved from level to level, the coarsest left out where there is another one; sum 1.

    The reference leaves it out always, so that its two-stage networks divide 0 by 0.
    """
    levels = max(1, stages - 1)
    raw = [0.5**level for level in range(levels)]
    if levels > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def reference_level_weights(stages: int) -> tuple[float, ...]:
    """What the reference multiplies with; for two stages the 0 that it then divides by itself."""
    return (0.0,) if stages == 2 else level_weights(stages)


def loss(stages: int, *, batch_dice: bool) -> Loss:
    """The compound that held best in comparisons of twenty losses."""
    return Loss(batch_dice=batch_dice, level_weights=level_weights(stages))
