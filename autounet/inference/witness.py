"""Who looks on while a case is predicted: what the networks expect of their own mask, what they say of some voxels, and masks of teams.

Everything is taken from the blocks of probabilities as they pass by, so nothing of the size of all probabilities ever exists.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.inference.grids import AxisBlock
from autounet.inference.votes_to_labels import Decision
from autounet.metrics.opinions import PICKED, Expected, Sample
from autounet.rng import generator
from planners.fingerprint import Triple
from planners.labels import Labels

LOOKED_AT = 2**25  # probabilities of one case; more than these say nothing new of a whole mask
DRAWN = 4 * PICKED  # voxels, of which those are kept that were seen
AROUND = 0.25  # of the structures' box, on each side

At = Callable[[NDArray[Any]], NDArray[Any]]


class Witness(Protocol):
    """Sees blocks of probabilities, one a configuration, on the native grid."""

    def begin(self, rows_yx: Triple, heads: int) -> None:
        """How much there will be."""
        ...

    def offset(self, start: int) -> int:
        """How many rows from here the next one lies that is wanted."""
        ...

    @property
    def stride(self) -> int:
        """Every so many rows are wanted."""
        ...

    def see(self, at: At, shares: Sequence[Tensor]) -> None:
        """Probabilities (k, rows, y, x) of each configuration; `at` cuts the same block out of an array on the stored grid."""
        ...


class Passing(Protocol):
    """An export of one or more sweeps."""

    exported: Sequence[Any]
    decision: Decision
    blocks: list[tuple[tuple[AxisBlock, AxisBlock], ...]]

    def view(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The native grid of a stored array, the sweep axis first."""
        ...


def show(witness: Witness, export: Passing, mixed: Sequence[Tensor], rows: slice) -> None:
    """Let the witness see these native rows, as far as it wants them; `mixed` are their sums, one a sweep."""
    if rows.start == 0:
        last_y, last_x = export.blocks[-1][0]
        witness.begin((export.exported[0].rows.size_out, last_y.out.stop, last_x.out.stop), export.decision.heads)
    first, step = witness.offset(rows.start), witness.stride
    seen = slice(rows.start + first, rows.stop, step)
    if seen.start >= seen.stop:
        return
    for block in export.blocks:
        y, x = block[0]
        shares = []
        for exported, sums, (of_y, of_x) in zip(export.exported, mixed, block, strict=True):
            native = exported.native(sums[:, first::step], of_y, of_x)
            shares.append(export.decision.probabilities(native[: export.decision.heads]))
        out = (seen, y.out, x.out)
        witness.see(lambda stored, out=out: export.view(stored)[(..., *out)], shares)  # type: ignore[misc]


class Onlooker:
    """Expects a Dice of the mask that these weights give, and remembers what was said of the picked voxels."""

    def __init__(self, decision: Decision, weights: Sequence[float] = (1.0,), picks: "Picks | None" = None) -> None:
        self.decision, self.weights, self.picks = decision, [w / sum(weights) for w in weights], picks
        self.stride = 1
        self.sums_k3 = torch.zeros(decision.heads, 3, dtype=torch.float64)

    def begin(self, rows_yx: Triple, heads: int) -> None:
        """A large image is looked at in some of its rows."""
        self.stride = max(1, ceil(rows_yx[0] * rows_yx[1] * rows_yx[2] * heads / LOOKED_AT))

    def offset(self, start: int) -> int:
        """To the next row that is a multiple of the stride."""
        return -start % self.stride

    def see(self, at: At, shares: Sequence[Tensor]) -> None:
        """Add a block."""
        mixed = mix(shares, self.weights)
        self.sums_k3 += expected_sums(mixed, self.decision).cpu()
        if self.picks is not None:
            self.picks.take(at, [mixed])

    @property
    def expected(self) -> tuple[Expected, ...]:
        """Of each target."""
        return expected_of(self.sums_k3, self.decision)


class Jury:
    """The masks that several weightings of the same configurations would give, in one pass."""

    def __init__(self, decision: Decision, weightings: Sequence[Sequence[float]], shape_zyx: Triple, picks: "Picks | None") -> None:
        self.decision, self.picks, self.stride = decision, picks, 1
        self.weightings = [[w / sum(weights) for w in weights] for weights in weightings]
        kind = np.uint8 if max(decision.heads, *decision.paint, 0) < 256 else np.uint16
        self.labels_zyx = [np.zeros(shape_zyx, kind) for _ in weightings]
        self.sums_k3 = [torch.zeros(decision.heads, 3, dtype=torch.float64) for _ in weightings]

    def begin(self, rows_yx: Triple, heads: int) -> None:
        """Masks need every row."""

    def offset(self, start: int) -> int:
        """None is left out."""
        return 0

    def see(self, at: At, shares: Sequence[Tensor]) -> None:
        """Decide a block for every weighting."""
        for weights, label, sums in zip(self.weightings, self.labels_zyx, self.sums_k3, strict=True):
            mixed = mix(shares, weights)
            at(label)[...] = self.decision.of_probabilities(mixed).cpu().numpy()
            sums += expected_sums(mixed, self.decision).cpu()
        if self.picks is not None:
            self.picks.take(at, shares)

    def expected(self, index: int) -> tuple[Expected, ...]:
        """Of each target, for one weighting."""
        return expected_of(self.sums_k3[index], self.decision)


class Picks:
    """Voxels drawn evenly from the box around the structures of the truth (class numbers; the ignored are left out)."""

    def __init__(self, truth_zyx: NDArray[Any], labels: Labels, seed: int) -> None:
        z, y, x = truth_zyx.shape
        box = _around(truth_zyx, labels)
        rng = generator(seed, "voxels to be calibrated on", z, y, x)
        places = np.stack([rng.integers(low, high, DRAWN) for low, high in box])
        flat = np.unique(np.ravel_multi_index(tuple(places), truth_zyx.shape))
        values = truth_zyx.ravel()[flat]
        flat = flat[values != labels.ignore_index] if labels.ignore_index is not None else flat
        flat = rng.permutation(flat)
        self.number_zyx = np.zeros(truth_zyx.shape, np.uint16)
        self.number_zyx.ravel()[flat] = np.arange(1, len(flat) + 1)
        self.truth = truth_zyx.ravel()[flat]
        self.said: dict[int, list[tuple[float, ...]]] = {}  # by voxel: the probabilities of each configuration

    def take(self, at: At, shares: Sequence[Tensor]) -> None:
        """Those that lie in this block."""
        view = at(self.number_zyx)
        inside = np.nonzero(view)
        if not len(inside[0]):
            return
        index = [torch.from_numpy(i) for i in inside]
        of_each = [one[:, index[0].to(one.device), index[1].to(one.device), index[2].to(one.device)].T.cpu().numpy() for one in shares]
        for row, number in enumerate(view[inside]):
            self.said[int(number) - 1] = [tuple(float(f"{v:.5g}") for v in one[row]) for one in of_each]

    def sample(self, configuration: int = 0) -> Sample:
        """What one configuration said."""
        seen = sorted(self.said)[:PICKED]
        return Sample(truth=tuple(int(self.truth[i]) for i in seen), shares=tuple(self.said[i][configuration] for i in seen))


def mix(shares: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of probabilities."""
    if len(shares) == 1:
        return shares[0]
    mixed = shares[0] * weights[0]
    for one, weight in zip(shares[1:], weights[1:], strict=True):
        if weight:
            mixed += one * weight
    return mixed


def expected_sums(shares_kn: Tensor, decision: Decision) -> Tensor:
    """Per head: voxels expected in both mask and truth, in the mask, and in the truth."""
    flat = shares_kn.flatten(1)
    if not decision.softmax:
        on = flat > 0.5
        return torch.stack([(flat * on).sum(1), on.sum(1).to(flat.dtype), flat.sum(1)], 1).double()
    highest, winner = flat.max(0)
    heads = len(flat)
    both = torch.bincount(winner, highest, minlength=heads)
    predicted = torch.bincount(winner, minlength=heads)
    return torch.stack([both.double(), predicted.double(), flat.sum(1).double()], 1)


def expected_of(sums_k3: Tensor, decision: Decision) -> tuple[Expected, ...]:
    """Heads that are targets: all regions, or all classes but the background."""
    rows = sums_k3[0 if not decision.softmax else 1 :].tolist()
    return tuple(Expected(both=round(both, 3), predicted=round(predicted, 3), true=round(true, 3)) for both, predicted, true in rows)


def _around(truth_zyx: NDArray[Any], labels: Labels) -> list[tuple[int, int]]:
    shown = truth_zyx > 0 if labels.ignore_index is None else (truth_zyx > 0) & (truth_zyx != labels.ignore_index)
    box = []
    for axis in range(3):
        size = truth_zyx.shape[axis]
        seen = np.flatnonzero(shown.any(tuple(a for a in range(3) if a != axis)))
        if not len(seen):
            return [(0, edge) for edge in truth_zyx.shape]
        margin = max(1, ceil(AROUND * (seen[-1] + 1 - seen[0])))
        box.append((max(0, int(seen[0]) - margin), min(size, int(seen[-1]) + 1 + margin)))
    return box
