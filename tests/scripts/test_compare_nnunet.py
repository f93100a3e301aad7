"""The table of parity counts what it says: told by masks whose overlap is known."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_nnunet.py"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_nnunet", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_voxels_are_counted_class_by_class_over_all_cases(compare: ModuleType, tmp_path: Path) -> None:
    for folder, masks in (("theirs", ([1, 1, 2, 0], [2, 2, 0, 0])), ("ours", ([1, 1, 0, 2], [2, 2, 2, 0]))):
        (tmp_path / folder).mkdir()
        for number, values in enumerate(masks):
            image = SimpleITK.GetImageFromArray(np.array(values, np.uint8).reshape(1, 2, 2))
            SimpleITK.WriteImage(image, str(tmp_path / folder / f"c{number}.nii.gz"))
    assert compare.compared(tmp_path / "theirs", tmp_path / "ours") == {1: (2, 2, 2), 2: (2, 3, 4)}


def test_cases_are_taken_evenly_with_all_their_channels(compare: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for case in range(10):
        for channel in range(2):
            (tmp_path / "all" / f"c{case}_000{channel}.nii.gz").touch()
    chosen = compare.some_of(tmp_path / "all", tmp_path / "some", 5)
    assert sorted(p.name for p in chosen.iterdir()) == [f"c{c}_000{k}.nii.gz" for c in (0, 2, 4, 6, 8) for k in (0, 1)]
