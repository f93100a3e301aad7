"""How the intensities of each channel become numbers around zero."""

from planners.fingerprint import ChannelSeen
from planners.plan import ChannelPlan, Scheme

TIGHT_CROP = 0.75  # of the voxels are left by the crop to the non-zero box: below it, zero means "no patient here"
SURE = 0.5  # confidence from which a guessed modality counts
_BY_NAME: tuple[tuple[str, Scheme], ...] = (
    ("ct", "ct"),
    ("nonorm", "none"),
    ("zscore", "zscore"),
    ("rescale_to_0_1", "rescale"),
    ("rgb_to_0_1", "rgb"),
)


def by_modality(channel: ChannelSeen, relative_size: float) -> ChannelPlan:
    """The scheme of the modality; a guess that is not sure is treated like any scale of unknown units."""
    modality = channel.modality if channel.confidence >= SURE else "unknown"
    scheme: Scheme = "zscore"
    if modality == "ct" and channel.foreground.std > 0:
        scheme = "ct"
    elif modality == "rgb":
        scheme = "rgb"
    elif far_tailed(channel):
        scheme = "percentile"
    return _channel(channel, scheme, relative_size)


def by_name(channel: ChannelSeen, relative_size: float) -> ChannelPlan:
    """What the reference does: the name of the channel decides, and an unknown name is a z-score."""
    scheme: Scheme = next((scheme for name, scheme in _BY_NAME if name == channel.name.casefold()), "zscore")
    return _channel(channel, scheme, relative_size)


def far_tailed(channel: ChannelSeen) -> bool:
    """Whether a few voxels lie so far out that they would set mean and deviation (metal, hot spots, other scales)."""
    seen = channel.foreground
    middle = seen.percentile_99_5 - seen.percentile_00_5
    return middle > 0 and max(seen.maximum - seen.percentile_99_5, seen.percentile_00_5 - seen.minimum) > 20 * middle


def why(channel: ChannelSeen, plan: ChannelPlan) -> str:
    """One sentence with the numbers."""
    seen = channel.foreground
    if plan.scheme == "ct":
        return (
            f"Hounsfield units mean the same in every scanner: clipped to {plan.clip_low:.0f} .. {plan.clip_high:.0f},"
            f" minus {plan.mean:.0f}, divided by {plan.std:.0f}, as in all foreground"
        )
    if plan.scheme == "percentile":
        return (
            f"the largest value {seen.maximum:.3g} lies far above the 99.5th percentile {seen.percentile_99_5:.3g}; each image by its own"
        )
    if plan.scheme == "rgb":
        return "colours run from 0 to 255 in every picture"
    if plan.mask_outside:
        return "each image by its own mean and deviation, inside the patient only: what was cropped away is empty"
    return f"units of {channel.modality} differ from scan to scan, so each image by its own mean and deviation"


def _channel(channel: ChannelSeen, scheme: Scheme, relative_size: float) -> ChannelPlan:
    seen = channel.foreground
    return ChannelPlan(
        name=channel.name,
        modality=channel.modality,
        scheme=scheme,
        mask_outside=scheme == "zscore" and relative_size < TIGHT_CROP,
        clip_low=seen.percentile_00_5,
        clip_high=seen.percentile_99_5,
        mean=seen.mean,
        std=seen.std,
    )
