"""Asking the networks: tiles and their mirror images in batches, every member on each, one mean vote a tile."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autounet.augment.upload import uploaded
from autounet.inference.heads import split_heads
from autounet.inference.processor import on_processor, processor_has_bfloat16
from autounet.inference.settings import InferenceSettings, Member
from autounet.networks.unet import UNet
from planners.errors import UserError

if TYPE_CHECKING:
    from planners.fingerprint import Triple

OUT_OF_MEMORY_WORDS = ("can't allocate memory", "out of memory", "not enough memory", "alloc_failed", "bad_alloc")


Item = tuple[int, tuple[int, ...]]  # a tile, and the axes along which it is mirrored


class Voters:
    """The members of one configuration. Holds no state of a case; `in_flight` only ever shrinks, when memory was short."""

    def __init__(self, members: Sequence[Member], settings: InferenceSettings, in_flight: int, heads: int) -> None:
        configuration = members[0].configuration
        self.flat = configuration.dimensions == 2
        self.patch_zyx: Triple = configuration.patch_zyx
        self.networks: Sequence[nn.Module] = [member.network for member in members]
        self.disagree = settings.uncertainty and len(members) > 1
        self.channels, self.late_head = heads, None  # what a vote holds a voxel: logits, or maps when the last layer comes last
        split = None if self.disagree or settings.skip_air else split_heads(self.networks, heads)
        if split is not None:
            self.networks, self.late_head = split
            self.channels = self.late_head.weight.shape[1]
        self.device = device_of(members[0])
        if self.device.type == "cpu":
            self.networks = [twin_of(network, settings) for network in self.networks]
        self.flips = mirror_subsets(settings.mirror_axes)
        self.settings = settings
        self.in_flight = max(in_flight, 1)
        self.short = False  # of memory
        self.workers = 1
        # An accelerator is told at once and computes while the next tiles are cut out.
        self.pool: Executor | None = None if self.device.type == "cpu" else AtOnce()

    def employ(self, pool: Executor, workers: int) -> None:
        """Ask the networks on so many threads: on a processor, tiles side by side beat many threads on each tile."""
        self.workers, self.pool = workers, pool

    def ask(self, tiles_bczyx: Tensor) -> "Asked":
        """Show tiles and their mirror images to the networks; on threads and accelerators the answers come while something else is done."""
        asked = Asked(tiles_bczyx, deque((tile, flip) for tile in range(len(tiles_bczyx)) for flip in self.flips))
        if self.pool is not None and not self.short:
            self._refill(asked)
        return asked

    def vote(self, tiles_bczyx: Tensor) -> "Votes":
        """Mean logits of all members and mirrors, in float32, and how far the members disagree when that is wanted."""
        return self.votes(self.ask(tiles_bczyx))

    def votes(self, asked: "Asked") -> "Votes":
        """The same of tiles that were shown already; always added in the same order, whatever ends first."""
        together = self.late_head is not None  # members' maps lie side by side; their mean is taken by the late head
        count, members = len(asked.tiles_bczyx), 1 if together else len(self.networks)
        votes = Votes(count, members, len(self.flips), self.disagree)
        while asked.waiting or asked.running:
            self._refill(asked)
            one = asked.running.popleft()
            try:
                answers = one.answers()
            except (RuntimeError, MemoryError) as error:
                self._shrink(error, one)
                asked.again(one)  # the same tiles once more, fewer at a time
                continue
            for (tile, _), answer in zip(one.items, answers, strict=True):
                votes.add(tile, answer)
        return votes

    def _refill(self, asked: "Asked") -> None:
        """Have as many tiles at work as are allowed."""
        each = max(1, self.in_flight // self.workers)
        while asked.waiting and len(asked.running) < min(self.workers, self.in_flight):
            items = [asked.waiting.popleft() for _ in range(min(each, len(asked.waiting)))]
            ask = partial(self._ask, asked, items)
            asked.running.append(Running(items, self.in_flight, ask if self.pool is None else self.pool.submit(ask).result))

    def _ask(self, asked: "Asked", chunk: Sequence[Item]) -> list[Tensor]:
        """Per item the logits of each member (member, k, z, y, x), flipped back."""
        tiles_bczyx = asked.tiles_bczyx = uploaded(asked.tiles_bczyx, self.device)  # once: mirror images are made where they are looked at
        batch = torch.stack([torch.flip(tiles_bczyx[tile], flip) if flip else tiles_bczyx[tile] for tile, flip in chunk])
        batch = batch[:, :, 0] if self.flat else batch
        with torch.no_grad(), lower_precision(self.device, self.settings.precision):
            outputs = [network(batch) for network in self.networks]
        answers = []
        for index, (_, flip) in enumerate(chunk):
            members_kzyx = [output[index][:, None] if self.flat else output[index] for output in outputs]
            if self.late_head is not None:
                members_kzyx = [torch.cat(members_kzyx) if len(members_kzyx) > 1 else members_kzyx[0]]
            stacked = torch.stack(members_kzyx) if len(members_kzyx) > 1 else members_kzyx[0][None]
            answers.append(torch.flip(stacked, [axis + 1 for axis in flip]) if flip else stacked)
        return answers

    def _shrink(self, error: Exception, one: "Running") -> None:
        if not is_out_of_memory(error):
            raise error
        was_short, self.short = self.short, True
        if one.in_flight > self.in_flight:
            return  # it was begun before memory was known to be short
        if self.in_flight == 1 and not was_short:
            return  # it was begun while other answers were held; from now on nothing is
        if self.in_flight == 1:
            raise UserError(
                f"not even one patch of {self.patch_zyx} voxels fits in the memory of {self.device.type}",
                "free memory, or predict on another device with --device cpu",
            ) from error
        self.in_flight //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class AtOnce(Executor):
    """Does what it is given before it returns; an error waits until somebody asks for the result."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Done, when it returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except (RuntimeError, MemoryError) as error:
            # Its traceback would keep what the network held, while fewer patches are tried in the room that is left.
            future.set_exception(error.with_traceback(None) if is_out_of_memory(error) else error)
        return future


@dataclass(frozen=True, slots=True)
class Running:
    """Tiles that a network is looking at, and the way to what it says."""

    items: Sequence[Item]
    in_flight: int  # when it was begun
    answers: Callable[[], list[Tensor]]


@dataclass(slots=True)
class Asked:
    """Tiles that the networks are shown."""

    tiles_bczyx: Tensor
    waiting: deque[Item]
    running: deque[Running] = field(default_factory=deque)

    def again(self, one: Running) -> None:
        """These and all that is running with them wait once more; what is being computed is waited for, for it holds memory."""
        for other in self.running:
            if isinstance(other.answers, partial):
                continue
            with suppress(RuntimeError, MemoryError):
                other.answers()
        items = [item for each in (one, *self.running) for item in each.items]
        self.running.clear()
        self.waiting.extendleft(reversed(items))


class Votes:
    """Sums of answers, tile by tile."""

    def __init__(self, tiles: int, members: int, mirrors: int, disagreement: bool) -> None:
        self.share, self.mirror_share = 1 / (members * mirrors), 1 / mirrors
        self.logits: list[Tensor | None] = [None] * tiles
        self.disagreement: list[Tensor | None] | None = [None] * tiles if disagreement else None

    def add(self, tile: int, answer_mkzyx: Tensor) -> None:
        """One mirror's answer of all members."""
        members = len(answer_mkzyx)
        total = answer_mkzyx.float().sum(0) if members > 1 else answer_mkzyx[0].float()
        kept = self.logits[tile]
        self.logits[tile] = total if kept is None else kept.add_(total)
        if self.disagreement is not None:
            apart = member_divergence(answer_mkzyx.float())
            before = self.disagreement[tile]
            self.disagreement[tile] = apart if before is None else before.add_(apart)

    def mean(self, tile: int) -> Tensor:
        """(k, z, y, x); the disagreement is the last map when it was wanted."""
        logits = self.logits[tile]
        assert logits is not None, "a tile was asked for that nobody voted on"
        if self.disagreement is None:
            return logits.mul_(self.share) if self.share != 1 else logits
        apart = self.disagreement[tile]
        assert apart is not None, "a tile was asked for that nobody voted on"
        return torch.cat((logits.mul_(self.share), apart[None].mul_(self.mirror_share)))

    def finite(self) -> list[Tensor]:
        """A truth a tile, where the tile is: one sum tells whether any logit is not a number or infinite."""
        return [torch.isfinite(logits.sum()) for logits in self.logits if logits is not None]


def member_divergence(answer_mkzyx: Tensor) -> Tensor:
    """Jensen–Shannon divergence of the members' class probabilities: entropy of the mean less mean of the entropies."""
    if answer_mkzyx.shape[1] == 1:
        foreground = torch.sigmoid(answer_mkzyx)
        shares = torch.cat((foreground, 1 - foreground), 1)
    else:
        shares = torch.softmax(answer_mkzyx, 1)
    return (entropy(shares.mean(0), 0) - entropy(shares, 1).mean(0)).clamp_(min=0)


def entropy(probabilities: Tensor, axis: int) -> Tensor:
    """In nats."""
    return -torch.xlogy(probabilities, probabilities).sum(axis)


def mirror_subsets(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Every subset of the axes, as dimensions of (c, z, y, x)."""
    return tuple(tuple(axis + 1 for axis in subset) for count in range(len(axes) + 1) for subset in combinations(sorted(axes), count))


def twin_of(network: nn.Module, settings: InferenceSettings) -> nn.Module:
    """The network as a processor runs it fastest, or as the engine does that was asked for."""
    if settings.engine is not None and type(network) is UNet and not network.training:
        return settings.engine.twin(network, settings.precision)
    return on_processor(network, settings.precision)


def device_of(member: Member) -> torch.device:
    """Where the network's weights lie."""
    first = next(member.network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def is_out_of_memory(error: Exception) -> bool:
    """Whether the allocator said no. Nothing else is ever taken for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY_WORDS)


@contextmanager
def lower_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast where the plan allows it and the device has it."""
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in kinds or (device.type == "cpu" and not (precision == "bfloat16" and processor_has_bfloat16())):
        yield
        return
    with torch.autocast(device.type, dtype=kinds[precision]):
        yield
