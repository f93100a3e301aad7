"""The middle of each case's gray values, from the records that `check` kept; so drift between scanners can be named."""

from pathlib import Path

import numpy as np

from autounet.data.dataset import Dataset
from autounet.data.records import Records, record_key


def medians(work: Path, dataset: Dataset) -> dict[str, tuple[float, ...]]:
    """By case one value a channel; cases whose record is not there any more are left out."""
    records = Records(work / "cache" / "records")
    hashes = {file.path: file.sha256 for file in dataset.file_hashes}
    found = {}
    for case in dataset.cases:
        files = {f.path for f in (*case.images, *([case.label] if case.label else []), *(m.file for m in case.masks))}
        record = records.get(record_key(dataset, case, hashes)) if files <= hashes.keys() else None
        if record is not None and all(channel.everywhere.count for channel in record.channels):
            found[case.id] = tuple(_median(*channel.everywhere.points()) for channel in record.channels)
    return found


def _median(values: np.ndarray, shares: np.ndarray) -> float:
    return float(values[min(int(np.searchsorted(np.cumsum(shares), 0.5)), len(values) - 1)])
