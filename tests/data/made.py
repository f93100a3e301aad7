"""Small datasets on disk, written by nibabel and Pillow so that nothing of ours vouches for itself."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autounet.data.dataset import Dataset, Problem
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.check import check

SPACING = np.diag([0.8, 0.9, 2.5, 1.0])
SHAPE = (12, 11, 10)  # x, y, z


def picture(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    """Noise that differs with the seed, no voxel 0."""
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def mask(shape: tuple[int, ...] = SHAPE, value: int = 1, low: int = 2, high: int = 6) -> NDArray[np.uint8]:
    """A block."""
    out = np.zeros(shape, np.uint8)
    out[tuple(slice(low, high) for _ in shape)] = value
    return out


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = SPACING) -> Path:
    """A NIfTI file by nibabel, in millimetres, arrays indexed (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nib.Nifti1Image(array, affine)
    made.header.set_xyzt_units("mm")
    nib.save(made, path)
    return path


def save_png(path: Path, array: NDArray[Any], mode: str | None = None) -> Path:
    """A picture by Pillow, arrays indexed (y, x[, colour])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(array)
    (made if mode is None else made.convert(mode)).save(path)
    return path


def pairs(folder: Path, cases: int = 6, **labels: NDArray[Any]) -> Path:
    """images/ and labels/ with cases p0, p1, …; `labels` replaces single ones."""
    for number in range(cases):
        name = f"p{number}"
        save(folder / "images" / f"{name}.nii.gz", picture(number))
        save(folder / "labels" / f"{name}.nii.gz", labels.get(name, mask()))
    return folder


def checked(folder: Path, toml: str = "", layout: str | None = None) -> Dataset:
    """The dataset after check, with a work folder beside it."""
    work = folder.with_name(folder.name + ".autounet")
    work.mkdir(exist_ok=True)
    if toml:
        (work / "autounet.toml").write_text(toml)
    return check(folder, Job(work=work, progress=Progress.silent()), layout=layout)


def found(dataset: Dataset, code: str, case: str | None = None) -> Problem:
    """The one finding of that kind."""
    problems = [p for p in dataset.problems if p.code == code and (case is None or p.case == case)]
    assert len(problems) == 1, f"{code}: {[(p.code, p.case, p.found) for p in dataset.problems]}"
    return problems[0]
