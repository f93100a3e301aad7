"""Everything read again and compared with what was recorded when it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autounet import stop
from planners.errors import UserError

if TYPE_CHECKING:
    from autounet.job import Job

AGREEING = 0.999  # share of voxels of the golden mask; processors round differently at boundaries


def verify(path: Path, job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was found sound and what was found damaged, of a model or a work folder."""
    return _model(path, job) if path.is_file() else _work_folder(path, job)


def _model(path: Path, job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from autounet.inference.golden import agreement
    from autounet.model import load
    from autounet.store.bundle import open_bundle

    bundle = open_bundle(path)
    bundle.check()
    sound = [f"{path.name}: all {len(bundle.hashes)} parts have their hashes"]
    model = load(path, device=job.device)  # hashes alone do not say that the weights are weights, and fit their networks
    golden = bundle.golden()
    if golden is None:
        return (*sound, "it holds no golden pair, so its prediction was not tried"), ()
    share = agreement(golden, model.ensemble)
    told = f"the golden image is predicted as on the machine that trained it, on {100 * share:.2f} % of its voxels"
    if share < AGREEING:
        return tuple(sound), (f"{told}: this machine computes something else; try --device cpu",)
    return (*sound, told), ()


def _work_folder(path: Path, job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from autounet.store.manifest import NAME, Manifest

    folders = sorted(found.parent for found in path.rglob(NAME))
    if not folders:
        raise UserError(f"{path} holds nothing that was recorded", "name a work folder or a model that ends in .aunet")
    entries = [(Manifest.open(folder), folder, name) for folder in folders for name in Manifest.open(folder).names()]
    damaged = []
    with job.progress.task("verify", total=len(entries), unit="file") as task:
        for manifest, folder, name in entries:
            stop.check()
            shown = (folder / name).relative_to(path).as_posix()
            task.step(doing=shown, n=0)
            if not manifest.has(name, check="hash"):
                damaged.append(shown)
            task.step()
    return (f"{len(entries) - len(damaged)} of {len(entries)} recorded artefacts have their hashes",), tuple(damaged)
