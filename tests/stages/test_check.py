import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autounet.data import examined
from autounet.data.dataset import Dataset
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.check import CheckReport, check, row, understood
from autounet.stages.measure import measure
from autounet.store.strict import read_value
from planners.errors import UserError
from tests.data.made import mask, pairs, picture, save


def job(folder: Path, **limits: int) -> Job:
    return Job(work=folder, progress=Progress.silent(), **limits)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_index_and_report_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "labels" / "p1.nii.gz", mask()[:-1])
    dataset = check(folder, job(tmp_path / "w"))
    assert read_value(tmp_path / "w" / "index.json", Dataset) == dataset
    report = read_value(tmp_path / "w" / "check.json", CheckReport)
    assert report.left_out == ("p1",)
    assert dict(report.understood)["cases"].startswith("5 with a label")


def test_the_dataset_folder_is_not_touched(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    before = tree(folder)
    measure(check(folder, job(tmp_path / "w")), job(tmp_path / "w"))
    assert tree(folder) == before


def test_hashes_of_all_files_are_in_the_index(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=2)
    dataset = check(folder, job(tmp_path / "w"))
    assert {h.path: h.sha256 for h in dataset.file_hashes} == tree(folder)


def test_every_file_is_read_once_by_check_and_measure_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = pairs(tmp_path / "d"), list[str]()
    real = examined.examine

    def counted(dataset: Dataset, case: object) -> object:
        seen.append(case.id)  # type: ignore[attr-defined]
        return real(dataset, case)  # type: ignore[arg-type]

    monkeypatch.setattr(examined, "examine", counted)
    dataset = check(folder, job(tmp_path / "w"))
    first = measure(dataset, job(tmp_path / "w"))
    assert sorted(seen) == [f"p{n}" for n in range(6)]
    assert measure(check(folder, job(tmp_path / "w")), job(tmp_path / "w")) == first
    assert len(seen) == 6  # the second time nothing is read again


def test_only_a_changed_file_is_read_again_and_its_date_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = pairs(tmp_path / "d"), list[str]()
    check(folder, job(tmp_path / "w"))
    real = examined.examine
    monkeypatch.setattr(examined, "examine", lambda dataset, case: seen.append(case.id) or real(dataset, case))
    os.utime(folder / "images" / "p1.nii.gz", (0, 0))
    save(folder / "labels" / "p3.nii.gz", mask(high=7))
    check(folder, job(tmp_path / "w"))
    assert seen == ["p3"]


def test_damaged_records_are_made_again(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    dataset = check(folder, job(tmp_path / "w"))
    before = measure(dataset, job(tmp_path / "w"))
    for path in (tmp_path / "w" / "cache" / "records").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert measure(dataset, job(tmp_path / "w")) == before


def test_the_same_folder_elsewhere_and_in_any_thread_count_gives_the_same_index(tmp_path: Path) -> None:
    one = check(pairs(tmp_path / "a" / "d"), job(tmp_path / "w1", threads=1))
    two = check(pairs(tmp_path / "b" / "c" / "d"), job(tmp_path / "w2", threads=2))
    plain = [json.loads((tmp_path / w / "index.json").read_text()) for w in ("w1", "w2")]
    assert [p.pop("root") for p in plain] == [one.root, two.root]
    assert plain[0] == plain[1]


def test_one_line_a_finding_names_case_value_expectation_and_remedy(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "labels" / "p1.nii.gz", mask()[:-1])
    dataset = check(folder, job(tmp_path / "w"))
    line = next(row(p) for p in dataset.problems if p.case == "p1")
    assert line.startswith("error   p1: labels/p1.nii.gz lies elsewhere")
    assert "10x11x11 voxels against 10x11x12" in line
    assert "→ resample" in line


def test_what_was_understood_is_a_table(tmp_path: Path) -> None:
    rows = dict(understood(check(pairs(tmp_path / "d"), job(tmp_path / "w"))))
    assert rows["dataset"] == "d, 3D"
    assert "images in images, labels in labels" in rows["layout"]
    assert rows["cases"] == "6 with a label, 0 others, 6 patients"
    assert rows["labels"].startswith("background=0, foreground=1")


def test_one_bad_case_of_each_kind_leaves_the_good_ones(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=12)
    (folder / "images" / "p0.nii.gz").write_bytes(b"")
    (folder / "images" / "p1.nii.gz").write_bytes((folder / "images" / "p1.nii.gz").read_bytes()[:-100])
    (folder / "images" / "p2.nii.gz").write_text("<html>not found</html>")
    (folder / "labels" / "p3.nii.gz").write_bytes(b"\x1f\x8b garbage")
    save(folder / "labels" / "p4.nii.gz", mask().astype(np.float32) / 2)
    save(folder / "images" / "p5.nii.gz", picture(5)[:, :, :3])
    dataset = check(folder, job(tmp_path / "w"))
    assert dataset.broken == ("p0", "p1", "p2", "p3", "p4", "p5")
    assert [c.id for c in dataset.cases] == ["p10", "p11", "p6", "p7", "p8", "p9"]
    measure(dataset, job(tmp_path / "w"))


def test_a_small_memory_limit_examines_one_case_at_a_time(tmp_path: Path) -> None:
    dataset = check(pairs(tmp_path / "d"), job(tmp_path / "w"))
    assert examined.threads(dataset, job(tmp_path, threads=8, max_ram_bytes=2 * 1320 * 20)) == 2
    assert examined.threads(dataset, job(tmp_path, threads=8, max_ram_bytes=1)) == 1
    assert examined.threads(dataset, job(tmp_path, threads=8, max_ram_bytes=10**9)) == 8


def test_test_cases_are_in_the_index_and_not_in_the_fingerprint(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "images_test" / "q.nii.gz", picture(50))
    dataset = check(folder, job(tmp_path / "w"))
    assert dataset.case("q").split == "test"
    assert "q" not in {c.case for c in measure(dataset, job(tmp_path / "w")).cases}


def test_no_label_at_all_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "d" / "images" / f"a{number}.nii.gz", picture(number))
    with pytest.raises(UserError, match="no label"):
        check(tmp_path / "d", job(tmp_path / "w"))


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[dataset]\nlayuot = 'pairs'\n", "no key 'layuot'.*Did you mean layout"),
        ("[lables]\na = 1\n", "no key 'lables'.*Did you mean labels"),
        ("[labels]\na = 1.5\n", "labels.a is 1.5"),
        ("[labels]\na = 1\nb = 1\n", "one value to two labels"),
        ("[labels]\na = 1\n[regions]\nwhole = [1]\n", "regions.whole"),
        ("[labels]\na = 1\n[regions]\nwhole = {values = [1, 7], paint = 1}\n", "region names the values \\[7\\]"),
        ("[regions]\nwhole = {values = [1], paint = 1}\n", "regions but no labels"),
        ("[channels]\na = 'mri'\n", "channel 'a' is 'mri'"),
        ("[channels]\na = 'mr'\nb = 'mr'\n", "holds 1 volumes|holds 1 channel|names 2 channels"),
        ("[dataset]\nspacing_zyx_mm = [1, 2]\n", "three positive numbers"),
        ("[dataset]\ngroup_by = '('\n", "no regular expression"),
        ("[dataset]\ngroup_by = 'p'\n", "has no group"),
        ("[label_values]\nscale = 0\n", "scale is 0"),
        ("dataset = 1\n", "dataset is no table"),
        ("[dataset\n", "is no TOML"),
    ],
)
def test_a_wrong_autounet_toml_is_refused_by_its_key(tmp_path: Path, toml: str, said: str) -> None:
    folder = pairs(tmp_path / "d")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "autounet.toml").write_text(toml)
    with pytest.raises(UserError, match=said):
        check(folder, job(tmp_path / "w"))


def test_annotated_classes_that_do_not_exist_drop_the_case_by_name(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    (folder / "autounet.toml").write_text("[labels]\nbone = 1\n[annotated]\np1 = ['bon']\n")
    dataset = check(folder, job(tmp_path / "w"))
    (problem,) = [p for p in dataset.problems if p.severity == "error"]
    assert (problem.case, problem.found, problem.expected) == ("p1", "annotated names bon", "of bone")


def test_autounet_toml_names_what_the_folder_does_not(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", p1=mask(value=2))
    (folder / "autounet.toml").write_text(
        "[dataset]\nname = 'thighs'\ngroup_by = '^(p)'\n[channels]\nT1 = 'mr'\n[labels]\nmuscle = 1\nbone = 2\n"
        "[regions]\nleg = {values = [1, 2], paint = 1}\nbone = {values = [2], paint = 2}\n"
        "[annotated]\np1 = ['bone']\n[test]\ncases = ['p5']\n[groups]\np0 = 'x'\n"
    )
    dataset = check(folder, job(tmp_path / "w"))
    assert (dataset.name, dataset.channels[0].name, dataset.channels[0].modality) == ("thighs", "T1", "mr")
    assert [r.name for r in dataset.labels.regions] == ["leg", "bone"]
    assert (dataset.case("p1").annotated, dataset.case("p5").split) == (("bone",), "test")
    assert (dataset.case("p0").group, dataset.case("p2").group) == ("x", "p")


LISTING = """
import sys, time
from pathlib import Path
from autounet.data.open import understand

def peak_bytes():  # of this program alone: ru_maxrss would begin with that of the process that started it
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

understand(Path(sys.argv[1]))  # everything is imported by now
before, start = peak_bytes(), time.perf_counter()
dataset = understand(Path(sys.argv[2]))
print(len(dataset.cases), time.perf_counter() - start, peak_bytes() - before)
"""
BYTES_A_CASE = 6_000  # two files: names, sizes and headers as values; the voxels of one image alone would be 8192


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one program is read from /proc")
def test_five_thousand_tiny_cases_are_listed_in_twenty_seconds(tmp_path: Path) -> None:
    image = save(tmp_path / "i.nii", picture(0, (16, 16, 16))).read_bytes()
    label = save(tmp_path / "l.nii", mask((16, 16, 16))).read_bytes()
    pairs(tmp_path / "small")
    for kind, content in (("images", image), ("labels", label)):
        (tmp_path / "d" / kind).mkdir(parents=True)
        for number in range(5000):  # no two files are the same bytes
            file = content[:-4] + number.to_bytes(4, "little") if kind == "images" else content
            (tmp_path / "d" / kind / f"case_{number:05d}.nii.gz").write_bytes(gzip.compress(file, 1))
    words = [sys.executable, "-c", LISTING, str(tmp_path / "small"), str(tmp_path / "d")]
    cases, seconds, grown = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert cases == "5000"
    assert float(seconds) < 20
    assert int(grown) < 5000 * BYTES_A_CASE, f"{int(grown) / 5000:.0f} bytes a case"


@pytest.mark.parametrize(("failure", "said"), [(MemoryError(), "takes about"), (OSError(5, "Input/output error"), "Input/output error")])
def test_what_the_machine_cannot_do_for_one_case_costs_that_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    folder, real = pairs(tmp_path / "d"), examined.examine

    def failing(dataset: Dataset, case: object) -> object:
        if case.id == "p2":  # type: ignore[attr-defined]
            raise failure
        return real(dataset, case)  # type: ignore[arg-type]

    monkeypatch.setattr(examined, "examine", failing)
    dataset = check(folder, job(tmp_path / "w"))
    assert dataset.broken == ("p2",)
    assert said in next(p.found for p in dataset.problems if p.case == "p2")


def test_a_run_that_is_stopped_keeps_what_it_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = pairs(tmp_path / "d"), list[str]()
    real = examined.examine

    def until_the_fourth(dataset: Dataset, case: object) -> object:
        if case.id == "p3":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return real(dataset, case)  # type: ignore[arg-type]

    monkeypatch.setattr(examined, "examine", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        check(folder, job(tmp_path / "w", threads=1))
    monkeypatch.setattr(examined, "examine", lambda dataset, case: seen.append(case.id) or real(dataset, case))
    check(folder, job(tmp_path / "w", threads=1))
    assert seen == ["p3", "p4", "p5"]


def test_a_check_that_cannot_go_on_leaves_its_report(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=2)
    for name in ("p0", "p1"):
        save(folder / "labels" / f"{name}.nii.gz", mask()[:-1])
    with pytest.raises(UserError, match="none of the cases can be used"):
        check(folder, job(tmp_path / "w"))
    assert read_value(tmp_path / "w" / "check.json", CheckReport).left_out == ("p0", "p1")


def test_check_and_measure_import_nothing_heavy(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom autounet.job import Job\nfrom autounet.progress import Progress\n"
        "from autounet.stages.check import check\nfrom autounet.stages.measure import measure\n"
        "job = Job(work=Path(sys.argv[2]), progress=Progress.silent())\nmeasure(check(Path(sys.argv[1]), job), job)\n"
        "print(*sorted({'torch', 'pandas', 'sklearn', 'SimpleITK', 'nibabel', 'pydicom', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    folder = pairs(tmp_path / "d")
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "w")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
