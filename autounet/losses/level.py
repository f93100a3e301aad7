"""One level of deep supervision: its logits, its truth, and the sums that the terms share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from autounet.losses.sums import ClassSums, softmax_sums, truth_sums
from planners.labels import Labels

NOTHING = -1e4  # logit of a class that cannot be; its exponential is zero in every float type
Reduce = Callable[[Tensor], Tensor]  # sums over the ranks of a distributed run; the identity for one process


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The truth of a batch; everything but the classes is there only when a term or a case needs it."""

    classes: Tensor  # (b, [z,] y, x), inside numbering; the ignore index is one behind the classes
    annotated_bk: Tensor | None = None  # which classes were drawn in each case; None: all in all
    skeleton: Tensor | None = None  # like classes; elsewhere 0
    border_weight: Tensor | None = None  # like classes, float: at least 1

    def to(self, device: torch.device) -> "Targets":
        """The same on another device."""
        return self.each(lambda maps: maps.to(device, non_blocking=True))

    def part(self, samples: slice) -> "Targets":
        """Of some samples."""
        return self.each(lambda maps: maps[samples])

    def each(self, done: Callable[[Tensor], Tensor]) -> "Targets":
        """What becomes of each map that is there."""
        optional = {"annotated_bk": self.annotated_bk, "skeleton": self.skeleton, "border_weight": self.border_weight}
        return Targets(classes=done(self.classes), **{name: None if maps is None else done(maps) for name, maps in optional.items()})

    def shrunk(self, shape: torch.Size) -> "Targets":
        """At the size of a coarser level: the voxel nearest to each centre."""
        classes = nearest(self.classes, shape)
        skeleton = None if self.skeleton is None else nearest(self.skeleton, shape)
        weight = None if self.border_weight is None else nearest(self.border_weight, shape)
        return Targets(classes=classes, annotated_bk=self.annotated_bk, skeleton=skeleton, border_weight=weight)


def nearest(maps: Tensor, shape: torch.Size) -> Tensor:
    """(b, ...) taken at the voxels whose centres lie nearest to those of the smaller grid (nearest-exact)."""
    for axis, (size, wanted) in enumerate(zip(maps.shape[1:], shape, strict=True), start=1):
        if wanted == size:
            continue
        if size % wanted == 0:
            step = size // wanted
            maps = maps[(slice(None),) * axis + (slice(step // 2, None, step),)]
        else:
            at = ((torch.arange(wanted, device=maps.device) + 0.5) * (size / wanted)).long()
            maps = maps.index_select(axis, at)
    return maps


class Level:
    """Logits beside truth. What several terms need is computed once, when the first one asks."""

    def __init__(self, logits: Tensor, targets: Targets, labels: Labels, reduce: Reduce) -> None:
        self.targets = targets.shrunk(logits.shape[2:])
        self.labels, self.reduce = labels, reduce
        self.logits = logits if labels.regions or targets.annotated_bk is None else merged(logits, targets.annotated_bk)

    @property
    def scored_bk(self) -> Tensor | None:
        """Which of the scored classes (regions, or classes but the background) count in each case; None: all."""
        drawn = self.targets.annotated_bk
        if drawn is None or not self.labels.regions:
            return None if drawn is None else drawn[:, 1:]
        missing = (~drawn).float() @ self.membership_rk[:, : drawn.shape[1]].float().T
        return missing == 0  # a region counts when all of its classes were drawn

    @cached_property
    def membership_rk(self) -> Tensor:
        """Which classes each region holds; the last column is the ignore label's."""
        values = [c.value for c in self.labels.classes]
        rows = [[value in region.values for value in values] + [False] for region in self.labels.regions]
        return torch.tensor(rows, device=self.logits.device)

    @cached_property
    def valid(self) -> Tensor:
        """(b, ...): voxels that were annotated."""
        return self.targets.classes < len(self.labels.classes)

    @cached_property
    def valid_count(self) -> Tensor:
        """How many voxels of the whole batch were annotated."""
        return self.reduce(self.valid.sum().float())

    @cached_property
    def regions(self) -> Tensor:
        """(b, r, ...): the truth of each region, as booleans."""
        return self.membership_rk[:, self.targets.classes.long()].movedim(0, 1)

    @cached_property
    def sums(self) -> ClassSums:
        """Predicted sums; of classes by softmax, of regions by sigmoid."""
        if not self.labels.regions:
            return softmax_sums(self.logits, self.targets.classes)
        scores = torch.sigmoid(self.logits.float())
        if self.labels.ignore is not None:
            scores = scores * self.valid[:, None]
        axes = tuple(range(2, scores.ndim))
        return ClassSums((scores * self.regions).sum(axes), scores.sum(axes), scores.new_zeros(scores.shape[0]))

    @cached_property
    def truth_bk(self) -> Tensor:
        """Voxels of each class or region."""
        if not self.labels.regions:
            return truth_sums(self.targets.classes, len(self.labels.classes))
        return self.regions.flatten(2).sum(2).float()

    @cached_property
    def cross_entropy_v(self) -> Tensor:
        """(b, ...): minus the log-likelihood of each voxel's truth; zero where nothing was annotated."""
        if self.labels.regions:
            each = functional.binary_cross_entropy_with_logits(self.logits.float(), self.regions.float(), reduction="none")
            return each.sum(1) * self.valid
        truth = torch.where(self.valid, self.targets.classes.long(), -100)
        return functional.cross_entropy(self.logits.float(), truth, reduction="none")


def merged(logits: Tensor, annotated_bk: Tensor) -> Tensor:
    """Logits of a partly annotated case: what was not drawn is background, as far as its truth can tell."""
    shape = (*annotated_bk.shape, *(1,) * (logits.ndim - 2))
    drawn = annotated_bk.view(shape).clone()
    drawn[:, 0] = False
    background = torch.logsumexp(logits.float().masked_fill(drawn, NOTHING), 1, keepdim=True).to(logits.dtype)
    foreground = logits[:, 1:].masked_fill(~drawn[:, 1:], NOTHING)
    return torch.cat((background, foreground), 1)
