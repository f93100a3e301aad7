import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from autounet import stop
from autounet.arrays.prepare import prepare_arrays
from autounet.data import prepared as prepared_module
from autounet.data.open import open_dataset
from autounet.data.prepared import IMAGE, open_prepared
from autounet.data.voxels import read_case
from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.write import write_image, write_mask
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages import prepare as stage
from autounet.stages.prepare import prepare, prune
from planners.errors import UserError
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan

ROOT = Path(__file__).resolve().parents[2]
LABELS = Labels(classes=tuple(LabelClass(name=n, value=v) for v, n in enumerate(("background", "one", "two"))))


def configuration(name="fine", spacing=(0.9, 1.1, 1.3), patch=(16, 16, 16), dimensions=3):
    architecture = Architecture(
        kind="plain",
        dimensions=dimensions,
        features=(8,),
        strides_zyx=((1, 1, 1),),
        kernels_zyx=((3, 3, 3),),
        encoder_blocks=(2,),
        decoder_convolutions=(),
    )
    return Configuration(
        name=name,
        spacing_zyx_mm=spacing,
        median_shape_zyx=(16, 16, 16),
        patch_zyx=patch,
        batch_size=2,
        architecture=architecture,
        augmentation=Augmentation(steps=()),
    )


def plan_of(*configurations):
    chosen = configurations or (configuration(),)
    return Plan(
        planner="test",
        dataset="test",
        dimensions=3,
        channels=(ChannelPlan(name="mr", modality="mr", scheme="zscore"),),
        labels=LABELS,
        configurations=chosen,
        train=tuple(c.name for c in chosen),
    )


def write_case(folder, number, *, shape=(20, 24, 22)):
    rng = np.random.default_rng(number)
    image = rng.normal(50, 9, (1, *shape)).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[5:12, 6:15, 4 + number % 5 : 14] = 1
    label[13:17, 3:8, 3:9] = 2
    geometry = Geometry(shape_zyx=shape, spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    write_image(folder / "images" / f"case_{number:02d}.nii.gz", image, geometry)
    write_mask(folder / "labels" / f"case_{number:02d}.nii.gz", label, geometry)


def dataset_of(folder, cases=5, **options):
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        write_case(folder, number, **options)
    (folder / "autounet.toml").write_text('[labels]\n"one" = 1\n"two" = 2\n')
    return folder


@pytest.fixture
def raw(tmp_path):
    return dataset_of(tmp_path / "raw")


@pytest.fixture
def job(tmp_path):
    return Job(work=tmp_path / "work", progress=Progress.silent(), threads=2)


def entries(work):
    """Every file of every entry by its bytes; the record's time and place are no part of it."""
    return {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((work / "cache").glob("??/*/*"))
        if path.is_file()
    }


def test_every_case_is_prepared_as_the_arrays_say(raw, job):
    dataset, plan = open_dataset(raw), plan_of()
    report = prepare(dataset, plan, job)
    assert (report.made, report.found, report.failures) == (5, 0, ())
    for name, case in open_prepared(job.work, plan, "fine").items():
        voxels = read_case(dataset, dataset.case(name))
        expected = prepare_arrays(voxels.image_czyx, voxels.label_zyx, voxels.geometry, plan, plan.configurations[0])
        image, label = case.read_all()
        np.testing.assert_allclose(image, expected.image_czyx, atol=2e-6)
        assert_array_equal(label, expected.label_zyx)
        assert case.frame == expected.frame


def test_what_is_there_is_not_made_again(raw, job):
    plan = plan_of()
    prepare(open_dataset(raw), plan, job)
    times = {path: path.stat().st_mtime_ns for path in (job.work / "cache").glob("??/*/*")}
    report = prepare(open_dataset(raw), plan, job)
    assert (report.made, report.found) == (0, 5)
    assert {path: path.stat().st_mtime_ns for path in (job.work / "cache").glob("??/*/*")} == times


def test_a_new_case_alone_is_made(raw, job):
    prepare(open_dataset(raw), plan_of(), job)
    write_case(raw, 7)
    report = prepare(open_dataset(raw), plan_of(), job)
    assert (report.made, report.found) == (1, 5)
    assert len(open_prepared(job.work, plan_of(), "fine")) == 6


def test_a_changed_label_alone_is_made_again(raw, job):
    prepare(open_dataset(raw), plan_of(), job)
    shutil.copy(raw / "labels" / "case_03.nii.gz", raw / "labels" / "case_01.nii.gz")
    report = prepare(open_dataset(raw), plan_of(), job)
    assert (report.made, report.found) == (1, 4)
    cases = open_prepared(job.work, plan_of(), "fine")
    assert_array_equal(cases["case_01"].read_all()[1], cases["case_03"].read_all()[1])


def test_configurations_that_prepare_alike_share_their_entries(raw, job):
    plan = plan_of(configuration(), configuration("twin", patch=(17, 18, 19)), configuration("coarse", (2.0, 2.0, 2.0)))
    report = prepare(open_dataset(raw), plan, job)
    assert report.made == 10
    folders = [{case.folder for case in open_prepared(job.work, plan, name).values()} for name in ("fine", "twin", "coarse")]
    assert folders[0] == folders[1]
    assert not folders[0] & folders[2]


def test_only_what_matters_of_a_plan_matters(raw, job):
    prepare(open_dataset(raw), plan_of(), job)
    plan = plan_of()
    other = replace(plan, configurations=(replace(plan.configurations[0], batch_size=9),), planner="another")
    assert prepare(open_dataset(raw), other, job).made == 0
    moved = replace(plan, configurations=(replace(plan.configurations[0], spacing_zyx_mm=(0.9, 1.1, 1.4)),))
    assert prepare(open_dataset(raw), moved, job).made == 5


def test_one_configuration_can_be_chosen(raw, job):
    plan = plan_of(configuration(), configuration("coarse", (2.0, 2.0, 2.0)))
    assert prepare(open_dataset(raw), plan, job, configurations=["coarse"]).made == 5
    with pytest.raises(UserError, match="nothing is prepared for fine"):
        open_prepared(job.work, plan, "fine")


def test_a_bad_case_is_named_and_the_others_go_on(raw, job):
    dataset = open_dataset(raw)
    data = (raw / "images" / "case_02.nii.gz").read_bytes()
    (raw / "images" / "case_02.nii.gz").write_bytes(data[: len(data) // 2])
    report = prepare(dataset, plan_of(), job)
    assert [failure.case for failure in report.failures] == ["case_02"]
    assert "case_02" in str(report.failures[0].error)
    assert report.made == 4
    assert "case_02" not in dict(open_prepared(job.work, plan_of(), "fine"))


def test_verify_finds_a_flipped_bit_and_makes_that_case_anew(raw, job):
    plan = plan_of()
    prepare(open_dataset(raw), plan, job)
    before, case = entries(job.work), open_prepared(job.work, plan, "fine")["case_01"]
    data = bytearray((case.folder / IMAGE).read_bytes())
    data[len(data) // 2] ^= 16
    (case.folder / IMAGE).write_bytes(data)
    assert prepare(open_dataset(raw), plan, job).made == 0  # sizes do not tell
    report = prepare(open_dataset(raw), plan, job, verify=True)
    assert (report.made, report.found) == (1, 4)
    assert entries(job.work) == before


def test_damage_found_while_reading_is_made_good_by_the_next_run(raw, job):
    plan = plan_of()
    prepare(open_dataset(raw), plan, job)
    before, case = entries(job.work), open_prepared(job.work, plan, "fine")["case_03"]
    data = bytearray((case.folder / IMAGE).read_bytes())
    data[len(data) // 2] ^= 1
    (case.folder / IMAGE).write_bytes(data)
    with pytest.raises(UserError, match=r"case_03.*not what was written"):
        case.read_all()
    report = prepare(open_dataset(raw), plan, job)
    assert (report.made, report.found) == (1, 4)
    assert entries(job.work) == before


def test_prune_keeps_what_the_plan_uses(raw, job):
    old, new = plan_of(configuration(spacing=(2.0, 2.0, 2.0))), plan_of()
    prepare(open_dataset(raw), old, job)
    prepare(open_dataset(raw), new, job)
    assert prune(new, job) > 1000
    assert len(list((job.work / "cache").glob("??/*"))) == 5
    assert prepare(open_dataset(raw), new, job).made == 0


def test_prune_keeps_what_another_work_folder_has_in_a_shared_cache(raw, job, tmp_path):
    shared, other = tmp_path / "shared", Job(work=tmp_path / "other.autounet", progress=Progress.silent())
    theirs, ours = plan_of(configuration(spacing=(2.0, 2.0, 2.0))), plan_of()
    prepare(open_dataset(raw), theirs, other, cache=shared)
    prepare(open_dataset(raw), ours, job, cache=shared)
    assert prune(ours, job, cache=shared) == 0
    assert len(open_prepared(other.work, theirs, "fine")) == 5
    shutil.rmtree(other.work)
    assert prune(ours, job, cache=shared) > 1000, "a work folder that is gone needs nothing"
    assert len(open_prepared(job.work, ours, "fine")) == 5


def test_a_case_that_runs_out_of_memory_beside_others_is_made_alone(raw, job, monkeypatch):
    real, tries = stage.read_case, []

    def read(dataset, case):
        tries.append(case.id)
        if case.id == "case_02" and tries.count("case_02") == 1:
            raise MemoryError
        return real(dataset, case)

    monkeypatch.setattr(stage, "read_case", read)
    report = prepare(open_dataset(raw), plan_of(), job)
    assert (report.made, report.failures) == (5, ())
    assert tries[-1] == "case_02"


def test_a_case_too_large_for_the_machine_fails_alone(raw, job, monkeypatch):
    real = stage.read_case
    monkeypatch.setattr(stage, "read_case", lambda data, case: raise_(MemoryError()) if case.id == "case_02" else real(data, case))
    report = prepare(open_dataset(raw), plan_of(), job)
    assert report.made == 4
    assert [f.case for f in report.failures] == ["case_02"]
    assert "enough memory" in report.failures[0].error.problem


def test_a_cache_elsewhere_is_used_and_found_again(raw, job, tmp_path):
    prepare(open_dataset(raw), plan_of(), job, cache=tmp_path / "local")
    assert not list((job.work / "cache").glob("??/*"))
    assert next(iter(open_prepared(job.work, plan_of(), "fine").values())).folder.is_relative_to(tmp_path / "local")


def test_a_node_takes_what_the_work_folder_has_instead_of_making_it(raw, job, tmp_path, monkeypatch):
    prepare(open_dataset(raw), plan_of(), job)
    monkeypatch.setattr(stage, "read_case", lambda *_: pytest.fail("nothing has to be read again"))
    report = prepare(open_dataset(raw), plan_of(), job, cache=tmp_path / "local")
    assert (report.made, report.failures) == (0, ())
    assert len(list((tmp_path / "local").glob("??/*/entry.json"))) == 5
    shutil.rmtree(job.work / "cache")
    (job.work / "cache").mkdir()
    prepare(open_dataset(raw), plan_of(), job, cache=tmp_path / "local")
    assert len(open_prepared(job.work, plan_of(), "fine")) == 5


def test_too_little_room_is_said_before_the_work(raw, job, monkeypatch):
    said = []
    monkeypatch.setattr(job.progress, "warn", said.append)
    real = stage.free_bytes
    monkeypatch.setattr(stage, "free_bytes", lambda folder: min(real(folder), 100_000))
    prepare(open_dataset(raw), plan_of(), job)
    assert len(said) == 1
    assert "up to 200.3 KiB" in said[0]  # 5 cases of 8 205 voxels, five bytes each
    assert "97.7 KiB are free" in said[0]


def test_a_work_folder_may_move(raw, job, tmp_path):
    prepare(open_dataset(raw), plan_of(), job)
    job.work.rename(tmp_path / "elsewhere")
    assert len(open_prepared(tmp_path / "elsewhere", plan_of(), "fine")) == 5


def test_nothing_is_written_into_the_dataset(raw, job):
    def listing():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in raw.rglob("*")}

    before = listing()
    prepare(open_dataset(raw), plan_of(), job)
    assert listing() == before


def test_a_stop_ends_between_cases_and_keeps_what_is_done(raw, job, monkeypatch):
    done = []
    original = stage._Preparer._make

    def make(self, one, threads):
        made = original(self, one, threads)
        done.append(one.case.id)
        if len(done) == 2:
            stop.request("test")
        return made

    monkeypatch.setattr(stage._Preparer, "_make", make)
    try:
        with pytest.raises(stop.Stopped):
            prepare(open_dataset(raw), plan_of(), replace(job, threads=1))
    finally:
        stop.clear()
    monkeypatch.undo()
    assert prepare(open_dataset(raw), plan_of(), job).found == 2


def test_a_full_disk_is_said_with_numbers_and_nothing_is_lost(raw, job, monkeypatch):
    original, calls = prepared_module._put, []

    def put(array, where, slab):
        calls.append(where)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        original(array, where, slab)

    monkeypatch.setattr(prepared_module, "_put", put)
    with pytest.raises(UserError, match=r"needs at least .*iB in .* are free") as caught:
        prepare(open_dataset(raw), plan_of(), replace(job, threads=1))
    assert "what is finished is kept" in caught.value.fix
    monkeypatch.undo()
    report = prepare(open_dataset(raw), plan_of(), job)
    assert report.found >= 1
    assert report.made + report.found == 5


def test_blosc_failing_to_write_is_a_disk_error(tmp_path, monkeypatch):
    class Full:
        urlpath = str(tmp_path / "image.b2nd")

        def __setitem__(self, where, slab):
            raise RuntimeError("Error while setting the slice")

    (tmp_path / "image.b2nd").write_bytes(b"begun")
    slab = np.zeros(100, np.float32)
    with monkeypatch.context() as small:
        small.setattr(prepared_module, "free_bytes", lambda folder: 10)
        with pytest.raises(OSError, match="No space left"):
            prepared_module._put(Full(), (slice(0, 1),), slab)
    with monkeypatch.context() as small:
        small.setattr(prepared_module, "_largest_file", lambda: 100)
        with pytest.raises(OSError, match="File too large"):
            prepared_module._put(Full(), (slice(0, 1),), slab)
    with monkeypatch.context() as over_quota:
        refused = UserError("over the quota", "free some")
        refused.__cause__ = OSError(errno.EDQUOT, "")
        over_quota.setattr(prepared_module, "publish_bytes", lambda path, data: raise_(refused))
        with pytest.raises(OSError, match="quota"):
            prepared_module._put(Full(), (slice(0, 1),), slab)
    with pytest.raises(OSError, match="Input/output"):
        prepared_module._put(Full(), (slice(0, 1),), slab)


def raise_(error):
    raise error


def test_a_case_beyond_the_memory_is_named_with_the_numbers(raw, job, monkeypatch):
    """By their shape two cases are too large; the header of one says that its voxels are not."""
    dataset = open_dataset(raw)
    monkeypatch.setattr(stage.machine, "process_tree_bytes", lambda **_: 0)  # the tests before this one have left something
    monkeypatch.setattr(stage, "read_header", lambda path: SimpleNamespace(voxel_bytes=2 * 10**9 if "01" in path.name else 10**4))
    huge = tuple(replace(case, shape_zyx=(1000, 1000, 1000)) if case.id in ("case_01", "case_02") else case for case in dataset.cases)
    report = prepare(replace(dataset, cases=huge), plan_of(), replace(job, max_ram_bytes=3 * 2**30))
    assert [failure.case for failure in report.failures] == ["case_01"]
    assert "GiB" in report.failures[0].error.problem
    assert "3.0 GiB" in report.failures[0].error.problem
    assert report.made == 4


def test_cases_wait_for_the_memory_of_others():
    from concurrent.futures import ThreadPoolExecutor
    from threading import Lock

    room, lock, now, most = stage._Room(100, 100), Lock(), [0], [0]

    def work(size):
        with room.take(size, "case"):
            with lock:
                now[0] += size
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [90, 60, 50, 40, 30, 30, 20, 10, 10] * 4))
    assert 60 < most[0] <= 100


RUNNER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from autounet.data.open import open_dataset
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.prepare import prepare
from tests.stages.test_prepare import plan_of
report = prepare(open_dataset(Path(sys.argv[1])), plan_of(), Job(work=Path(sys.argv[2]), progress=Progress.silent(), threads=2))
print(report.made, report.found, len(report.failures))
"""


def runner(raw, work, **options):
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(raw), str(work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def killed_at_random_moments(tmp_path, times):
    raw = dataset_of(tmp_path / "raw", 8, shape=(40, 48, 44))
    undisturbed = Job(work=tmp_path / "undisturbed", progress=Progress.silent(), threads=2)
    prepare(open_dataset(raw), plan_of(), undisturbed)
    expected, rng = entries(undisturbed.work), random.Random(5)
    assert len(expected) == 8 * 5
    started = time.monotonic()
    whole = runner(raw, tmp_path / "whole")
    whole.communicate()
    length = time.monotonic() - started
    midway = 0
    for attempt in range(times):
        work = tmp_path / f"work_{attempt}"
        victim = runner(raw, work)
        time.sleep(rng.uniform(0.3, 1.0) * length)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
        midway += 0 < len(list((work / "cache").glob("??/*/entry.json"))) < 8
        last = runner(raw, work)
        output = last.communicate()[0].split()
        assert last.returncode == 0
        assert int(output[0]) + int(output[1]) == 8
        assert entries(work) == expected
        shutil.rmtree(work)
    return midway


def test_killed_runs_are_finished_by_the_next_and_end_the_same(tmp_path):
    killed_at_random_moments(tmp_path, 4)


@pytest.mark.slow
def test_killed_fifty_times_the_entries_are_those_of_an_undisturbed_run(tmp_path):
    assert killed_at_random_moments(tmp_path, 50) >= 5  # enough of the kills came in the middle


def test_two_at_once_share_the_work_and_do_none_of_it_twice(tmp_path):
    raw = dataset_of(tmp_path / "raw", 8, shape=(40, 48, 44))
    both = [runner(raw, tmp_path / "work") for _ in range(2)]
    made = [int(one.communicate()[0].split()[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    alone = Job(work=tmp_path / "alone", progress=Progress.silent(), threads=2)
    prepare(open_dataset(raw), plan_of(), alone)
    assert entries(tmp_path / "work") == entries(alone.work)
    assert sum(made) == 8
    assert not list((tmp_path / "work" / "cache").glob("locks/*"))


MEMORY_RUNNER = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import torch  # whatever loaded it, it counts
from autounet.data.open import open_dataset
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.prepare import prepare
from tests.stages.test_prepare import configuration, plan_of
job = Job(work=Path(sys.argv[2]), progress=Progress.silent(), threads=2, max_ram_bytes=2 * 10**9)
plan = plan_of(configuration(spacing=(1.5, 1.5, 1.5), patch=(128, 128, 128)))
report = prepare(open_dataset(Path(sys.argv[1])), plan, job)
assert report.made == 3, report
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_three_large_volumes_fit_two_gigabytes(tmp_path):
    raw = tmp_path / "raw"
    for sub in ("images", "labels"):
        (raw / sub).mkdir(parents=True)
    geometry = Geometry(shape_zyx=(300, 512, 512), spacing_zyx_mm=(2.0, 0.8, 0.8), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    rng, label = np.random.default_rng(0), np.zeros((300, 512, 512), np.uint8)
    label[50:200, 100:400, 150:300] = 1
    label[210:260, 50:100, 150:300] = 2
    for number in range(3):
        image = np.repeat(rng.integers(-1000, 1500, (1, 300, 512, 64)), 8, axis=3).astype(np.int16)
        write_image(raw / "images" / f"case_{number:02d}.nii.gz", image, geometry)
        write_mask(raw / "labels" / f"case_{number:02d}.nii.gz", label, geometry)
    (raw / "autounet.toml").write_text('[labels]\n"one" = 1\n"two" = 2\n')
    command = [sys.executable, "-c", MEMORY_RUNNER, str(raw), str(tmp_path / "work")]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert int(found.stdout) < 2 * 10**9
