#!/usr/bin/env python3
"""Check and fingerprint of a dataset, next to the reference's fingerprint with its integrity check.

    scripts/bench_measure.py [--data FOLDER] [--peer VENV] [--write]

FOLDER holds images/ and labels/ with equal names (the hippocampus crops). A second task is made here: CT-like phantoms.
Both programs read the same raw nnU-Net folders, which are made in a temporary folder.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import bench

from autounet.phantoms import make

OURS = """
import sys
from pathlib import Path
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.check import check
from autounet.stages.measure import measure
job = Job(work=Path(sys.argv[2]), progress=Progress.silent())
measure(check(Path(sys.argv[1]), job), job)
"""
HIPPOCAMPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "hippocampus_msd"
TITLE = "Check and fingerprint"


def main() -> None:
    parser = bench.arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="images/ and labels/ of the first task; without it only phantoms are measured"
    )
    parser.add_argument("--cases", type=int, default=12, metavar="N", help="phantoms")
    parser.add_argument("--size", type=int, default=256, metavar="VOXELS", help="in-plane edge of the phantoms; 256 gives 256x256x150")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_measure_") as text:
        root = Path(text)
        tasks = []
        if given.data.is_dir():
            tasks.append((f"{given.data.name}", raw_copy(given.data, root / "raw" / "Dataset001_Copy")))
        phantoms = make("ct", root / "raw" / "Dataset002_Phantoms", cases=given.cases, size=given.size, layout="nnunet")
        tasks.append((f"{given.cases} CT phantoms {given.size}x{given.size}", phantoms))
        comparisons = [
            bench.compare(
                name, ours(folder, root), theirs(folder, root, given.peer), repeats=given.repeats, quiet_seconds=given.quiet_seconds
            )
            for name, folder in tasks
        ]
    notes = ["Ours is `check` and the fingerprint in one process; theirs is `nnUNetv2_extract_fingerprint --verify_dataset_integrity`."]
    if given.peer is not None:
        notes.append(f"Reference: {bench.versions(given.peer / 'bin' / 'python', ['nnunetv2', 'SimpleITK', 'numpy'])}.")
    bench.conclude(TITLE, comparisons, notes, write=given.write)


def ours(folder: Path, root: Path) -> bench.Command:
    work = root / "work"
    return bench.Command(
        name="ours",
        words=(sys.executable, "-c", OURS, str(folder), str(work)),
        folder=Path(__file__).resolve().parents[1],
        before=lambda: shutil.rmtree(work, ignore_errors=True),
    )


def theirs(folder: Path, root: Path, peer: Path | None) -> bench.Command | None:
    if peer is None:
        return None
    number = str(int(folder.name[7:10]))
    places = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    return bench.Command(
        name="reference",
        words=(str(peer / "bin" / "nnUNetv2_extract_fingerprint"), "-d", number, "--verify_dataset_integrity", "--clean"),
        environment=places,
        before=lambda: shutil.rmtree(root / "preprocessed", ignore_errors=True),
    )


def raw_copy(data: Path, folder: Path) -> Path:
    """The folder as raw nnU-Net data; files are linked where that is possible."""
    pairs = [(image, data / "labels" / image.name) for image in sorted((data / "images").glob("*.nii.gz"))]
    for image, label in pairs:
        place(image, folder / "imagesTr" / image.name.replace(".nii.gz", "_0000.nii.gz"))
        place(label, folder / "labelsTr" / label.name)
    record = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(pairs),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(record))
    return folder


def place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
