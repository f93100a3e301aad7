"""The reference's residual encoders in three sizes: the same rules, other numbers."""

from planners.fingerprint import Fingerprint
from planners.hardware import Budget, Hardware
from planners.nnunet import Preset, plan_preset
from planners.plan import Plan
from planners.reference_size import Blueprint

_RESIDUAL = Blueprint("residual", 2)
M = Preset(name="nnunet_resenc_m", blueprint=_RESIDUAL, elements_2d=135e6, elements_3d=680e6, covered=1.0, smallest_batch_fits=False)
L = Preset(
    name="nnunet_resenc_l",
    blueprint=_RESIDUAL,
    gigabytes=24,
    elements_2d=380e6,
    elements_3d=2.1e9,
    covered=1.0,
    smallest_batch_fits=False,
)
XL = Preset(
    name="nnunet_resenc_xl",
    blueprint=_RESIDUAL,
    gigabytes=40,
    elements_2d=560e6,
    elements_3d=3.6e9,
    covered=1.0,
    smallest_batch_fits=False,
)


def plan_resenc_m(fingerprint: Fingerprint, hardware: Hardware, budget: Budget) -> Plan:
    """About 9 GB."""
    return plan_preset(fingerprint, hardware, budget, M)


def plan_resenc_l(fingerprint: Fingerprint, hardware: Hardware, budget: Budget) -> Plan:
    """About 24 GB."""
    return plan_preset(fingerprint, hardware, budget, L)


def plan_resenc_xl(fingerprint: Fingerprint, hardware: Hardware, budget: Budget) -> Plan:
    """About 40 GB."""
    return plan_preset(fingerprint, hardware, budget, XL)
