"""AutoUNet: a folder of medical images and masks becomes a segmentation model, by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["load", "open_dataset", "read_image"]

if TYPE_CHECKING:
    from autounet.data.open import open_dataset
    from autounet.images.read import read_image
    from autounet.model import load


def __getattr__(name: str) -> object:
    """The library's few names, imported when they are first used: `import autounet` costs nothing."""
    if name == "open_dataset":
        from autounet.data.open import open_dataset

        return open_dataset
    if name == "read_image":
        from autounet.images.read import read_image

        return read_image
    if name == "load":
        from autounet.model import load

        return load
    raise AttributeError(f"module 'autounet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
