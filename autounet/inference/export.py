"""Finished rows of the sweeps, carried to the native grid and decided there, block by block; nothing larger ever exists."""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet import stop
from autounet.arrays.frame import Frame
from autounet.arrays.resample import axis_resize
from autounet.arrays.threads import single_blas_thread
from autounet.augment.upload import uploaded
from autounet.inference.decide import BlockDecision, HeadArrays
from autounet.inference.grids import AxisBlock, SweepAxis, axis_blocks, block_edges
from autounet.inference.settings import Prediction
from autounet.inference.sweep import Sweep
from autounet.inference.votes_to_labels import Decision
from autounet.inference.witness import Witness, show
from planners.fingerprint import Triple

MIXED_BYTES = 2**26  # sums of a few native rows on the network's plane, all maps
BLOCK_VOXELS = 2**14  # that a processor decides together: its cache is small
DEVICE_BLOCK_BYTES = 2**25  # of logits: to ask an accelerator and to wait for it takes longer than a small answer


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
        shape = sweep.source.shape_zyx
        self.rows = SweepAxis(shape[rows], native_zyx[rows], orders_zyx[rows])
        self.convex = max(orders_zyx) <= 1
        self.resizes_yx = (axis_resize(y, shape[y], native_zyx[y], orders_zyx[y]), axis_resize(x, shape[x], native_zyx[x], orders_zyx[x]))
        sweep.make_room(self.rows.kept_below)
        self.steps = iter(sweep)

    def blocks(self, edge_y: int, edge_x: int) -> list[tuple[AxisBlock, AxisBlock]]:
        """The blocks of a native plane."""
        y, x = self.resizes_yx
        along_x = axis_blocks(x, edge_x, self.sweep.device)
        return [(of_y, of_x) for of_y in axis_blocks(y, edge_y, self.sweep.device) for of_x in along_x]

    def advance(self, row: int) -> int:
        """Sweep until the native row can be made; how many native rows can be."""
        self.release(row)  # thick slices leave network rows out, also before the first one
        while self.rows.ready(self.sweep.finished) <= row:
            next(self.steps)
        return self.rows.ready(self.sweep.finished)

    def mixed(self, start: int, stop: int) -> Tensor:
        """Logits (k, native rows, y, x), interpolated along the sweep axis only."""
        ring, taken = self.sweep.ring, self.rows.taken(start, stop)
        if taken is not None:
            at, sums = taken % ring.depth, ring.sums_krowyx
            straight = bool((at[1:] - at[:-1] == 1).all())
            return (sums[:, int(at[0]) : int(at[-1]) + 1] if straight else sums[:, uploaded(at, sums.device)]).float()
        low, weights = self.rows.weights(start, stop)
        mixture = uploaded(weights, ring.sums_krowyx.device)
        mixed: Tensor | None = None
        for piece, own in ring.rows(low, low + weights.shape[1]):
            part = _mixture(mixture[:, own], piece.flatten(2).float()).reshape(len(piece), -1, *piece.shape[2:])
            mixed = part if mixed is None else mixed.add_(part)
        assert mixed is not None, "no rows were asked for"
        return mixed

    def native(self, mixed_mnyx: Tensor, y: AxisBlock, x: AxisBlock) -> Tensor:
        """Logits of a block; the last layer commutes with the interpolation, and its input has fewer maps."""
        maps = y.apply(x.apply(mixed_mnyx[..., y.into, x.into], -1), -2)
        late_head = self.sweep.voters.late_head
        return maps if late_head is None else late_head.logits(maps)

    def release(self, row: int) -> None:
        """Native rows before this one are written, or never asked for."""
        if row < self.rows.size_out:
            self.sweep.ring.release(self.rows.low[row])


def _mixture(weights: Tensor, rows_krn: Tensor) -> Tensor:
    if rows_krn.device.type != "cpu":
        return torch.matmul(weights, rows_krn)
    # A few rows of a few rows: torch's batched product takes a hundred times as long here.
    return torch.from_numpy(np.matmul(weights.numpy(), rows_krn.numpy()))


class Export:
    """Writes the decisions of one or more sweeps over the same image into arrays on the stored grid."""

    def __init__(self, exported: Sequence[Exported], frame: Frame, decision: Decision, wanted: Wanted, threads: int = 1) -> None:
        self.exported, self.decision, self.wanted, self.threads = exported, decision, wanted, threads
        self.witness: Witness | None = None  # looks on at what passes by
        self.order = exported[0].sweep.order
        heads = decision.heads
        self.label = np.zeros(frame.stored_shape_zyx, np.uint8 if max(heads, *decision.paint, 0) < 256 else np.uint16)
        self.probabilities = self._outside(frame, heads) if wanted.probabilities else None
        self.entropy = np.zeros(frame.stored_shape_zyx, np.float32) if wanted.uncertainty else None
        apart = wanted.uncertainty and any(e.sweep.extra for e in exported)
        self.disagreement = np.zeros(frame.stored_shape_zyx, np.float32) if apart else None
        self.frame = frame
        here = exported[0].sweep.device.type == "cpu"
        self.block_voxels = BLOCK_VOXELS if here else DEVICE_BLOCK_BYTES // (4 * heads)
        edges = block_edges([e.resizes_yx for e in exported]) if here else (isqrt(self.block_voxels),) * 2
        self.blocks = list(zip(*(e.blocks(*edges) for e in exported), strict=True))
        self.fast = self._block_decision()

    def run(self) -> Prediction:
        """All native rows, in order."""
        with single_blas_thread(), ThreadPoolExecutor(self.threads) as pool:
            self._run(pool)
        return Prediction(
            label_zyx=self.label,
            probabilities_kzyx=self.probabilities,
            entropy_zyx=self.entropy,
            disagreement_zyx=self.disagreement,
        )

    def _run(self, pool: Executor) -> None:
        rows = self.exported[0].rows.size_out
        done, step = 0, self._rows_at_once()
        while done < rows:
            ready = min(exported.advance(done) for exported in self.exported)
            for start in range(done, ready, step):
                stop.check()
                self._rows(start, min(start + step, ready), pool)
            for exported in self.exported:
                exported.release(ready)
            done = ready

    def _rows_at_once(self) -> int:
        """So many that a block's maps fill the cache, and all rows' maps little memory."""
        row_bytes = sum(4 * e.sweep.ring.sums_krowyx[:, 0].numel() for e in self.exported)
        ((y, x), *_) = self.blocks[0]
        in_block = (y.out.stop - y.out.start) * (x.out.stop - x.out.start)
        return int(max(1, min(self.block_voxels // in_block, MIXED_BYTES // row_bytes)))

    def _rows(self, start: int, end: int, pool: Executor) -> None:
        mixed = [exported.mixed(start, end) for exported in self.exported]
        if self.witness is not None:
            show(self.witness, self, mixed, slice(start, end))
        if self.fast is None:
            for block in self.blocks:
                self._block((slice(start, end), block[0][0].out, block[0][1].out), mixed, block)
            return
        decide, sums = self.fast, mixed[0].numpy()

        def one(block: tuple[tuple[AxisBlock, AxisBlock], ...]) -> None:
            ((y, x),) = block
            label = decide.label(sums[:, :, y.into, x.into], y, x)
            self.view(self.label)[start:end, y.out, x.out] = label

        for _ in pool.map(one, self.blocks) if self.threads > 1 else map(one, self.blocks):
            pass

    def _block_decision(self) -> BlockDecision | None:
        """One configuration's labels on a processor, which is what is asked for most often."""
        one = self.exported[0]
        if len(self.exported) > 1 or self.wanted != Wanted() or one.sweep.device.type != "cpu":
            return None
        late_head = one.sweep.voters.late_head
        head = None if late_head is None else HeadArrays(late_head.weight.cpu().numpy(), late_head.bias.cpu().numpy())
        return BlockDecision(self.decision, head, one.convex)

    def _block(self, out: tuple[slice, slice, slice], mixed: Sequence[Tensor], block: Sequence[tuple[AxisBlock, AxisBlock]]) -> None:
        heads = self.decision.heads
        if len(mixed) == 1 and self.wanted == Wanted():
            labels = self.decision.labels(self.exported[0].native(mixed[0], *block[0]))
            self._write(self.label, out, labels.to(torch.uint8) if self.label.dtype == np.uint8 else labels)
            return
        whole = sum(e.weight for e in self.exported)
        shares: Tensor | None = None
        for exported, sums, (y, x) in zip(self.exported, mixed, block, strict=True):
            native = exported.native(sums, y, x)
            part = self.decision.probabilities(native[:heads]) * (exported.weight / whole)
            shares = part if shares is None else shares + part
            if exported.sweep.extra and self.disagreement is not None:
                self._add(self.disagreement, out, native[heads].clamp(min=0) * (exported.weight / whole))
        assert shares is not None, "nothing was swept"
        self._write(self.label, out, self.decision.of_probabilities(shares) if len(mixed) > 1 else self.decision.labels(native[:heads]))
        if self.probabilities is not None:
            self._write(self.probabilities, out, shares)
        if self.entropy is not None:
            self._write(self.entropy, out, self.decision.entropy(shares))

    def view(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The native grid of a stored array, the sweep axis first."""
        lead = stored.ndim - 3
        return self.frame.cropped_view(stored).transpose(*range(lead), *(lead + axis for axis in self.order))

    def _write(self, stored: NDArray[Any], out: tuple[slice, slice, slice], values: Tensor) -> None:
        self.view(stored)[(..., *out)] = values.cpu().numpy()

    def _add(self, stored: NDArray[Any], out: tuple[slice, slice, slice], values: Tensor) -> None:
        self.view(stored)[out] += values.cpu().numpy()

    def _outside(self, frame: Frame, heads: int) -> NDArray[np.float32]:
        """Outside the crop everything is background, surely."""
        probabilities = np.zeros((heads, *frame.stored_shape_zyx), np.float32)
        if self.decision.softmax:
            probabilities[0] = 1
        return probabilities
