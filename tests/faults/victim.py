"""A small run that publishes through the store in every way, to be killed and starved at every call.

Like a stage, it does only what is not yet done, so typing it again goes on where it was. Run as a
program, it goes through all fault points of one kind, each in a forked child, and prints what it saw.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from faults import KILLS, Fault, fault

from autounet.store.cache import Cache, key
from autounet.store.checkpoints import Checkpoints
from autounet.store.files import publish_bytes, publish_json, publish_tree
from autounet.store.lock import lock
from autounet.store.manifest import Manifest
from autounet.store.sweep import sweep
from planners.errors import UserError

STEPS = (10, 20, 30)
MASKS = ("masks/a.bin", "masks/b.bin")
KEY = key("case", "a")


def main(folder: Path) -> None:
    """All that a run does."""
    sweep(folder)
    with lock(folder / "run.lock", "the whole run"):
        manifest = Manifest.open(folder)
        for name in MASKS:
            if not manifest.has(name, check="hash"):
                manifest.add(name, publish_bytes(folder / name, content(name)))
        if not manifest.has("plan.json", check="hash"):
            manifest.add("plan.json", publish_json(folder / "plan.json", {"name": "a plan", "numbers": list(range(100))}))
        if not manifest.has("tree", check="hash"):
            manifest.add("tree", publish_tree(folder / "tree", fill))
        Cache(folder / "cache").put(KEY, fill)
        checkpoints = Checkpoints(folder / "checkpoints")
        latest = checkpoints.latest("numpy")
        for step in STEPS:
            if latest is None or step > latest.step:
                checkpoints.save(step, {"w": weights(step)}, {"step": step}, best=step == STEPS[0])
        checkpoints.tidy()


def content(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest() * 200


def fill(folder: Path) -> None:
    publish_bytes(folder / "voxels/image.bin", content("image"))
    publish_json(folder / "frame.json", {"shape": [1, 2, 3]})


def weights(step: int) -> "np.ndarray[Any, Any]":
    return np.arange(300, dtype=np.float32) * step


def unsound(folder: Path) -> list[str]:
    """Everything that is visible and wrong."""
    wrong = [f"manifest: {name}" for name in Manifest.open(folder).damaged()] if folder.is_dir() else []
    for name in MASKS:
        path = folder / name
        if path.exists() and path.read_bytes() != content(name):
            wrong.append(f"torn: {name}")
    entry = Cache(folder / "cache").get(KEY)
    if entry is not None and not Cache(folder / "cache").verify(KEY):
        wrong.append("torn: cache")
    latest = Checkpoints(folder / "checkpoints").latest("numpy")
    if latest is not None and (latest.note or not np.array_equal(latest.tensors["w"], weights(latest.step))):
        wrong.append(f"checkpoint: {latest.note}")
    return wrong


def finished(folder: Path) -> set[str]:
    """Everything that was recorded as done."""
    if not folder.is_dir():
        return set()
    latest = Checkpoints(folder / "checkpoints").latest("numpy")
    steps = {f"step {step}" for step in STEPS if latest is not None and step <= latest.step}
    cached = {"cache"} if Cache(folder / "cache").get(KEY) is not None else set()
    best = Checkpoints(folder / "checkpoints").best("numpy")
    return {*Manifest.open(folder).names(), *steps, *cached, f"best {best.step if best else None}"} - {"best None"}


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder by its bytes."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def in_child(work: Callable[[], int]) -> int:
    """The exit code of `work` in a forked process, negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def attempt(folder: Path, under: Fault, said: Path) -> int:
    """Run under a fault: 0 done, 4 an error for the user, 99 done and the fault never came."""
    under.install()
    try:
        main(folder)
    except UserError as error:
        said.write_text(f"{under.where}\n{error}")
        return 4
    except BaseException as error:
        said.write_text(f"{under.where}\n{type(error).__name__}: {error}")
        return 1
    said.write_text(under.where)
    return 0 if under.fired else 99


def plain_run(folder: Path) -> int:
    main(folder)
    return 0


def go_through(kind: str, place: Path) -> dict[str, Any]:
    """All fault points of one kind: kill or fail at call 1, 2, 3 … until a run ends untouched."""
    wanted_folder = place / "undisturbed"
    in_child(partial(plain_run, wanted_folder))
    wanted = snapshot(wanted_folder)
    problems: list[str] = []
    ends: dict[str, int] = {}
    stride = 7 if kind.startswith("careless") else 1  # those need to find something, not everything
    for at in range(1, 10_000, stride):
        folder, said = place / f"{kind}_{at}", place / "said"
        said.write_text("")
        code = in_child(partial(attempt, folder, fault(kind, at, folder), said))
        if code == 99:
            return {"points": at - 1, "ends": ends, "problems": problems, "files": len(wanted)}
        ends[str(code)] = ends.get(str(code), 0) + 1
        try:
            found = after_fault(folder, kind, code, said.read_text(), wanted)
        except UserError as error:
            found = [f"unreadable: {error}"]
        problems += [f"{kind} {at}: {p}" for p in found]
    raise AssertionError("the faults never end")


def after_fault(folder: Path, kind: str, code: int, said: str, wanted: dict[str, str]) -> list[str]:
    """What is wrong after a fault, and after the run that follows it."""
    wrong, allowed = unsound(folder), (-signal.SIGKILL,) if kind in KILLS else (0, 4)
    if code not in allowed:
        wrong.append(f"ended with {code}: {said}")
    full = code == 4 and "takes room: True" in said and kind in ("enospc", "edquot", "full")
    if full and not ("are free" in said and "needs at least" in said):
        wrong.append(f"says no bytes: {said}")
    if code >= 0 and "unlink" not in said and "rmdir" not in said and (parts := list(folder.rglob("*.part"))):
        wrong.append(f"left {parts}: {said}")
    before = finished(folder)
    if in_child(partial(plain_run, folder)) != 0:
        wrong.append("the next run failed")
    if lost := before - finished(folder):
        wrong.append(f"lost {lost}")
    if (there := snapshot(folder)) != wanted:
        wrong.append(f"differs in {sorted({k for k, _ in there.items() ^ wanted.items()})}: {said}")
    return wrong


if __name__ == "__main__":
    place, *kinds = sys.argv[1:]
    with redirect_stdout(sys.stderr):
        seen = {kind: go_through(kind, Path(place)) for kind in kinds}
    sys.stdout.write(json.dumps(seen))
