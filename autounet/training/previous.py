"""What the first stage of a cascade said of each case, on the second stage's grid."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet import stop
from autounet.arrays.prepare import CaseOnGrid
from autounet.data.dataset import Dataset
from autounet.data.label_values import to_classes
from autounet.data.prepared import PreparedCase
from autounet.data.voxels import read_case
from autounet.images.read import read_image
from autounet.job import Job
from planners.errors import UserError
from planners.plan import Configuration, Plan


def previous_labels(
    dataset: Dataset, plan: Plan, configuration: Configuration, job: Job, cases: Mapping[str, PreparedCase]
) -> dict[str, NDArray[Any]]:
    """Of each case the mask of the fold that had not seen it: what the second stage will meet later is as imperfect."""
    assert configuration.previous is not None
    masks = {path.name.split(".")[0]: path for path in (job.work / "runs" / configuration.previous).glob("fold_*/validation/*.*")}
    found = {}
    with job.progress.task(f"masks of {configuration.previous}", total=len(cases), unit="case") as task:
        for name, case in cases.items():
            stop.check()
            path = masks.get(name.replace("/", "_").split(".")[0])
            if path is None:
                raise UserError(
                    f"{configuration.name} needs the mask of {configuration.previous}, and the fold that makes it is not trained",
                    f"train every fold of {configuration.previous} first",
                    name,
                )
            voxels = read_case(dataset, dataset.case(name), with_label=False)
            label = to_classes(read_image(path).voxels_czyx[0], plan.labels, nearest=False, case=name)
            found[name] = _on_grid(CaseOnGrid(voxels.image_czyx, label, voxels.geometry, plan, configuration), case)
            task.step(doing=name)
    return found


def _on_grid(case: CaseOnGrid, prepared: PreparedCase) -> NDArray[Any]:
    assert case.frame.shape_zyx == prepared.shape_zyx, "the same image prepares to the same grid"
    label = np.empty(case.frame.shape_zyx, case.label_dtype)
    with ThreadPoolExecutor(1) as pool:
        case.label_stream(pool, 1).rows(0, len(label), label)
    kept: NDArray[Any] = np.maximum(label, 0).astype(np.uint8 if label.max() < 256 else np.int16)
    return kept
