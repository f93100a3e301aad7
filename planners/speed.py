"""How fast a machine trains: what was measured, in floating-point operations a second of whole training steps."""

from planners.hardware import Hardware, Precision

# A processor also augments, reads and validates meanwhile: about half of what its steps alone reach in bfloat16.
_CPU_CORE: dict[Precision, float] = {"bfloat16": 120e9, "float32": 40e9, "float16": 40e9}
_CUDA = (  # from public epoch times; the first name that is part of the device's counts
    ("H200", 90e12),
    ("H100", 80e12),
    ("A100", 45e12),
    ("L40", 40e12),
    ("4090", 40e12),
    ("A6000", 25e12),
    ("V100", 25e12),
    ("A40", 30e12),
    ("RTX 6000", 20e12),
    ("2080", 17e12),
    ("T4", 8e12),
)
_OTHER_CUDA, _MPS = 15e12, 2e12


def operations_per_second(hardware: Hardware, precision: Precision) -> float:
    """Of a training step as a whole."""
    if hardware.accelerator == "cpu":
        return _CPU_CORE[precision] * hardware.cores
    if hardware.accelerator == "mps":
        return _MPS
    return next((rate for name, rate in _CUDA if name in hardware.name), _OTHER_CUDA)
