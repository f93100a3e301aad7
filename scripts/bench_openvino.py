#!/usr/bin/env python3
"""Our own way through a network on a processor beside OpenVINO's: same weights, same tiles, one thread, CPU seconds, alternately.

Neither needs a file or a dataset. Agreement is with torch in float32, on noise and with random weights: trained networks,
which are surer of themselves, agree on far more voxels (docs/design/0130).

    python scripts/bench_openvino.py
    python scripts/bench_openvino.py --row hippocampus --repeats 9
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import bench

from planners.plan import Architecture

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

WAYS = ("torch float32", "torch bfloat16", "openvino float32", "openvino bfloat16", "openvino int8")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network and its tile."""

    patch: tuple[int, ...]
    features: tuple[int, ...]
    kind: str = "plain"
    batch: int = 1
    convolutions: int = 2

    @property
    def architecture(self) -> Architecture:
        flat, stages = len(self.patch) == 2, len(self.features)
        return Architecture(
            kind=self.kind,  # type: ignore[arg-type]
            dimensions=2 if flat else 3,
            features=self.features,
            strides_zyx=((1, 1, 1), *((1, 2, 2) if flat else (2, 2, 2),) * (stages - 1)),
            kernels_zyx=((1, 3, 3) if flat else (3, 3, 3),) * stages,
            encoder_blocks=(self.convolutions,) * stages,
            decoder_convolutions=(self.convolutions,) * (stages - 1),
        )


SIX, FOUR = (32, 64, 128, 256, 320, 320), (32, 64, 128, 256)
ROWS = {
    "tiny": Row(patch=(8, 16, 16), features=(4, 8), convolutions=1),
    "hippocampus": Row(patch=(40, 56, 40), features=FOUR),
    "hippocampus, two": Row(patch=(40, 56, 40), features=FOUR, batch=2),
    "hippocampus, residual": Row(patch=(40, 56, 40), features=FOUR, kind="residual"),
    "ct": Row(patch=(64, 96, 96), features=SIX),
    "ct, two": Row(patch=(64, 96, 96), features=SIX, batch=2),
    "picture": Row(patch=(512, 512), features=(32, 64, 128, 256, 512, 512, 512)),
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--row", nargs="+", choices=tuple(ROWS), default=[name for name in ROWS if name != "tiny"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(words)
    import torch

    torch.set_num_threads(1)
    print(f"{bench.machine_line()}. One thread; median CPU seconds of {options.repeats}.\n")
    print("| tile | " + " | ".join(WAYS) + " | ratio float32 | bfloat16 | int8 | same label, " + " | ".join((WAYS[1], *WAYS[3:])) + " |")
    print("|" + "---|" * (len(WAYS) + 7))
    for name in options.row:
        print(measured(name, ROWS[name], options.repeats), flush=True)


def measured(name: str, row: Row, repeats: int) -> str:
    """A line of the table."""
    import torch

    torch.manual_seed(0)
    image = torch.randn(row.batch, 1, *row.patch)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with torch.no_grad():
        ways = ways_of(row, image)
        labels = {way: ask(image).argmax(1) for way, ask in ways.items()}  # compiled and warm, too
        for _ in range(repeats):
            for way, ask in ways.items():
                start = time.process_time()
                ask(image)
                seconds[way].append(time.process_time() - start)
    spent = {way: median(each) for way, each in seconds.items()}
    same = {way: float((labels[way] == labels["torch float32"]).float().mean()) for way in WAYS}
    cells = [f"{name}, {' x '.join(map(str, row.patch))}", *(f"{spent[way]:.3g}" for way in WAYS)]
    cells += [f"{spent[f'torch {kind}'] / spent[f'openvino {kind}']:.2f}" for kind in ("float32", "bfloat16")]
    cells.append(f"{spent['torch bfloat16'] / spent['openvino int8']:.2f}")
    return "| " + " | ".join((*cells, *(f"{same[way]:.4f}" for way in (WAYS[1], *WAYS[3:])))) + " |"


def ways_of(row: Row, image: torch.Tensor) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """One network five times; in 8 bits with the ranges of this very image."""
    from autounet.inference.int8 import spans_of, watched
    from autounet.inference.openvino_engine import OpenVino
    from autounet.inference.processor import on_processor
    from autounet.networks import build

    network, engine = build(row.architecture, 1, 3).eval().requires_grad_(False), OpenVino(1)
    with watched(network) as watch:
        watch(image[:1])
    return {
        "torch float32": on_processor(network, "float32"),
        "torch bfloat16": on_processor(network, "bfloat16"),
        "openvino float32": engine.twin(network, "float32"),
        "openvino bfloat16": engine.twin(network, "bfloat16"),
        "openvino int8": OpenVino(1, spans_of(network, watch.ranges)).twin(network, "bfloat16"),
    }


if __name__ == "__main__":
    main()
