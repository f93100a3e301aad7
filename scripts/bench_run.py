"""From a folder to a model with scores, beside the reference at the same wall time: each on one core, both at once.

    scripts/bench_run.py FOLDER --minutes 20 --peer ENV --work FOLDER --kills 2

Ours is `autounet run FOLDER --time 20m`: five folds, killed so many times on the way and typed again. The reference plans, prepares and
then spends all that is left of the same time on the first of these folds alone, five times what a fold has here; its poly schedule ends
with the clock. Final validation is not counted on either side. Both sets of masks of that fold are scored by the same code.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Ours:
    """What a run of ours came to."""

    wall_seconds: float
    kills: int
    code: int
    last_lines: tuple[str, ...]


def command(given: argparse.Namespace, verb: str) -> list[str]:
    """One of ours, with one thread."""
    words = [sys.executable, "-m", "autounet", verb, str(given.dataset.resolve()), "--work", str(given.work.resolve() / "ours")]
    alone = ["--folds", "0"] if given.alone else []
    return [*words, "--time", f"{given.minutes:g}m", "--threads", "1", *alone]


def listed_cases(given: argparse.Namespace) -> dict[str, Any]:
    """What our index and splits say, as plain files for the reference; fold 0 is held out."""
    from autounet.data.dataset import Dataset
    from autounet.data.splits import read_splits
    from autounet.store.strict import read_value

    work = given.work / "ours"
    data = read_value(work / "index.json", Dataset, max_bytes=2**27)
    values = [one.value for one in data.labels.classes]
    if values != list(range(len(values))):
        raise SystemExit(f"the reference wants labels without gaps, not {values}")
    cases = []
    for case in data.training:
        files = {one.path for one in case.images}
        if len(files) > 1 or case.label is None:
            raise SystemExit(f"{case.id} has several image files: bench_run.py hands over cases of one")
        cases.append({"id": case.id, "image": str(data.folder / files.pop()), "label": str(data.folder / case.label.path)})
    endings = {"".join(Path(one["image"]).suffixes[-2 if one["image"].endswith(".gz") else -1 :]) for one in cases}
    (ending,) = endings
    names = [one.name for one in data.channels]
    return {
        "cases": cases,
        "held_out": list(read_splits(work / "splits.json", data).folds[0].validation),
        "channels": ["R", "G", "B"] if len(names) == 3 and ending == ".png" else names,
        "labels": {one.name: one.value for one in data.labels.classes},
        "ending": ending,
    }


def start_reference(given: argparse.Namespace, configuration: str, core: int) -> subprocess.Popen[str]:
    """The other half, bound to its core."""
    listed = given.work / "cases.json"
    listed.write_text(json.dumps(listed_cases(given)))
    script = ROOT / "scripts" / "bench_accuracy_reference.py"
    words = [str(given.peer / "bin" / "python"), str(script), "--cases", str(listed), "--work", str(given.work / "reference")]
    words += ["--minutes", f"{given.minutes:g}", "--configuration", configuration]
    with (given.work / "reference.log").open("w") as log:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))


def run_ours(given: argparse.Namespace, began: float, core: int) -> Ours:
    """The run, killed at even distances of its time, and typed again after each."""
    with (given.work / "ours.log").open("w") as log:
        for number in range(given.kills + 1):
            process = subprocess.Popen(
                command(given, "run"), stdout=log, stderr=log, cwd=ROOT, preexec_fn=lambda: os.sched_setaffinity(0, {core})
            )
            if number == given.kills:
                code = process.wait()
                break
            moment = began + given.minutes * 60 * (number + 1) / (given.kills + 1)
            try:
                process.wait(max(moment - time.monotonic(), 0.0))
                raise SystemExit(f"the run ended with {process.returncode} before it could be killed; see ours.log")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    wall = time.monotonic() - began
    return Ours(wall, given.kills, code, tuple((given.work / "ours.log").read_text().splitlines()[-6:]))


def scored(masks: Path, given: argparse.Namespace, only: set[str]) -> tuple[float, int]:
    """Mean foreground Dice of the cases named, and how many there were."""
    from autounet.job import Job
    from autounet.progress import Progress
    from autounet.stages.evaluate import evaluate

    found = evaluate(masks, given.dataset, None, Job(work=given.work, progress=Progress.silent()))
    values = [np.nanmean([t.counts.dice for t in case.targets]) for case in found.scored if case.case in only]
    return float(np.mean(values)), len(values)


def main() -> None:
    """One dataset a call."""
    from autounet.stages.plan import read_plan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer", type=Path, metavar="VENV", help="environment with nnunetv2; without it only ours is run")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="ours, too, spends all of its time on the first fold")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.work, cores = given.work.resolve(), sorted(os.sched_getaffinity(0))
    began = time.monotonic()
    subprocess.run(command(given, "plan"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    dimensions = read_plan(given.work / "ours" / "plan.json").dimensions
    configuration = "3d_fullres" if dimensions == 3 else "2d"
    other = start_reference(given, configuration, cores[-1]) if given.peer else None
    ours = run_ours(given, began, cores[0])
    only = set(listed_cases(given)["held_out"])
    print(f"ours: {ours.wall_seconds / 60:.1f} min in all, killed {ours.kills} times, ended with {ours.code}")
    print("\n".join(ours.last_lines))
    for folder in sorted((given.work / "ours" / "runs").glob("*/fold_0/validation")):
        print(f"ours, {folder.parents[1].name}, fold 0: mean Dice {scored(folder, given, only)}", flush=True)
    if other is None:
        return
    theirs = json.loads(other.communicate()[0].strip().splitlines()[-1])
    print(f"reference, fold 0 alone: mean Dice {scored(Path(theirs['masks']), given, only)}, {theirs['iterations']} iterations")
    print(f"reference: {configuration}, patch {theirs['patch']} x {theirs['batch']}, {theirs['wall_seconds'] / 60:.1f} min in all")


if __name__ == "__main__":
    main()
