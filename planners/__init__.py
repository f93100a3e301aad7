"""Decides. From what was measured and what the machine allows to a complete plan; standard library only."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module

from planners.default import plan_default
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.hardware import Budget, Hardware
from planners.nnunet import plan_nnunet
from planners.plan import Plan
from planners.residual import plan_resenc_l, plan_resenc_m, plan_resenc_xl

Planner = Callable[[Fingerprint, Hardware, Budget], Plan]

PLANNERS: dict[str, Planner] = {
    "default": plan_default,
    "nnunet": plan_nnunet,
    "nnunet_resenc_m": plan_resenc_m,
    "nnunet_resenc_l": plan_resenc_l,
    "nnunet_resenc_xl": plan_resenc_xl,
}


def planner(name: str) -> Planner:
    """One of the table, or package.module:function as the person at the keyboard typed it; never from a file."""
    if name in PLANNERS:
        return PLANNERS[name]
    if ":" in name:
        return _foreign(name)
    near = get_close_matches(name, PLANNERS, n=1, cutoff=0.4)
    known = f"{', '.join(PLANNERS)}, or package.module:function"
    fix = f"did you mean {near[0]}? Choose one of {known}" if near else f"choose one of {known}"
    raise UserError(f"there is no planner {name!r}", fix)


def _foreign(name: str) -> Planner:
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the planner {name} cannot be imported: {error}", "check the name, and that its package is installed here"
        ) from error
    if not callable(found):
        raise UserError(f"{name} is not a function", "name a function that takes a fingerprint, hardware and a budget")
    result: Planner = found
    return result
