"""Phantom cases as a dataset folder, in the layouts that people have."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autounet.images.write import write_image, write_mask
from autounet.phantoms.catalogue import Phantom, phantom
from autounet.store.files import publish_json, publish_text
from planners.errors import UserError

Named = Iterator[tuple[str, Phantom]]


def make(kind: str, folder: Path, *, cases: int = 10, size: int | None = None, seed: int = 0, layout: str = "pairs") -> Path:
    """Write `cases` phantoms below `folder`; nothing that lies there already is replaced by other content."""
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r} for phantoms", f"choose one of {', '.join(LAYOUTS)}")
    if cases < 1:
        raise UserError(f"{cases} cases are no dataset", "ask for at least one case")
    name = kind.partition(":")[0]
    named = ((f"{name}_{index:03d}", phantom(kind, index, size=size, seed=seed)) for index in range(cases))
    return LAYOUTS[layout](folder, named)


def _pairs(folder: Path, named: Named) -> Path:
    """images/ and labels/ with equal stems; one file per channel, told apart by its name, but colour stays in one PNG."""
    last = None
    for name, case in named:
        _write_channels(folder / "images", name, case, [f"_{c}" for c in case.channels])
        write_mask(_to(folder / "labels" / f"{name}{case.suffix}"), case.label_zyx, case.geometry)
        if case.instances_zyx is not None:
            write_mask(_to(folder / "instances" / f"{name}{case.suffix}"), case.instances_zyx, case.geometry)
        last = case
    assert last is not None
    names = "\n".join(f'"{label}" = {value}' for label, value in last.classes)
    publish_text(folder / "autounet.toml", f"[labels]\n{names}\n")
    return folder


def _nnunet(folder: Path, named: Named) -> Path:
    """imagesTr, labelsTr and dataset.json as nnU-Net v2 wants them."""
    count, last = 0, None
    for name, case in named:
        _write_channels(folder / "imagesTr", name, case, [f"_{c:04d}" for c in range(len(case.channels))], always=True)
        write_mask(_to(folder / "labelsTr" / f"{name}{case.suffix}"), _consecutive(case), case.geometry)
        count, last = count + 1, case
    assert last is not None
    channels = ("CT",) if last.channels == ("ct",) else last.channels
    labels = {"background": 0} | {label: number for number, (label, _) in enumerate(last.classes, start=1)}
    record = {
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": labels,
        "numTraining": count,
        "file_ending": last.suffix,
    }
    publish_json(folder / "dataset.json", record)
    return folder


def _decathlon(folder: Path, named: Named) -> Path:
    """imagesTr with 4D files, labelsTr, and dataset.json that lists them."""
    listed, last = [], None
    for name, case in named:
        write_image(_to(folder / "imagesTr" / f"{name}{case.suffix}"), case.image_czyx, case.geometry)
        write_mask(_to(folder / "labelsTr" / f"{name}{case.suffix}"), _consecutive(case), case.geometry)
        listed.append({"image": f"./imagesTr/{name}{case.suffix}", "label": f"./labelsTr/{name}{case.suffix}"})
        last = case
    assert last is not None
    labels = {"0": "background"} | {str(number): label for number, (label, _) in enumerate(last.classes, start=1)}
    modality = {str(i): c for i, c in enumerate(last.channels)}
    publish_json(
        folder / "dataset.json", {"modality": modality, "labels": labels, "numTraining": len(listed), "training": listed, "test": []}
    )
    return folder


def _case_folders(folder: Path, named: Named) -> Path:
    """One folder per patient, as BraTS has it."""
    for name, case in named:
        patient = name.replace("_", "-")
        _write_channels(folder / patient, patient, case, [f"-{c}" for c in case.channels], always=True)
        write_mask(_to(folder / patient / f"{patient}-seg{case.suffix}"), case.label_zyx, case.geometry)
    return folder


def _bids(folder: Path, named: Named) -> Path:
    """sub-*/anat with masks below derivatives."""
    publish_json(folder / "dataset_description.json", {"Name": "phantoms", "BIDSVersion": "1.9.0"})
    publish_json(
        folder / "derivatives" / "manual" / "dataset_description.json",
        {"Name": "masks", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "phantom"}]},
    )
    for name, case in named:
        subject = f"sub-{name.replace('_', '')}"
        _write_channels(folder / subject / "anat", subject, case, [f"_{c.upper()}" for c in _bids_suffixes(case)], always=True)
        mask = folder / "derivatives" / "manual" / subject / "anat" / f"{subject}_dseg"
        write_mask(_to(mask.with_name(mask.name + case.suffix)), case.label_zyx, case.geometry)
        rows = "\n".join(f"{value}\t{label}" for label, value in (("background", 0), *case.classes))
        publish_text(mask.with_name(mask.name + ".tsv"), f"index\tname\n{rows}\n")
    return folder


def _table(folder: Path, named: Named) -> Path:
    """Files anywhere, and a CSV that says which belong together; two cases share a patient."""
    rows, header = [], ""
    for number, (name, case) in enumerate(named):
        files = _write_channels(folder / "files", name, case, [f"-{i}" for i in range(len(case.channels))])
        mask = _to(folder / "files" / f"{name}-truth{case.suffix}")
        write_mask(mask, case.label_zyx, case.geometry)
        columns = ["image"] if len(files) == 1 else [f"image_{c}" for c in case.channels]
        header = ",".join(["case", "group", *columns, "label"])
        rows.append(",".join([name, f"patient_{number // 2}", *(str(f.relative_to(folder)) for f in files), str(mask.relative_to(folder))]))
    publish_text(folder / "cases.csv", "\n".join([header, *rows]) + "\n")
    return folder


def _write_channels(folder: Path, name: str, case: Phantom, endings: list[str], *, always: bool = False) -> list[Path]:
    """One file a channel; colour pictures and single channels are one file, with a channel ending only when the layout wants it."""
    if case.suffix == ".png" or (len(case.channels) == 1 and not always):
        ending = endings[0] if always else ""
        path = _to(folder / f"{name}{ending}{case.suffix}")
        write_image(path, case.image_czyx, case.geometry)
        return [path]
    paths = [_to(folder / f"{name}{ending}{case.suffix}") for ending in endings]
    for path, image_zyx in zip(paths, case.image_czyx, strict=True):
        write_image(path, image_zyx[None], case.geometry)
    return paths


def _consecutive(case: Phantom) -> NDArray[np.uint8]:
    """Values 1, 2, 3 … in the order of the classes, for formats that allow nothing else."""
    table = np.zeros(256, np.uint8)
    for number, (_, value) in enumerate(case.classes, start=1):
        table[value] = number
    return table[case.label_zyx]


def _bids_suffixes(case: Phantom) -> tuple[str, ...]:
    return tuple({"mr": "T1w", "ct": "CT", "flair": "FLAIR", "t1c": "CE_T1w"}.get(c, c) for c in case.channels)


def _to(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


LAYOUTS: dict[str, Callable[..., Path]] = {
    "pairs": _pairs,
    "nnunet": _nnunet,
    "decathlon": _decathlon,
    "case_folders": _case_folders,
    "bids": _bids,
    "table": _table,
}
