"""Models of nnU-Net taken in, and ours given out."""

from pathlib import Path

from autounet.interop.nnunet_export import export_nnunet
from autounet.interop.nnunet_import import import_nnunet
from autounet.job import Job
from autounet.store.bundle import SUFFIX, open_bundle
from planners.errors import UserError


def take_in(source: Path, out: Path, job: Job, *, configuration: str | None = None) -> Path:
    """A folder or zip of nnU-Net v2 becomes the model file `out`; a file that is there is never replaced."""
    path = out if out.suffix == SUFFIX else out / f"{source.name.split('.')[0]}{SUFFIX}"
    if path.exists():
        raise UserError(f"{path.name} is there already", "name another file, or delete it first")
    imported = import_nnunet(source, path, configuration=configuration)
    for name, folds in imported.folds.items():
        job.progress.note(f"{name}: folds {', '.join(map(str, folds))}")
    for note in imported.notes:
        job.progress.warn(note)
    return path


def give_out(model: Path, out: Path, job: Job) -> tuple[Path, ...]:
    """Folders that nnU-Net v2 predicts with."""
    bundle = open_bundle(model)
    folders = export_nnunet(bundle, out)
    if any(c.inference.peak == "middle" for c in bundle.plan.configurations):
        job.progress.note("nnU-Net weighs its tiles otherwise: where an image is larger than a patch, single voxels at seams may differ")
    job.progress.note(f"predict with: nnUNetv2_predict_from_modelfolder -m {folders[-1].name} -i IMAGES -o MASKS")
    return folders
