"""A small run that publishes through the store in every way, to be killed and starved at every call.

Like a stage, it does only what is not yet done, so typing it again goes on where it was: first everything is
made, then everything that may be published again is, with other content. Run as a program, it goes through the
fault points of some kinds, each in a forked child, and prints what it saw.
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
from faults import KILLS, NO_SWAP, Fault, fault

from autounet.store.bundle import Card, Contents, MemberFile, open_bundle, write_bundle
from autounet.store.cache import Cache, key
from autounet.store.checkpoints import Checkpoints
from autounet.store.files import Digest, publish_bytes, publish_json, publish_tree
from autounet.store.lock import lock
from autounet.store.manifest import Manifest
from autounet.store.selection import Chosen, Selection
from autounet.store.sweep import sweep
from autounet.store.weights import save_tensors
from planners.errors import UserError
from planners.fingerprint import CaseSize, ChannelSeen, Fingerprint, Intensities
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan

STEPS = (10, 20, 30)
MASKS = ("masks/a.bin", "masks/b.bin")
KEY = key("case", "a")
WEIGHTS, MADE, MENDED = "weights.safetensors", "made.json", "mended.json"


def main(folder: Path) -> None:
    """All that a run does."""
    sweep(folder)
    with lock(folder / "run.lock", "the whole run"):
        manifest = Manifest.open(folder)
        for name in MASKS:
            if not manifest.has(name, check="hash"):
                manifest.add(name, publish_bytes(folder / name, content(name)))
        if not manifest.has(WEIGHTS, check="hash"):
            manifest.add(WEIGHTS, save_tensors(folder / WEIGHTS, {"w": weights(1)}))
        Cache(folder / "cache").put(KEY, partial(fill, "old"))
        make(folder, manifest)
        make_again(folder, manifest)
        mend_cache(folder, manifest)
        checkpoints = Checkpoints(folder / "checkpoints")
        latest = checkpoints.latest("numpy")
        for step in STEPS:
            if latest is None or step > latest.step:
                checkpoints.save(step, {"w": weights(step)}, {"step": step}, best=step == STEPS[0])
        checkpoints.tidy()


def make(folder: Path, manifest: Manifest) -> None:
    """The first plan, folder and model."""
    if not manifest.has(MADE, check="hash"):
        for name, publish in RENEWED.items():
            if not manifest.has(name, check="hash"):
                manifest.add(name, publish(folder / name, "old"))
        manifest.add(MADE, publish_json(folder / MADE, "everything once"))


def make_again(folder: Path, manifest: Manifest) -> None:
    """The same names with other content, as after a new plan: an entry goes before its file is replaced."""
    for name, publish in RENEWED.items():
        if not manifest.has(name, check="hash") or version(folder / name) != "new":
            manifest.remove(name)
            manifest.add(name, publish(folder / name, "new"))


def mend_cache(folder: Path, manifest: Manifest) -> None:
    """An entry of the cache that the disk cut short is made anew."""
    if not manifest.has(MENDED, check="hash"):
        cache = Cache(folder / "cache")
        os.truncate(cache.path(KEY) / "voxels/image.bin", 1000)
        assert cache.get(KEY) is None
        assert not cache.verify(KEY)
        cache.put(KEY, partial(fill, "old"))
        manifest.add(MENDED, publish_json(folder / MENDED, "the cache"))


def publish_plan(path: Path, text: str) -> Digest:
    return publish_json(path, {"name": text, "numbers": list(range(100))})


def publish_folder(path: Path, text: str) -> Digest:
    return publish_tree(path, partial(fill, text))


def publish_model(path: Path, text: str) -> Digest:
    return write_bundle(path, contents(text, path.with_name(WEIGHTS)))


RENEWED: dict[str, Callable[[Path, str], Digest]] = {"plan.json": publish_plan, "tree": publish_folder, "m.aunet": publish_model}


def version(path: Path) -> str:
    """Old or new, when it is whole; else what is wrong."""
    try:
        if path.name == "plan.json":
            plain = json.loads(path.read_bytes())
            return str(plain["name"]) if plain["numbers"] == list(range(100)) else "torn"
        if path.name == "tree":
            files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
            found = str(json.loads((path / "frame.json").read_bytes())["made"])
            whole = files == ["frame.json", f"voxels/{found}.bin"] or files == ["frame.json", "voxels/image.bin"]
            return found if whole and (path / files[1]).read_bytes() == content(found) else f"torn: {files}"
        bundle = open_bundle(path)
        bundle.check()
        return bundle.card.description
    except (OSError, ValueError, KeyError, IndexError, UserError) as error:
        return f"{type(error).__name__}: {error}"


def content(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest() * 200


def fill(text: str, folder: Path) -> None:
    # Another file, so that a mixture of two folders would show.
    publish_bytes(folder / ("voxels/image.bin" if text == "old" else "voxels/new.bin"), content(text))
    publish_json(folder / "frame.json", {"made": text})


def contents(text: str, member: Path) -> Contents:
    """The smallest model there is."""
    network = Architecture(
        kind="plain",
        dimensions=3,
        features=(4, 8),
        strides_zyx=((1, 1, 1), (2, 2, 2)),
        kernels_zyx=((3, 3, 3), (3, 3, 3)),
        encoder_blocks=(1, 1),
        decoder_convolutions=(1,),
    )
    configuration = Configuration(
        name="3d_fullres",
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=(8, 8, 8),
        patch_zyx=(8, 8, 8),
        batch_size=2,
        architecture=network,
        augmentation=Augmentation(steps=()),
    )
    labels = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="liver", value=1)))
    plan = Plan(
        planner="test",
        dataset="tiny",
        dimensions=3,
        channels=(ChannelPlan(name="t1", modality="mr", scheme="none"),),
        labels=labels,
        configurations=(configuration,),
        train=("3d_fullres",),
    )
    around = Intensities(mean=0.0, median=0.0, std=1.0, minimum=-5.0, maximum=5.0, percentile_00_5=-3.0, percentile_99_5=3.0)
    fingerprint = Fingerprint(
        dataset="tiny",
        dimensions=3,
        cases=(CaseSize(case="a", shape_zyx=(8, 8, 8), spacing_zyx_mm=(1.0, 1.0, 1.0)),),
        channels=(ChannelSeen(name="t1", modality="mr", confidence=1.0, foreground=around),),
        labels=labels,
    )
    return Contents(
        plan=plan,
        fingerprint=fingerprint,
        selection=Selection(members=(Chosen(configuration="3d_fullres", folds=(0,)),), why="the only one"),
        card=Card(name="tiny", description=text),
        members=[MemberFile("3d_fullres", 0, member)],
    )


def weights(step: int) -> "np.ndarray[Any, Any]":
    return np.arange(300, dtype=np.float32) * step


def unsound(folder: Path) -> list[str]:
    """Everything that is visible and wrong, and everything finished that is neither the old nor the new one."""
    manifest = Manifest.open(folder)
    wrong = [f"manifest: {name}" for name in manifest.damaged()] if folder.is_dir() else []
    for name in MASKS:
        path = folder / name
        if path.exists() and path.read_bytes() != content(name):
            wrong.append(f"torn: {name}")
    for name in RENEWED:
        if (folder / name).exists() or manifest.has(MADE):
            found = version(folder / name)
            wrong += [] if found in ("old", "new") else [f"torn or lost: {name}: {found}"]
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


def attempt(folder: Path, kind: str, at: int, said: Path) -> int:
    """Run under a fault: 0 done, 4 an error for the user, 99 done and the fault never came."""
    under: Fault = fault(kind, at, folder)
    under.install()
    try:
        main(folder)
    except UserError as error:
        said.write_text(f"{under.where}\n{error}")
        return 4
    except BaseException as error:
        said.write_text(f"{under.where}\n{type(error).__name__}: {error}")
        return 1
    said.write_text(under.where if under.fired else json.dumps(under.names))
    return 0 if under.fired else 99


def plain_run(folder: Path) -> int:
    main(folder)
    return 0


def swept(folder: Path) -> int:
    sweep(folder)
    return 0


def go_through(kind: str, stride: int, place: Path) -> dict[str, Any]:
    """The fault points of one kind: kill or fail at call 1, 2, 3 … until a run ends untouched.

    With a stride only every so manieth, and all around the moment in which one folder takes the place of another.
    """
    said, undisturbed = place / "said", place / f"{kind}_undisturbed"
    assert in_child(partial(attempt, undisturbed, kind, 0, said)) == 99
    names = json.loads(said.read_text())
    wanted = snapshot(undisturbed)
    chosen = {*range(1, len(names) + 1, stride), *around_the_swap(names)}
    problems: list[str] = []
    ends: dict[str, int] = {}
    for at in [*sorted(chosen), len(names) + 1]:
        folder = place / f"{kind}_{at}"
        said.write_text("")
        code = in_child(partial(attempt, folder, kind, at, said))
        if code == 99:
            continue
        ends[str(code)] = ends.get(str(code), 0) + 1
        try:
            found = after_fault(folder, kind, code, said.read_text(), wanted)
        except UserError as error:
            found = [f"unreadable: {error}"]
        problems += [f"{kind} {at}: {p}" for p in found]
    assert code == 99, "the faults never end"
    return {"calls": len(names), "points": sum(ends.values()), "ends": ends, "problems": problems, "files": len(wanted)}


def around_the_swap(names: list[str]) -> set[int]:
    """The calls from the swap of two folders (or what stands for it) to the end of the old one."""
    first_removed = names.index("rmdir") if "rmdir" in names else 0
    return {at for at in range(first_removed - 12, first_removed + 4) if 1 <= at <= len(names)} if first_removed else set()


def after_fault(folder: Path, kind: str, code: int, said: str, wanted: dict[str, str]) -> list[str]:
    """What is wrong after a fault, and after the run that follows it."""
    if kind.startswith(NO_SWAP):  # where two names cannot be swapped, a folder may be aside for a moment, and the next run brings it back
        in_child(partial(swept, folder))
    kind = kind.removeprefix(NO_SWAP)
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
    to, each, *kinds = sys.argv[1:]
    with redirect_stdout(sys.stderr):
        seen = {kind: go_through(kind, int(each), Path(to)) for kind in kinds}
    sys.stdout.write(json.dumps(seen))
