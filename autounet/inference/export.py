"""Finished rows of the sweeps, carried to the native grid and decided there, block by block; nothing larger ever exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.arrays.frame import Frame
from autounet.inference.grids import AxisBlock, SweepAxis, axis_blocks
from autounet.inference.settings import Prediction
from autounet.inference.sweep import Sweep
from autounet.inference.votes_to_labels import Decision
from planners.fingerprint import Triple

MIXED_BYTES = 2**26  # logits of a few native rows on the network's plane, all heads


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept beside the labels."""

    probabilities: bool = False
    uncertainty: bool = False


class Exported:
    """One sweep seen from the native grid."""

    def __init__(self, sweep: Sweep, native_zyx: Triple, orders_zyx: Triple, weight: float) -> None:
        self.sweep, self.weight = sweep, weight
        rows, y, x = sweep.order
        shape, device = sweep.source.shape_zyx, sweep.voters.device
        self.rows = SweepAxis(shape[rows], native_zyx[rows], orders_zyx[rows])
        self.convex = max(orders_zyx) <= 1
        self.blocks_y = axis_blocks(shape[y], native_zyx[y], orders_zyx[y], device)
        self.blocks_x = axis_blocks(shape[x], native_zyx[x], orders_zyx[x], device)
        sweep.make_room(self.rows.kept_below)
        self.steps = iter(sweep)

    def advance(self, row: int) -> int:
        """Sweep until the native row can be made; how many native rows can be."""
        while self.rows.ready(self.sweep.finished) <= row:
            next(self.steps)
        return self.rows.ready(self.sweep.finished)

    def mixed(self, start: int, stop: int) -> Tensor:
        """Logits (k, native rows, y, x), interpolated along the sweep axis only."""
        ring, taken = self.sweep.ring, self.rows.taken(start, stop)
        if taken is not None:
            at = torch.from_numpy(taken % ring.depth)
            straight = bool((at[1:] - at[:-1] == 1).all())
            sums = ring.sums_krowyx
            return (sums[:, int(at[0]) : int(at[-1]) + 1] if straight else sums[:, at.to(sums.device)]).float()
        low, weights = self.rows.weights(start, stop)
        mixture = torch.from_numpy(weights).to(ring.sums_krowyx.device)
        mixed: Tensor | None = None
        for piece, own in ring.rows(low, low + weights.shape[1]):
            part = torch.matmul(mixture[:, own], piece.flatten(2).float()).reshape(len(piece), -1, *piece.shape[2:])
            mixed = part if mixed is None else mixed.add_(part)
        assert mixed is not None, "no rows were asked for"
        return mixed

    def logits(self, support: Tensor) -> Tensor:
        """Logits of what was accumulated."""
        late_head = self.sweep.voters.late_head
        return support if late_head is None else late_head.logits(support)

    def release(self, row: int) -> None:
        """Native rows before this one are written."""
        if row < self.rows.size_out:
            self.sweep.ring.release(self.rows.low[row])


class Export:
    """Writes the decisions of one or more sweeps over the same image into arrays on the stored grid."""

    def __init__(self, exported: Sequence[Exported], frame: Frame, decision: Decision, wanted: Wanted) -> None:
        self.exported, self.decision, self.wanted = exported, decision, wanted
        self.order = exported[0].sweep.order
        heads = decision.heads
        self.label = np.zeros(frame.stored_shape_zyx, np.uint8 if max(heads, *decision.paint, 0) < 256 else np.uint16)
        self.probabilities = self._outside(frame, heads) if wanted.probabilities else None
        self.entropy = np.zeros(frame.stored_shape_zyx, np.float32) if wanted.uncertainty else None
        apart = wanted.uncertainty and any(e.sweep.extra for e in exported)
        self.disagreement = np.zeros(frame.stored_shape_zyx, np.float32) if apart else None
        self.frame = frame

    def run(self) -> Prediction:
        """All native rows, in order."""
        rows = self.exported[0].rows.size_out
        done = 0
        while done < rows:
            ready = min(exported.advance(done) for exported in self.exported)
            step = self._rows_at_once()
            for start in range(done, ready, step):
                self._rows(start, min(start + step, ready))
            for exported in self.exported:
                exported.release(ready)
            done = ready
        return Prediction(
            label_zyx=self.label,
            probabilities_kzyx=self.probabilities,
            entropy_zyx=self.entropy,
            disagreement_zyx=self.disagreement,
        )

    def _rows_at_once(self) -> int:
        row_bytes = sum(4 * e.sweep.ring.sums_krowyx[:, 0].numel() for e in self.exported)
        return max(1, min(8, MIXED_BYTES // row_bytes))

    def _rows(self, start: int, stop: int) -> None:
        mixed = [exported.mixed(start, stop) for exported in self.exported]
        blocks_y = zip(*(e.blocks_y for e in self.exported), strict=True)
        for y in blocks_y:
            for x in zip(*(e.blocks_x for e in self.exported), strict=True):
                self._block((slice(start, stop), y[0].out, x[0].out), mixed, y, x)

    def _block(self, out: tuple[slice, slice, slice], mixed: Sequence[Tensor], y: Sequence[AxisBlock], x: Sequence[AxisBlock]) -> None:
        heads = self.decision.heads
        if len(mixed) == 1 and not (self.wanted.probabilities or self.wanted.uncertainty):
            support = self.exported[0].logits(mixed[0][..., y[0].into, x[0].into])
            self._write(self.label, out, self._decide(support, y[0], x[0], self.exported[0].convex))
            return
        whole = sum(e.weight for e in self.exported)
        shares: Tensor | None = None
        for exported, logits, of_y, of_x in zip(self.exported, mixed, y, x, strict=True):
            native = of_y.apply(of_x.apply(exported.logits(logits[..., of_y.into, of_x.into]), -1), -2)
            part = self.decision.probabilities(native[:heads]) * (exported.weight / whole)
            shares = part if shares is None else shares + part
            if exported.sweep.extra and self.disagreement is not None:
                self._add(self.disagreement, out, native[heads].clamp(min=0) * (exported.weight / whole))
        assert shares is not None, "nothing was swept"
        self._write(
            self.label, out, self.decision.of_probabilities(shares) if len(mixed) > 1 else self.decision.labels(native[:heads], None)
        )
        if self.probabilities is not None:
            self._write(self.probabilities, out, shares)
        if self.entropy is not None:
            self._write(self.entropy, out, self.decision.entropy(shares))

    def _decide(self, support_knyx: Tensor, y: AxisBlock, x: AxisBlock, convex: bool) -> Tensor | int:
        heads = self.decision.candidates(support_knyx, convex)
        if heads is not None:
            if not heads:
                return 0
            if len(heads) == 1 and self.decision.softmax:
                return heads[0]
            support_knyx = support_knyx[heads]
        return self.decision.labels(y.apply(x.apply(support_knyx, -1), -2), heads)

    def _view(self, stored: NDArray[Any]) -> NDArray[Any]:
        lead = stored.ndim - 3
        return self.frame.cropped_view(stored).transpose(*range(lead), *(lead + axis for axis in self.order))

    def _write(self, stored: NDArray[Any], out: tuple[slice, slice, slice], values: Tensor | int) -> None:
        self._view(stored)[(..., *out)] = values if isinstance(values, int) else values.cpu().numpy()

    def _add(self, stored: NDArray[Any], out: tuple[slice, slice, slice], values: Tensor) -> None:
        self._view(stored)[out] += values.cpu().numpy()

    def _outside(self, frame: Frame, heads: int) -> NDArray[np.float32]:
        """Outside the crop everything is background, surely."""
        probabilities = np.zeros((heads, *frame.stored_shape_zyx), np.float32)
        if self.decision.softmax:
            probabilities[0] = 1
        return probabilities
