"""An accelerator made of nothing: torch takes it for a device of its own, and its tensors never mix with the processor's.

What is computed on it is computed by the processor, so numbers can be compared. What would fail on a GPU because it lies in
the wrong place fails here, too: an operation on tensors of two devices, numpy on what was not brought back, a result that was
made on the processor. Copies and waits are counted.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# A GPU takes these from or to the processor, too: copies, and places that are given by numbers of the processor.
BETWEEN = {
    aten.copy_.default,
    aten._copy_from.default,
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
counted: Counter[str] = Counter()


class Far(torch.Tensor):
    """A tensor that says it lies elsewhere; `inner` has its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Far":
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: Far = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=FAR, **about)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: "Far") -> None:
        torch._C.TensorBase.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    def tolist(self) -> Any:
        counted["wait"] += 1
        return self.inner.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


class _Module:
    """What torch asks of a device."""

    def device_count(self) -> int:
        return 1

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _done(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do on the processor what was asked of the device, and say that the results lie there."""
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    far = [one for one in tensors if isinstance(one, Far)]
    if far and func not in BETWEEN and any(one.ndim for one in tensors if not isinstance(one, Far)):
        raise RuntimeError(f"{func} of tensors on two devices")
    if func is aten._local_scalar_dense.default or (func in BETWEEN and 0 < len(far) < len(tensors)):
        counted["wait" if func is aten._local_scalar_dense.default else "copy"] += 1
    if func is aten._copy_from.default:
        return _copied(args[0], args[1])
    where = kwargs.get("device")
    stays = bool(far) if where is None else torch.device(where).type == FAR.type
    if func is aten._to_copy.default and stays != bool(far):
        counted["copy"] += 1
    found = func(*tree_map(_near, tuple(args)), **tree_map(_near, dict(kwargs)))
    if not stays or func is aten._local_scalar_dense.default:
        return found
    known = {id(one.inner): one for one in far}  # what was changed in place is who it was
    return tree_map(lambda leaf: (known[id(leaf)] if id(leaf) in known else Far(leaf)) if isinstance(leaf, torch.Tensor) else leaf, found)


def _copied(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    _near(target).copy_(_near(source))
    return target


def _near(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.inner if isinstance(leaf, Far) else leaf


def _tensor(values: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
    """As torch's own, which cannot make one on a device whose kernels are Python's."""
    made = _made_here(values, **more)
    return made if device is None else made.to(device)


_made_here, torch.tensor = torch.tensor, _tensor
_setup_privateuseone_for_python_backend("far", _Module())
FAR = torch.device("far:0")
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda op, *args, **kwargs: _done(op, args, kwargs), "PrivateUse1")
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # in float32, whatever was asked for
sys.modules["torch.far"] = torch.far  # type: ignore[attr-defined]


def put_everything_there() -> None:
    """Whatever is trained or predicted from now on in this process is on this device, wherever it was meant to be."""
    from autounet.inference import load
    from autounet.training import execution
    from tests import tiny_models

    def placed(network: torch.nn.Module, chosen: Any) -> Any:
        network.register_parameter("somewhere", torch.nn.Parameter(torch.zeros(1)))  # for those that have none
        return here(network.to(FAR), chosen)

    here = tiny_models.member
    tiny_models.member = placed
    load.device_named = lambda device: FAR
    execution._device = lambda device: FAR
