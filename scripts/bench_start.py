"""How long it takes until something is said: help, version and the import, beside the reference's."""

from __future__ import annotations

import sys
from pathlib import Path

import bench

PAIRS = (
    ("a help text", ("-m", "autounet", "predict", "--help"), ("nnUNetv2_predict", "-h")),
    ("help of the training", ("-m", "autounet", "train", "--help"), ("nnUNetv2_train", "-h")),
    ("the import", ("-c", "import autounet"), ("python", "-c", "import nnunetv2")),
    (
        "the import of what predicts, torch included",
        ("-c", "import autounet.model, autounet.inference.predict"),
        ("python", "-c", "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor"),
    ),
)


def main() -> None:
    """Measure every pair."""
    options = bench.arguments(__doc__ or "").parse_args()
    found = []
    for task, ours, theirs in PAIRS:
        mine = bench.Command(name="autounet", words=(sys.executable, *ours))
        other = None
        if options.peer is not None:
            other = bench.Command(
                name="nnU-Net v2",
                words=(str(options.peer / "bin" / theirs[0]), *theirs[1:]),
                environment={"nnUNet_raw": "/tmp", "nnUNet_preprocessed": "/tmp", "nnUNet_results": "/tmp"},
            )
        found.append(bench.compare(task, mine, other, repeats=options.repeats, quiet_seconds=options.quiet_seconds))
    notes = [f"Ours: {bench.versions(Path(sys.executable), ['autounet', 'torch'])}."]
    if options.peer is not None:
        notes.append(f"Theirs: {bench.versions(options.peer / 'bin' / 'python', ['nnunetv2', 'torch'])}.")
    bench.conclude("Start", found, notes, write=options.write)


if __name__ == "__main__":
    main()
