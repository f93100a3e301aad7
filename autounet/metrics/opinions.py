"""What networks said of a held-out case, as far as selection needs it: small files beside the masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autounet.metrics.overlap import Counts

OPINION_SCHEMA = 1
PICKED = 256  # voxels of a case


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Voxels of one target that the networks expect in both mask and truth, in the mask, and in the truth."""

    both: float
    predicted: float
    true: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Voxels from around the structures: their true class number, and the probability of each head."""

    truth: tuple[int, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One configuration, one held-out case."""

    schema: int = OPINION_SCHEMA
    weights: str  # a digest of the network that spoke
    expected: tuple[Expected, ...]
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamOpinion:
    """One team, one held-out case."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    counts: tuple[Counts, ...]  # one a target
    expected: tuple[Expected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOpinion:
    """All configurations and their teams, one held-out case."""

    schema: int = OPINION_SCHEMA
    made_of: str  # a digest of the networks, and of what was asked
    voxel_mm3: float
    configurations: tuple[str, ...]
    samples: tuple[Sample, ...]  # one a configuration, of the same voxels
    teams: tuple[TeamOpinion, ...]

    def sample(self, names: Sequence[str], shares: Sequence[float]) -> Sample:
        """What a team says: the weighted mean of its members."""
        own = [(self.samples[self.configurations.index(name)], share) for name, share in zip(names, shares, strict=True)]
        rows = zip(*(one.shares for one, _ in own), strict=True)
        mixed = tuple(
            tuple(sum(p * share for p, (_, share) in zip(head, own, strict=True)) for head in zip(*row, strict=True)) for row in rows
        )
        return Sample(truth=own[0][0].truth, shares=mixed)


def opinion_path(mask: Path) -> Path:
    """Where the opinion on a mask lies."""
    return mask.parent / "opinions" / f"{mask.name}.json"


def expected_dice(expected: Sequence[Expected]) -> float:
    """Mean over the targets of which the mask shows anything; 0 when it shows nothing."""
    shown = [2 * e.both / (e.predicted + e.true) for e in expected if e.predicted > 0]
    return sum(shown) / len(shown) if shown else 0.0
