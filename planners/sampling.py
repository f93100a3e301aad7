"""Where patches are taken from: the rarer the foreground, the more often a patch is centred on it."""

from typing import Literal

from planners.fingerprint import Fingerprint
from planners.plan import Sampling

Balance = Literal["class_in_case", "class_over_cases", "component"]
RARE, SCARCE = 0.001, 0.01  # of the cropped volume
SHARE_RARE, SHARE_SCARCE, SHARE = (
    0.7,
    0.6,
    0.5,
)  # the reference's 33 % are every second patch at its batch of 2; tuned tasks chose 0.5 to 0.7
MANY_COMPONENTS = 3


def sampling(fingerprint: Fingerprint) -> Sampling:
    """By the rarest class, how many cases hold it, and in how many pieces it comes."""
    rarest = rarest_fraction(fingerprint)
    share = SHARE_RARE if rarest < RARE else SHARE_SCARCE if rarest < SCARCE else SHARE
    return Sampling(foreground_fraction=share, rule="probability", balance=_balance(fingerprint))


def rarest_fraction(fingerprint: Fingerprint) -> float:
    """Of the cropped volume, over the classes that occur at all."""
    return min((seen.fraction for seen in fingerprint.classes if seen.cases), default=1.0)


def why(fingerprint: Fingerprint) -> str:
    """One sentence with the numbers."""
    if not fingerprint.classes:
        return "nothing is known of the sizes of the classes; the reference's share"
    rarest = min((s for s in fingerprint.classes if s.cases), key=lambda s: s.fraction, default=fingerprint.classes[0])
    return (
        f"the rarest class, {rarest.name}, fills {rarest.fraction:.3%} of a case and occurs in {rarest.cases} of {len(fingerprint.cases)}"
    )


def _balance(fingerprint: Fingerprint) -> Balance:
    if any(seen.cases > 0 and seen.components >= MANY_COMPONENTS and seen.fraction < SCARCE for seen in fingerprint.classes):
        return "component"  # else one large lesion takes the place of all small ones
    # A class that most cases lack would be drawn too seldom, were only the classes of the drawn case at choice.
    missing = any(0 < seen.cases < 0.5 * len(fingerprint.cases) for seen in fingerprint.classes)
    return "class_over_cases" if missing else "class_in_case"
