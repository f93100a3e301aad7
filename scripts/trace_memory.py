#!/usr/bin/env python3
"""Peaks of real training steps on tensors without numbers, for networks of many kinds; the closed form is held against them.

usage: python scripts/trace_memory.py OUT.json [FIRST [LAST]]
"""

import json
import sys
import time
from itertools import product
from pathlib import Path

from autounet.training.memory_trace import trace
from planners.augmentation import augmentation
from planners.labels import LabelClass, Labels, Region
from planners.loss import loss
from planners.memory import Load
from planners.networks_of import architecture_of
from planners.plan import Configuration, Inference, Schedule
from planners.reference_size import Blueprint
from planners.strict_json import to_plain
from planners.topology import topology
from planners.triples import three

PATCHES = ((128, 128, 128), (40, 56, 40), (80, 192, 160), (20, 320, 256), (64, 64, 64), (512, 512), (320, 256), (56, 40), (16, 96, 96))
CLASSES = (1, 2, 15, 40, 120)
HOW = (
    (2, 0, "bfloat16", "sgd"),
    (1, 0, "float32", "adamw"),
    (2, 1, "float16", "sgd"),
    (4, 2, "bfloat16", "adamw"),
    (9, 0, "bfloat16", "sgd"),
)


def loads():
    """A walk through the combinations that meets every value often."""
    for number, (patch, kind) in enumerate(product(PATCHES, ("plain", "residual"))):
        for turn in range(3):
            micro, again, precision, optimiser = HOW[(number + 2 * turn) % len(HOW)]
            classes = CLASSES[(number * 2 + turn) % len(CLASSES)]
            spacing = (3.6, 0.6, 0.6) if len(patch) == 3 and patch[0] < 30 else (1.0,) * len(patch)
            architecture = architecture_of(topology(spacing, patch), Blueprint(kind, classes + 1, (32, 32, 16)[turn]), again)
            yield Load(
                architecture=architecture,
                patch_zyx=three(patch),
                channels=1 + number % 4,
                heads=classes if (regions := number % 6 == 5 and turn == 0) else classes + 1,
                regions=regions,
                micro_batch=micro,
                precision=precision,
                average=turn != 2,
                moments=1 if optimiser == "sgd" else 2,
            )


def configuration(load):
    """A configuration that trains under this load."""
    dimensions = load.architecture.dimensions
    optimiser = "sgd" if load.moments == 1 else "adamw"
    return Configuration(
        name="traced",
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=load.patch_zyx,
        patch_zyx=load.patch_zyx,
        batch_size=load.micro_batch,
        architecture=load.architecture,
        loss=loss(len(load.architecture.features), batch_dice=dimensions == 2),
        augmentation=augmentation(load.patch_zyx, dimensions, ()),
        schedule=Schedule(optimiser=optimiser, precision=load.precision, ema_decay=0.999 if load.average else None),
        inference=Inference(precision=load.precision),
    )


def labels(load):
    """A table with as many heads as the load has."""
    count = load.heads + 1 if load.regions else load.heads
    classes = tuple(LabelClass(name=str(value), value=value) for value in range(count))
    regions = tuple(Region(name=c.name, values=(c.value,), paint=c.value) for c in classes[1:]) if load.regions else ()
    return Labels(classes=classes, regions=regions)


def main(out, first=0, last=10**6):
    lines = []
    for number, load in enumerate(loads()):
        if not int(first) <= number < int(last):
            continue
        began = time.perf_counter()
        peaks = trace(configuration(load), load.channels, labels(load))
        lines.append(json.dumps({"load": to_plain(load), **to_plain(peaks)}, separators=(",", ":")))
        Path(out).write_text("[\n" + ",\n".join(lines) + "\n]\n")
        print(number, load.patch_zyx, load.architecture.kind, load.heads, f"{time.perf_counter() - began:.1f} s", peaks, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
