"""How long it takes until something is said: the help of every verb, version and the import, beside the reference's."""

from __future__ import annotations

import sys
from pathlib import Path

import bench

from autounet.cli.app import app

# What the reference has for a verb of ours; those without are timed alone.
COUNTERPARTS = {
    ("predict",): "nnUNetv2_predict",
    ("train",): "nnUNetv2_train",
    ("plan",): "nnUNetv2_plan_experiment",
    ("prepare",): "nnUNetv2_preprocess",
    ("evaluate",): "nnUNetv2_evaluate_folder",
    ("run",): "nnUNetv2_plan_and_preprocess",
    ("import", "nnunet"): "nnUNetv2_install_pretrained_model_from_zip",
    ("export", "nnunet"): "nnUNetv2_export_model_to_zip",
}
IMPORTS = (
    ("the import", ("-c", "import autounet"), ("python", "-c", "import nnunetv2")),
    (
        "the import of what predicts, torch included",
        ("-c", "import autounet.model, autounet.inference.predict"),
        ("python", "-c", "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor"),
    ),
)


def helps() -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Every verb there is, asked for its help; with what the reference answers to the like."""
    found = [("the version", ("-m", "autounet", "--version"), ()), ("the first help", ("-m", "autounet", "--help"), ())]
    for name in app:
        if not name.startswith("-"):
            for words in [(name,), *((name, below) for below in app[name] if not below.startswith("-"))]:
                other = COUNTERPARTS.get(words)
                found.append((f"help of {' '.join(words)}", ("-m", "autounet", *words, "--help"), (other, "-h") if other else ()))
    return found


def main() -> None:
    """Measure every pair."""
    options = bench.arguments(__doc__ or "").parse_args()
    found = []
    for task, ours, theirs in (*helps(), *IMPORTS):
        mine = bench.Command(name="autounet", words=(sys.executable, *ours))
        other = None
        if options.peer is not None and theirs:
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
