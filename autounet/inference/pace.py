"""How long a case will take: of its networks a small tile is timed before the first case, then cases tell."""

from dataclasses import replace
from math import prod
from statistics import median
from time import perf_counter

import torch

from autounet.inference.budget import FORWARD_SHARE
from autounet.inference.ensemble import Ensemble, Options
from autounet.inference.forward import Voters, device_of
from autounet.inference.load import channels_in
from autounet.inference.outlook import Outlook
from autounet.inference.predict import torch_threads
from autounet.rng import generator
from planners.fingerprint import Triple
from planners.parameters import step_flops
from planners.plan import Configuration

CASE_SECONDS, VOXEL_SECONDS = 0.1, 7e-8  # beside the networks, of one core; docs/benchmarks.md, "the rest"
COARSEST = 4  # voxels at a network's lowest stage from which half a patch is timed
TIMED, TIMED_SECONDS = 3, 0.3  # so often, or so long


class Pace:
    """Seconds of a case: from a tile of noise, and then from what cases took."""

    def __init__(self, ensemble: Ensemble, options: Options) -> None:
        self._ensemble, self._options = ensemble, options
        self._rates: dict[str, float] = {}  # operations a second, of one thread or of the accelerator
        self._foreseen = self._taken = 0.0

    def learn(self, outlook: Outlook, threads: int, seconds: float) -> None:
        """A case took so long."""
        self._foreseen, self._taken = self._foreseen + self._plain(outlook, threads), self._taken + seconds

    def seconds(self, outlook: Outlook, threads: int) -> float:
        """How long a case will take."""
        return self._plain(outlook, threads) * (self._taken / self._foreseen if self._foreseen else 1.0)

    def _plain(self, outlook: Outlook, threads: int) -> float:
        """As foreseen before any case told better."""
        if outlook.heaviest not in self._rates:
            self._rates[outlook.heaviest] = timed_rate(self._ensemble, outlook.heaviest, self._options)
        at_once = min(threads, outlook.asked) if _on_processor(self._ensemble, outlook.heaviest) else 1
        return outlook.operations / self._rates[outlook.heaviest] / at_once + CASE_SECONDS + VOXEL_SECONDS * outlook.voxels / threads


def timed_rate(ensemble: Ensemble, name: str, options: Options) -> float:
    """Operations a second that a network of this configuration does here, on one thread of a processor or on the accelerator."""
    configuration, heads = ensemble.plan.configuration(name), ensemble.plan.labels.heads
    members, channels = ensemble.members[name][:1], channels_in(ensemble.plan, configuration)
    settings = replace(options.settings(configuration), mirror_axes=(), uncertainty=False)
    processor = _on_processor(ensemble, name)
    # OpenVINO compiles for a size, and an accelerator is not filled by less.
    edges = half_patch(configuration) if processor and options.engine is None else configuration.patch_zyx
    voters = Voters(members, settings, 1, heads)
    tile = torch.from_numpy(generator(0, "pace").standard_normal((1, channels, *edges)).astype("float32"))
    seconds: list[float] = []
    with torch_threads(1 if processor else None):
        voters.vote(tile).mean(0).sum().item()  # the first time kernels are chosen
        while len(seconds) < TIMED and sum(seconds) < TIMED_SECONDS:
            began = perf_counter()
            voters.vote(tile).mean(0).sum().item()  # an accelerator is waited for
            seconds.append(perf_counter() - began)
    return FORWARD_SHARE * step_flops(configuration.architecture, edges, channels, voters.channels) / max(median(seconds), 1e-6)


def half_patch(configuration: Configuration) -> Triple:
    """About half a patch along each axis, of a size that the network's strides allow."""
    edges = []
    for axis, edge in enumerate(configuration.patch_zyx):
        step = prod(stride[axis] for stride in configuration.architecture.strides_zyx)
        edges.append(-(-edge // (2 * step)) * step if edge // step >= COARSEST else edge)
    z, y, x = edges
    return z, y, x


def _on_processor(ensemble: Ensemble, name: str) -> bool:
    return device_of(ensemble.members[name][0]).type == "cpu"
