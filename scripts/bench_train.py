"""Training beside the reference, turn by turn on one machine: augmentation, steps, accuracy at equal time.

    scripts/bench_train.py augment --reference-python ENV/bin/python
    scripts/bench_train.py step --reference-python ENV/bin/python
    scripts/bench_train.py accuracy --dataset FOLDER --minutes 10 --threads 0 --work FOLDER --reference-python ENV/bin/python --together

`--together` gives each its half of the cores at the same time; without it they follow each other.
CPU seconds are what counts on a machine with other work; ratios are printed last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
AUGMENT = (  # patch, classes, what is asked for
    ((40, 56, 40), 3, 3.0),
    ((512, 512), 4, 3.0),
    ((128, 128, 128), 4, 4.0),
    ((128, 128, 128), 60, 10.0),
)
STEPS = (  # patch, batch, features, classes
    ((40, 56, 40), 4, (32, 64, 128, 256), 3),
    ((256, 256), 4, (32, 64, 128, 256, 512, 512, 512), 3),
)


@dataclass(frozen=True)
class Measured:
    """CPU time of both."""

    ours: float
    theirs: float | None

    def line(self, what: str, unit: str) -> str:
        """For the table."""
        theirs = f"{self.theirs:.3g} {unit}, {self.theirs / self.ours:.2f}x" if self.theirs is not None else "not asked"
        return f"{what}: ours {self.ours:.3g} {unit}, reference {theirs}"


def reference(python: str | None, arguments: list[str], key: str) -> float | None:
    """One measurement by the reference in its own environment."""
    if python is None:
        return None
    script = str(ROOT / "scripts" / "bench_train_reference.py")
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])[key])


def augment_ours(patch: tuple[int, ...], classes: int, seconds: float) -> float:
    """CPU milliseconds a patch of the whole sampler: place, draw, read (from memory), warp, intensities."""
    import torch

    from autounet.training.sample import Source
    from tests.training.tiny import REFERENCE, MemoryCase, recipe

    torch.set_num_threads(1)
    patch_zyx = patch if len(patch) == 3 else (1, *patch)
    shape = tuple(1 if edge == 1 else int(edge * 1.7) for edge in patch_zyx)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 1, *[max(1, edge // 16) for edge in shape])))
    label = torch.nn.functional.interpolate(coarse, shape)[0, 0].mul(classes).to(torch.int16).numpy()
    case = MemoryCase(rng.standard_normal((1, *shape), np.float32), label)
    made = recipe(dimensions=len(patch), patch=patch_zyx, augmentation=REFERENCE, cases=("a",))
    source = Source(recipe=made, cases={"a": case})
    source.sample(0, 1)
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        source.sample(count, 1)
        count += 1
    return 1000 * (time.process_time() - cpu) / count


def step_ours(patch: tuple[int, ...], batch: int, features: tuple[int, ...], classes: int, *, precision: str, threads: int) -> float:
    """CPU seconds of one training step as the loop takes it."""
    import torch

    from autounet.losses.level import Targets
    from autounet.losses.segmentation import SegmentationLoss
    from autounet.networks import build
    from autounet.training.allocation import keep_freed_memory
    from autounet.training.execution import execution
    from autounet.training.learner import make_learner
    from autounet.training.sample import Batch
    from planners.labels import LabelClass, Labels
    from planners.plan import Architecture, Loss, Schedule

    torch.set_num_threads(threads or torch.get_num_threads())
    keep_freed_memory()
    dimensions, stages = len(patch), len(features)
    architecture = Architecture(
        kind="plain",
        dimensions=dimensions,  # type: ignore[arg-type]
        features=features,
        strides_zyx=((1, 1, 1), *[(2 if dimensions == 3 else 1, 2, 2)] * (stages - 1)),
        kernels_zyx=((3 if dimensions == 3 else 1, 3, 3),) * stages,
        encoder_blocks=(2,) * stages,
        decoder_convolutions=(2,) * (stages - 1),
    )
    weights = [1 / 2**i for i in range(stages - 2)] + [0.0]
    labels = Labels(classes=tuple(LabelClass(name=f"c{i}", value=i) for i in range(classes)))
    loss = SegmentationLoss(loss=Loss(level_weights=tuple(w / sum(weights) for w in weights)), labels=labels)
    schedule = Schedule(ema_decay=0.999)
    learner = make_learner(build(architecture, 1, classes), loss, execution("cpu", precision), schedule)  # type: ignore[arg-type]
    data = Batch(torch.randn(batch, 1, *patch), Targets(classes=torch.randint(0, classes, (batch, *patch), dtype=torch.int16)), ())
    spent = []
    for _ in range(4):
        cpu = time.process_time()
        learner.step(data, 0.01)
        spent.append(time.process_time() - cpu)
    return float(np.median(spent[1:]))


def augment(given: argparse.Namespace) -> None:
    """(a) augmented patches per CPU second."""
    for patch, classes, wanted in AUGMENT:
        ours, theirs = [], []
        for _ in range(given.rounds):
            ours.append(augment_ours(patch, classes, given.seconds))
            arguments = ["augment", "--patch", ",".join(map(str, patch)), "--classes", str(classes), "--seconds", str(given.seconds)]
            theirs.append(reference(given.reference_python, arguments, "cpu_ms"))
        known = [t for t in theirs if t is not None]
        measured = Measured(float(np.median(ours)), float(np.median(known)) if known else None)
        print(measured.line(f"augment {patch}, {classes} classes (wanted {wanted:g}x)", "ms of CPU a patch"), flush=True)


def steps(given: argparse.Namespace) -> None:
    """(b) training steps."""
    for patch, batch, features, classes in STEPS:
        common = ["--patch", ",".join(map(str, patch)), "--batch", str(batch), "--features", ",".join(map(str, features))]
        arguments = ["step", *common, "--classes", str(classes), "--threads", str(given.threads)]
        theirs = reference(given.reference_python, arguments, "cpu_s")
        for precision in ("float32", "bfloat16"):
            ours = step_ours(patch, batch, features, classes, precision=precision, threads=given.threads)
            print(Measured(ours, theirs).line(f"step {patch} x {batch}, {precision}", "s of CPU"), flush=True)


def start_reference(given: argparse.Namespace) -> subprocess.Popen[str]:
    """The same question to the reference, in its own environment."""
    script = str(ROOT / "scripts" / "bench_accuracy_reference.py")
    where = ["--dataset", str(given.dataset.resolve()), "--work", str(given.work.resolve() / "reference")]
    words = [given.reference_python, script, *where, "--minutes", str(given.minutes), "--seed", str(given.seed)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def accuracy(given: argparse.Namespace) -> None:
    """(c) mean foreground Dice of every fifth case after so many minutes of training on the others, ours and the reference's."""
    if given.reference_python is None:
        accuracy_ours(given)
        return
    if given.together:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[len(cores) // 2 :])  # the child inherits its half
        other = start_reference(given)
        os.sched_setaffinity(0, cores[: len(cores) // 2])
        accuracy_ours(given)
    else:
        accuracy_ours(given)
        other = start_reference(given)
    found = json.loads(other.communicate()[0].strip().splitlines()[-1])
    scores = ", ".join(f"{name} {value:.4f}" for name, value in found["classes"].items())
    print(f"reference: features {found['features']}, patch {found['patch']} x {found['batch']}, SGD, poly by the clock")
    iterations = f"{given.minutes:g} min, seed {given.seed}: {found['iterations']} iterations"
    print(f"{iterations}, mean Dice {found['dice']:.4f} ({scores})", flush=True)


def accuracy_ours(given: argparse.Namespace) -> None:
    """Our half."""
    from autounet import pipeline
    from autounet.data.splits import Fold, Splits
    from autounet.job import Job
    from autounet.machine import hardware
    from autounet.progress import Progress, Voice
    from autounet.stages import train as stage
    from autounet.store.strict import read_value
    from planners import planner
    from planners.hardware import Budget

    seconds = given.minutes * 60
    given.work.mkdir(parents=True, exist_ok=True)
    threads = None if given.threads == 0 else given.threads
    voice = Voice(folder=given.work, stream=sys.stderr)
    job = Job(work=given.work, progress=Progress(voice), seed=given.seed, threads=threads, device=given.device)
    wishes = pipeline.Wishes(seconds=seconds)
    dataset = pipeline.check(given.dataset, job, wishes)
    fingerprint = pipeline.measure(dataset, job)
    plan = planner(given.planner)(fingerprint, hardware(given.device), Budget(training_seconds=seconds, folds=1))
    name = given.configuration or ("3d_fullres" if plan.dimensions == 3 else "2d")
    names = sorted(case.id for case in dataset.training)
    fold = Fold(train=tuple(n for i, n in enumerate(names) if i % 5), validation=tuple(names[::5]))
    pipeline.prepare(dataset, plan, job, pipeline.Wishes(configurations=(name,)))
    splits = Splits(rule="given", seed=0, folds=(fold,))
    stage.train(dataset, plan, splits, job, configurations=(name,), folds=(0,), seconds=seconds)
    record = read_value(given.work / "runs" / name / "fold_0" / "run.json", stage.RunRecord)
    known = [t.dice for t in record.validation if t.dice is not None]
    scores = ", ".join(f"{t.target} {t.dice or 0:.4f}" for t in record.validation)
    chosen = plan.configuration(name)
    print(f"{name}, features {chosen.architecture.features}, patch {chosen.patch_zyx} x {chosen.batch_size}, {chosen.schedule.optimiser}")
    iterations = f"{given.minutes:g} min, seed {given.seed}: {record.iterations} iterations"
    print(f"{iterations}, mean Dice {np.mean(known):.4f} ({scores})", flush=True)


def main() -> None:
    """Choose what to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("augment", "step", "accuracy"))
    parser.add_argument("--reference-python", help="interpreter of an environment with nnunetv2; without it only ours is measured")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="0: all cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--planner", default="default")
    parser.add_argument("--configuration")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("bench_train_work"))
    parser.add_argument("--together", action="store_true", help="both at the same time, each on half of the cores")
    given = parser.parse_args()
    {"augment": augment, "step": steps, "accuracy": accuracy}[given.what](given)


if __name__ == "__main__":
    main()
