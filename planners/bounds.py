"""What numbers of a plan may be, whoever wrote them."""

from planners.errors import UserError


def share(what: str, value: float) -> None:
    """A part of a whole, and no more."""
    if not 0 <= value <= 1:
        raise UserError(f"{what} is {value}", "write a number from 0 to 1")


def mirrored_axes(axes: tuple[int, ...]) -> None:
    """Working axes, each once."""
    if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
        raise UserError(f"the axes {axes} cannot be mirrored", "use each of 0, 1, 2 at most once")
