"""Structure sets and DICOM segmentations as label values on the grid of their image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data.dataset import Case, Dataset
from autounet.images.dicom_labels import read_dicom_seg, read_rtstruct
from autounet.images.geometry import Geometry
from autounet.images.image import ReadOptions
from planners.errors import UserError


def read_dicom_values(dataset: Dataset, case: Case, geometry: Geometry) -> tuple[NDArray[Any], list[str]]:
    """Painted in the order of the label table; structures that the table does not name are left out."""
    assert case.label is not None
    options = ReadOptions(root=dataset.folder, follow_outside=dataset.reading.follow_symlinks)
    read = read_rtstruct if case.label.kind == "rtstruct" else read_dicom_seg
    found = {name.casefold(): mask for name, mask in read(dataset.folder / case.label.path, geometry, None, options).items()}
    classes = dataset.labels.foreground
    out = np.zeros(geometry.shape_zyx, np.uint8 if max((c.value for c in classes), default=0) < 256 else np.int32)
    used, overlap = set[str](), 0
    for one in classes:
        mask = found.get(one.name.casefold())
        if mask is not None:
            overlap += int(np.count_nonzero(out[mask]))
            out[mask] = one.value
            used.add(one.name.casefold())
    if not used:
        names = ", ".join(sorted(found)[:20])
        raise UserError(f"{case.label.path} holds none of the label table's structures, only {names}", "name them under [labels]", case.id)
    notes = [f"{overlap:,} voxels are in several structures; the later class was taken"] if overlap else []
    return out, notes
