"""What a run may use: the machine as it is, and the budget the user sets."""

from dataclasses import dataclass
from typing import Literal

from planners.errors import UserError

Precision = Literal["float32", "bfloat16", "float16"]
Accelerator = Literal["cpu", "cuda", "mps"]
GiB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine. On a machine without accelerator, training memory is host memory."""

    accelerator: Accelerator
    name: str
    accelerator_bytes: int  # 0 without one
    host_bytes: int
    cores: int
    precisions: tuple[Precision, ...] = ("float32",)
    offset_bytes: int = 0  # context, workspace and allocator slack of this device, once probed

    def __post_init__(self) -> None:
        if self.cores < 1 or self.training_bytes < 1 or self.offset_bytes < 0:
            raise UserError(
                f"{self.name} with {self.cores} cores and {self.training_bytes} bytes for training cannot be", "pass --device cpu"
            )

    @property
    def training_bytes(self) -> int:
        """Memory in which a training step has to fit."""
        return self.accelerator_bytes if self.accelerator != "cpu" else self.host_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the user allows. None means: decide yourself."""

    memory_bytes: int | None = None
    training_seconds: float | None = None  # over all folds and configurations
    target: Accelerator | None = None  # where the model will predict
    folds: int = 5

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise UserError(f"a memory budget of {self.memory_bytes} bytes is none", "pass for example --gpu-memory 8GB")
        if self.folds < 1:
            raise UserError(f"{self.folds} folds are none", "plan for at least 1")
        if self.training_seconds is not None and self.training_seconds <= 0:
            raise UserError(f"a time budget of {self.training_seconds} s is none", "pass for example --time 4h")
