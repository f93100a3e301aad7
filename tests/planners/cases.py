"""Fingerprints and machines that the tests of the planners share."""

from collections.abc import Sequence

from planners.fingerprint import CaseSize, ChannelSeen, ClassSeen, Fingerprint, Intensities, Modality
from planners.hardware import GiB, Hardware
from planners.labels import LabelClass, Labels

CPU = Hardware(accelerator="cpu", name="two cores", accelerator_bytes=0, host_bytes=24 * GiB, cores=2, precisions=("float32", "bfloat16"))
PLAIN_CPU = Hardware(accelerator="cpu", name="old cores", accelerator_bytes=0, host_bytes=16 * GiB, cores=4)
GPU = Hardware(
    accelerator="cuda",
    name="NVIDIA RTX 4090",
    accelerator_bytes=24 * GiB,
    host_bytes=64 * GiB,
    cores=16,
    precisions=("float32", "bfloat16", "float16"),
)

UNIT = Intensities(mean=0.0, median=0.0, std=1.0, minimum=-1.0, maximum=1.0, percentile_00_5=-0.5, percentile_99_5=0.5)
HOUNSFIELD = Intensities(mean=80.0, median=90.0, std=60.0, minimum=-900.0, maximum=1800.0, percentile_00_5=-60.0, percentile_99_5=240.0)


def labels(count: int, names: Sequence[str] = ()) -> Labels:
    """Background and count - 1 classes."""
    return Labels(
        classes=tuple(
            LabelClass(name=names[v - 1] if v and names else "background" if not v else f"class {v}", value=v) for v in range(count)
        )
    )


def fingerprint(
    spacings: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    *,
    channels: Sequence[str] = ("MR",),
    table: Labels | None = None,
    modality: Modality = "mr",
    relative: float = 1.0,
    classes: tuple[ClassSeen, ...] = (),
    dimensions: int | None = None,
) -> Fingerprint:
    """Of cases that are stored as they lie: z first."""
    sizes = tuple(
        CaseSize(case=f"case {i}", shape_zyx=(h[0], h[1], h[2]), spacing_zyx_mm=(float(s[0]), float(s[1]), float(s[2])))
        for i, (s, h) in enumerate(zip(spacings, shapes, strict=True))
    )
    seen = tuple(
        ChannelSeen(name=name, modality=modality, confidence=1.0, foreground=HOUNSFIELD if modality == "ct" else UNIT) for name in channels
    )
    flat = dimensions == 2 or (dimensions is None and all(size.shape_zyx[0] == 1 for size in sizes))
    return Fingerprint(
        dataset="test",
        dimensions=2 if flat else 3,
        cases=sizes,
        channels=seen,
        labels=table or labels(2),
        classes=classes,
        median_relative_size_after_crop=relative,
    )


def alike(count: int, spacing: Sequence[float], shape: Sequence[int], **more: object) -> Fingerprint:
    """Of cases that are all the same."""
    return fingerprint([spacing] * count, [shape] * count, **more)  # type: ignore[arg-type]
