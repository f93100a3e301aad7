"""Networks run by OpenVINO on a processor: the same weights and tiles, other convolutions. Optional, and only when asked for."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from autounet.inference.openvino_graph import Span, graph_of
from autounet.inference.processor import computed_in
from autounet.networks.unet import UNet
from planners.errors import UserError
from planners.hardware import Precision

TELEMETRY = "openvino_telemetry"
HINTS = {"float32": "f32", "bfloat16": "bf16"}
SHARE = {"float32": 0.7, "bfloat16": 0.35}  # of the memory that torch's maps of a patch take; measured 0.27 in bfloat16


class OpenVino:
    """Networks compiled once each and tile shape. Thread-safe; handed down with the options of a call."""

    def __init__(self, threads: int, ranges: Mapping[nn.Module, Span] | None = None) -> None:
        self._openvino = quiet_openvino()
        self._core = self._openvino.Core()
        self._lock = Lock()
        self._compiled: dict[tuple[object, ...], _Compiled] = {}
        self._threads = threads
        self._ranges = dict(ranges or {})  # convolutions in 8 bits

    @property
    def version(self) -> str:
        """Of the library, without its build."""
        return str(self._openvino.__version__).partition("-")[0]

    def twin(self, network: UNet, precision: Precision) -> "Twin":
        """The network, as this engine runs it."""
        return Twin(self, network, self._precision(precision))

    def compiled(self, network: UNet, shape: tuple[int, ...], precision: Precision) -> "_Compiled":
        """For tiles of this shape. The network is compiled at its first; a network without its last layer is another one."""
        final = network.decoder.heads[-1]
        key = (id(network.encoder), id(final) if isinstance(final, nn.Conv2d | nn.Conv3d) else None, shape, precision)
        with self._lock:
            if key not in self._compiled:
                graph = graph_of(self._openvino, network, shape, self._ranges)
                self._compiled[key] = _Compiled(self._openvino, self._core.compile_model(graph, "CPU", self._wishes(precision)), network)
            return self._compiled[key]

    def maps_share(self, members: int, precision: Precision) -> float:
        """Memory for a patch against torch's: every member keeps its maps, but far fewer of them."""
        return members * SHARE[self._precision(precision)]

    def release(self) -> None:
        """Give the memory of all maps back; the next tile takes it again."""
        with self._lock:
            for one in self._compiled.values():
                one.release()

    def _precision(self, precision: Precision) -> Precision:
        """What is not computed in 8 bits beside what is, is in the fastest type there is."""
        return computed_in("bfloat16" if self._ranges else precision)

    def _wishes(self, precision: Precision) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": self._threads,  # a tile a thread, as with torch
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,  # cores are shared with other programs
            "ENABLE_HYPER_THREADING": True,  # the number of threads was chosen by whoever asks
        }


class Twin(nn.Module):
    """A network of ours that OpenVINO runs: one tile after the other, so that one compilation serves batches of any size."""

    def __init__(self, engine: OpenVino, network: UNet, precision: Precision) -> None:
        super().__init__()
        self._engine, self._network, self._precision = engine, [network], precision  # in a list: no parameters of this module

    def compiled(self, shape: tuple[int, ...]) -> "_Compiled":
        """For one tile of this shape (c, [z,] y, x)."""
        return self._engine.compiled(self._network[0], (1, *shape), self._precision)

    def forward(self, image: Tensor) -> Tensor:
        """(b, c, [z,] y, x) to logits in float32."""
        compiled = self.compiled(tuple(image.shape[1:]))
        answers = [compiled(tile) for tile in image.float().split(1)]
        return torch.cat(answers) if len(answers) > 1 else answers[0]


class _Compiled:
    """A compiled network, and the requests through which threads ask it."""

    def __init__(self, openvino: Any, model: Any, network: UNet) -> None:
        self._openvino, self._model = openvino, model
        self._network = network  # kept: its place in memory is its name
        self._shape = tuple(model.output(0).shape)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, tile: Tensor) -> Tensor:
        """Logits of one tile; arrays are shared with the library, nothing is copied."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._model.create_infer_request()
        answer, tile = torch.empty(self._shape), tile.contiguous()
        request.set_input_tensor(self._openvino.Tensor(tile.numpy(), shared_memory=True))
        request.set_output_tensor(self._openvino.Tensor(answer.numpy(), shared_memory=True))
        request.start_async()
        request.wait()
        self._idle.put(request)
        return answer

    def release(self) -> None:
        self._model.release_memory()


def quiet_openvino() -> Any:
    """The package, without the part that reports every import of it to its maker over the network."""
    if find_spec("openvino") is None:
        raise UserError("the package openvino is not installed", "type: pip install 'autounet[openvino]', or leave out --engine")
    with _absent(TELEMETRY):
        return import_module("openvino")


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Whoever imports this package meanwhile is told that it is not installed."""
    before = {known: sys.modules.pop(known) for known in list(sys.modules) if known.split(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)
