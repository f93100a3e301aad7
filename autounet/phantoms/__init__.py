"""Phantoms: made images whose truth is exact by construction; for the demo, the tests and the benchmarks."""

from autounet.phantoms.catalogue import KINDS, Phantom, phantom
from autounet.phantoms.folders import LAYOUTS, make

__all__ = ["KINDS", "LAYOUTS", "Phantom", "make", "phantom"]
