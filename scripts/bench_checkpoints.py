"""What is left of the last checkpoint when saving the next one goes wrong: ours beside the reference's way of saving.

The reference's trainer hands its state to `torch.save` under the name of the checkpoint that is there already
(nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py, save_checkpoint); that call is made here with the same kind of state,
in the reference's own environment. Kills are put under both by strace.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bench

OURS = """
from pathlib import Path
from autounet.store.checkpoints import Checkpoints

def save(folder, step, numbers):
    Checkpoints(Path(folder)).save(step, {f"{kind}.{i}": t for kind, part in state(step, numbers).items() for i, t in part.items()}, {})

def load(folder):
    found = Checkpoints(Path(folder)).latest()
    return found.step, found.tensors.values()
"""
THEIRS = """
def save(folder, step, numbers):
    parts = state(step, numbers)
    plain = {"network_weights": parts["network"], "optimizer_state": parts["momentum"], "current_epoch": step}
    torch.save(plain, os.path.join(folder, "checkpoint_latest.pth"))

def load(folder):
    found = torch.load(os.path.join(folder, "checkpoint_latest.pth"), map_location="cpu", weights_only=False)
    return found["current_epoch"], [*found["network_weights"].values(), *found["optimizer_state"].values()]
"""
# One process for all faults of a kind: importing torch anew for each would take hours. Every save is a forked child. A
# tracer counts the calls of each child apart and kills at the LAST one it may make, so a child that is to die at its n-th
# call makes LAST - n idle ones first.
BOTH = """
import os, random, resource, shutil, sys, time, torch
torch.set_num_threads(1)
LAST = 400

def state(step, numbers):
    return {kind: {str(i): torch.full((numbers // 16,), float(step)) for i in range(8)} for kind in ("network", "momentum")}

def child(work):
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    save(folder, 1, 160_000)
    return 0

def sound(folder):
    try:
        step, tensors = load(folder)
        return 0 if step in (1, 2) and all(bool((t == step).all()) for t in tensors) else 2
    except Exception:
        return 1

def idle(call, scratch):
    if call == "write":
        os.write(scratch, b"")
    elif call == "writev":
        os.writev(scratch, [b""])
    elif call == "fsync":
        os.fsync(scratch)
    elif call == "rename":
        os.rename("scratch", "scratch")
    else:
        try:
            os.unlink("nothing")
        except OSError:
            pass

def killed(folder, call, at):
    scratch = os.open("scratch", os.O_CREAT | os.O_WRONLY)
    for _ in range(LAST - at):
        idle(call, scratch)
    save(folder, 2, 160_000)
    return 0

def full(folder, part):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(640_000 * part),) * 2)
    save(folder, 2, 160_000)
    return 0

def kills(call):
    lost = points = 0
    for at in range(1, LAST):
        child(lambda: fresh("f"))
        if child(lambda: killed("f", call, at)) == 0:
            break
        points += 1
        lost += child(lambda: sound("f")) != 0
    return lost, points

def fulls():
    lost, parts = 0, [0.02, 0.2, 0.5, 0.8, 0.98]
    for part in parts:
        child(lambda: fresh("f"))
        child(lambda: full("f", part))
        lost += child(lambda: sound("f")) != 0
    return lost, len(parts)

def flips(count):
    rng, unnoticed = random.Random(7), 0
    fresh("f")
    name = max((e.path for e in os.scandir("f")), key=os.path.getsize)
    whole = open(name, "rb").read()
    for _ in range(count):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        open(name, "wb").write(data)
        unnoticed += sound("f") == 2
    return unnoticed, count

def timed(repeats, numbers):
    seconds = []
    os.makedirs("timed")
    for step in range(1 + repeats):
        start = time.perf_counter()
        save("timed", step, numbers)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repeats // 2], numbers

os.chdir(sys.argv[1])
what, *arguments = sys.argv[2:]
first, second = {"kills": kills, "fulls": fulls, "flips": flips, "timed": timed}[what](*(int(a) if a.isdigit() else a for a in arguments))
sys.stdout.write(f"{first} {second}")
"""


def run(python: Path, program: str, words: tuple[str, ...], tracer: tuple[str, ...] = ()) -> tuple[float, int]:
    """The two numbers that one kind of trial prints, in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        command = [*tracer, str(python), "-c", program + BOTH, place, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    first, second = done.stdout.split()
    return float(first), int(second)


def kills(python: Path, program: str) -> str:
    """SIGKILL at the n-th write, writev, fsync, rename and unlink of saving step 2 when step 1 is there, until none is left."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not here"
    lost, points = 0, 0
    for call in ("write", "writev", "fsync", "rename", "unlink"):
        inject = (f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when=400")
        one = run(python, program, ("kills", call), (strace, "-f", "-qq", "-o", "/dev/null", "-e", *inject))
        lost, points = lost + int(one[0]), points + one[1]
    return f"{lost} of {points}"


def main() -> None:
    """Kill, fill the disk, flip bits, and time an undisturbed save."""
    parser = bench.arguments(__doc__ or "")
    parser.add_argument("--numbers", type=int, default=60_000_000, help="floats in the state that is timed: 30 million weights and momenta")
    parser.add_argument("--flips", type=int, default=100)
    options = parser.parse_args()
    ways = [("autounet", Path(sys.executable), OURS)]
    if options.peer is not None:
        ways.append(("nnU-Net v2", options.peer / "bin" / "python", THEIRS))
    rows = ["| | killed while saving: no good one left | disk full: no good one left | flipped bits: unnoticed | seconds a save |"]
    rows.append("|---|---|---|---|---|")
    for name, python, program in ways:
        cells = [name, kills(python, program)]
        for words in (("fulls",), ("flips", str(options.flips))):
            bad, of = run(python, program, words)
            cells.append(f"{bad:.0f} of {of}")
        bench.wait_until_quiet(options.quiet_seconds)
        cells.append(f"{run(python, program, ('timed', str(options.repeats), str(options.numbers)))[0]:.2f}")
        rows.append("| " + " | ".join(cells) + " |")
    print(f"{bench.machine_line()}\n\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
