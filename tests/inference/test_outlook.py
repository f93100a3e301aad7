import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from autounet import machine
from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.write import write_image
from autounet.inference.budget import MIXED_BYTES, Sizes, fitted_on_device
from autounet.inference.ensemble import Ensemble, Options
from autounet.inference.outlook import outlook, told
from autounet.inference.predict import predict_prepared
from autounet.inference.settings import InferenceSettings
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.predict import PredictOptions, predict
from autounet.store.selection import Chosen
from planners.errors import UserError
from tests.tiny_models import configuration, frame_of, member, network_of, plan_of, smooth, tiny_bundle

GB = 10**9


def long_scan(slices):
    return Geometry(
        shape_zyx=(slices, 512, 512),
        spacing_zyx_mm=(2.5, 0.8, 0.8),
        origin_xyz_mm=(0.0, 0.0, 0.0),
        direction=STRAIGHT,
    )


def ensemble(classes=60, patch=(128, 128, 128)):
    chosen = configuration(patch, spacing_zyx_mm=(1.5, 1.5, 1.5))
    plan = plan_of(chosen, classes=classes)
    return Ensemble(plan, {chosen.name: [member(network_of(plan, chosen.name), chosen)]}, [Chosen(configuration=chosen.name, folds=(0,))])


def foreseen(scan, limit_bytes, **options):
    stored = 2 * scan.shape_zyx[0] * 512 * 512
    return outlook(ensemble(), scan, Options(threads=2, **options), voxel_bytes=stored, base_bytes=0, limit_bytes=limit_bytes)


def test_a_scan_of_1200_slices_and_60_classes_is_foreseen_within_four_gigabytes():
    whole, third = foreseen(long_scan(1200), 4 * GB), foreseen(long_scan(400), 4 * GB)
    assert whole.peak_bytes <= 4 * GB
    voxels = 800 * 512 * 512  # more of them cost their stored bytes, and those of their masks; no floats
    assert whole.peak_bytes - third.peak_bytes <= 5 * voxels
    assert whole.tiles == pytest.approx(3 * third.tiles, rel=0.05)


def test_a_case_that_cannot_fit_is_refused_with_both_numbers_before_it_is_read():
    with pytest.raises(UserError, match=r"needs about [\d.]+ GB of memory, 1\.0 GB may be used"):
        foreseen(long_scan(1200), 1 * GB)


def test_probabilities_of_sixty_classes_do_not_fit_where_the_mask_does():
    with pytest.raises(UserError, match="GB of memory"):
        foreseen(long_scan(1200), 4 * GB, probabilities=True)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0.1 s"), (0.04, "0.1 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (75.2, "1m 15s")]
)
def test_no_case_is_told_to_take_no_time(seconds, words):
    assert told(seconds) == words


def sizes(in_flight):
    return Sizes(configuration=configuration((64, 64, 64)), shape_zyx=(200, 200, 200), order=(0, 1, 2), channels=60, in_flight=in_flight)


def test_the_memory_of_the_device_decides_how_many_patches_are_shown_at_once():
    whole = [sizes(32)]

    def beside_the_sums(in_flight):  # the patches at work, the next ones, and blocks of logits
        one = sizes(in_flight)
        return one.tile_bytes + one.ahead_bytes + MIXED_BYTES

    everything = whole[0].ring_bytes + beside_the_sums(32)
    assert fitted_on_device(whole, everything) == whole
    half = fitted_on_device(whole, everything - 1)
    assert 1 <= half[0].in_flight < 32
    assert not half[0].on_host
    tight = fitted_on_device(whole, beside_the_sums(2) + 1000)
    assert (tight[0].in_flight, tight[0].on_host) == (2, True), "the accumulator goes to the host before one patch is refused"
    with pytest.raises(UserError, match="device's memory"):
        fitted_on_device(whole, beside_the_sums(1) - 1)


def test_the_flag_for_the_memory_of_the_device_reaches_it():
    options = PredictOptions(gpu_memory=3 * GB)
    assert options.wish(1, None).gpu_memory_bytes == 3 * GB


@pytest.fixture
def two_images(tmp_path):
    grid = Geometry(shape_zyx=(9, 10, 11), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0, 0), direction=STRAIGHT)
    for number in range(2):
        write_image(tmp_path / "in" / f"case_{number}.nii.gz", smooth((1, 9, 10, 11), number), grid)
    return tmp_path / "in"


class Listener(Progress):
    def __init__(self):
        super().__init__()
        self.heard = []

    def note(self, text):
        self.heard.append(text)


def test_every_case_is_announced_with_its_memory_and_its_time(tmp_path, two_images):
    folder = tmp_path / "model"
    folder.mkdir()
    model, voice = tiny_bundle(folder, plan_of(configuration((8, 8, 8)))), Listener()
    predict(model, two_images, tmp_path / "out", Job(work=tmp_path / "out", progress=voice, device="cpu", threads=1))
    said = [text for text in voice.heard if text.startswith("case_")]
    assert [text.split(":")[0] for text in said] == ["case_0", "case_1"]
    assert all("GB" in text or "MB" in text for text in said)
    assert all("8 tiles" in text for text in said)
    assert all(re.search(r" and (\d+\.\d s|\d+ s|\d+m \d\d s), ", text) for text in said)
    assert not any(" 0 s" in text or " 0.0 s" in text for text in said)


def test_an_image_beyond_the_budget_is_not_read_and_the_case_says_why(tmp_path, two_images):
    folder = tmp_path / "model"
    folder.mkdir()
    model = tiny_bundle(folder, plan_of(configuration((8, 8, 8))))
    little = Job(
        work=tmp_path / "out", progress=Progress.silent(), device="cpu", threads=1, max_ram_bytes=machine.process_tree_bytes() // 4
    )
    report = predict(model, two_images, tmp_path / "out", little)
    assert report.failed_cases == ("case_0", "case_1")
    assert all("GB of memory" in case.problem and "--max-ram" in case.fix for case in report.cases)


def test_an_allocator_that_says_no_is_asked_for_less_and_no_tile_is_lost():
    class Greedy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[int] = []

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.asked.append(len(image))
            if len(image) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            return image

    chosen = configuration((8, 8, 8))
    image, network = smooth((3, 20, 9, 9), seed=9), Greedy()
    for threads in (1, 3):
        network.asked.clear()
        found = predict_prepared(
            [member(network, chosen)], image, frame_of((20, 9, 9), (20, 9, 9)), plan_of(chosen), threads=threads
        ).label_zyx
        assert np.array_equal(found, image.argmax(0))
        assert max(network.asked) > 1
        assert network.asked.count(1) == 4 * 2 * 2 * 8, "every tile and mirror once, alone"


def test_an_error_that_speaks_of_memory_but_is_none_is_passed_on():
    class Wrong(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise ValueError("out of memory of the wrong kind")

    chosen = configuration((8, 8, 8))
    with pytest.raises(ValueError, match="wrong kind"):
        predict_prepared([member(Wrong(), chosen)], smooth((3, 9, 9, 9), 0), frame_of((9, 9, 9), (9, 9, 9)), plan_of(chosen), threads=2)


def test_threads_that_each_take_a_tile_give_the_same_bytes_as_one():
    chosen = configuration((8, 16, 16))
    plan = plan_of(chosen, classes=5)
    network = network_of(plan, chosen.name)
    image = smooth((1, 30, 40, 20), 3)
    frame = frame_of((30, 40, 20), (20, 55, 33))
    settings = replace(InferenceSettings.of(chosen), probabilities=True)
    one, three = (predict_prepared([member(network, chosen)], image, frame, plan, settings, threads=threads) for threads in (1, 3))
    assert np.array_equal(one.label_zyx, three.label_zyx)
    np.testing.assert_allclose(one.probabilities_kzyx, three.probabilities_kzyx, atol=1e-6)
