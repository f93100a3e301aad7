"""Networks in 8 bits: from what they are shown to a cost on cases they had not seen, and never without both."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from autounet import phantoms
from autounet.data.open import open_dataset
from autounet.inference import int8_cost
from autounet.inference.int8 import layers_of, spans_of, watched
from autounet.inference.int8_cost import measure_int8
from autounet.inference.presets import Bench
from autounet.job import Job
from autounet.model import Model, Wish, load
from autounet.progress import Progress
from autounet.store.bundle import Card, Contents, MemberFile, write_bundle
from autounet.store.selection import Chosen, Int8, LayerRange, MemberRanges, Selection
from planners.errors import UserError
from tests.tiny_models import architecture, configuration, fingerprint_of, member, network_of, plan_of, smooth, tiny_bundle

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the optional package openvino is not installed")
WIDE = configuration((8, 16, 16), architecture=architecture(3, (8, 16, 16)))


def wide_network(seed=0):
    return network_of(plan_of(WIDE), WIDE.name, seed).requires_grad_(False)


def seen(network, *images):
    with watched(network) as watch, torch.no_grad():
        for image in images:
            watch(torch.from_numpy(image)[None])
    return watch.ranges


def test_a_range_is_from_the_least_to_the_most_that_a_layer_was_shown():
    network = wide_network()
    images = [smooth((1, 8, 16, 16), seed) * scale for seed, scale in ((1, 0.1), (2, 5.0))]
    ranges = {one.layer: one for one in seen(network, *images)}
    assert set(ranges) == set(layers_of(network))
    assert "encoder.stages.0.0.conv" not in ranges, "the first layer is shown the image itself"
    with torch.no_grad():
        shown = [network.encoder.stages[0](torch.from_numpy(image)[None]) for image in images]
    second = ranges["encoder.stages.1.0.conv"]
    assert second.low == pytest.approx(min(float(maps.min()) for maps in shown))
    assert second.high == pytest.approx(max(float(maps.max()) for maps in shown))


def test_one_voxel_in_many_thousands_does_not_stretch_the_scale():
    layer = torch.nn.Conv3d(8, 8, 3)
    maps = torch.rand(1, 8, 32, 32, 64)
    maps.view(-1)[5] = 1e6
    from autounet.inference.int8 import Watch

    watch = Watch(wide_network())
    watch.hook("layer")(layer, (maps,))
    (found,) = watch.ranges
    assert found.high < 1.01


@installed
def test_eight_bits_say_nearly_the_same_and_with_ranges_of_another_network_something_else():
    from autounet.inference.openvino_engine import OpenVino

    network, image = wide_network(), smooth((1, 8, 16, 16), 3)
    with torch.no_grad():
        expected = network(torch.from_numpy(image)[None])

    def apart(ranges):
        found = OpenVino(1, spans_of(network, ranges)).twin(network, "float32")(torch.from_numpy(image)[None])
        return float((found - expected).std() / expected.std())

    right = seen(network, image)
    assert 1e-4 < apart(right) < 0.1, "rounded, and no more than rounded"
    assert apart([replace(one, high=one.high / 20) for one in right]) > 0.3
    assert apart([replace(one, layer="elsewhere") for one in right]) < 0.02, "what has no range is not rounded to 8 bits"


@pytest.fixture
def organs(tmp_path):
    """Phantoms, and random networks of two folds that saw the other half each."""
    phantoms.make("organs", tmp_path / "organs", cases=4, size=20, seed=1)
    dataset = open_dataset(tmp_path / "organs")
    plan = plan_of(replace(WIDE, spacing_zyx_mm=(11.0, 8.0, 8.0)), labels=dataset.labels)
    fold_of = {case.id: index % 2 for index, case in enumerate(dataset.cases)}
    bench = Bench(
        dataset=dataset, plan=plan, members=[Chosen(configuration=WIDE.name, folds=(0, 1))], fold_of=fold_of, trained_voxels=0, made_of="a"
    )
    job = Job(work=tmp_path / "work", progress=Progress.silent(), threads=1, device="cpu")
    return bench, job


@pytest.fixture
def asked(organs, monkeypatch):
    """Which folds' networks were loaded."""
    bench, _ = organs
    folds_asked = []

    def members(plan, names, folds, job):
        folds_asked.extend(folds)
        return {name: [member(network_of(bench.plan, name, fold).requires_grad_(False), WIDE) for fold in folds] for name in names}

    monkeypatch.setattr(int8_cost, "fold_members", members)
    return folds_asked


@installed
def test_ranges_are_of_cases_of_the_training_and_the_cost_is_of_the_others(organs, asked, monkeypatch):
    bench, job = organs
    read, scored = [], []
    plain, way = int8_cost.read_case, int8_cost.scored
    monkeypatch.setattr(int8_cost, "read_case", lambda dataset, case, **how: read.append(case.id) or plain(dataset, case, **how))
    monkeypatch.setattr(int8_cost, "scored", lambda *told: scored.append((told[2], told[3].engine is not None)) or way(*told))
    found = measure_int8(bench, job)
    assert found is not None
    assert [(one.configuration, one.fold) for one in found.members] == [(WIDE.name, 0), (WIDE.name, 1)]
    names = set(layers_of(wide_network()))
    assert all({layer.layer for layer in one.layers} == names for one in found.members)
    first, second = ([case for case, fold in bench.fold_of.items() if fold == number] for number in (0, 1))
    assert read == [*second, *first], "each network is shown what the other fold held out"
    tried = int8_cost.spread(bench.fold_of)
    assert scored == [(case, eight) for case in sorted(tried, key=lambda one: bench.fold_of[one]) for eight in (False, True)]
    assert found.cases == 3
    assert found.dice is not None
    assert found.dice_before is not None
    assert abs(found.dice - found.dice_before) < 0.05
    before = len(asked)
    assert measure_int8(bench, job) == found
    assert len(asked) == before, "what was measured for these networks is known"
    assert measure_int8(replace(bench, made_of="b"), job) is not None
    assert len(asked) > before


def test_without_the_package_or_the_time_or_a_processor_a_model_is_made_without(organs, asked, monkeypatch):
    bench, job = organs
    monkeypatch.setattr(int8_cost, "find_spec", lambda name: None)
    assert measure_int8(bench, job) is None
    monkeypatch.setattr(int8_cost, "find_spec", lambda name: object())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(int8_cost, "device_named", torch.device)
        assert measure_int8(bench, replace(job, device="cuda")) is None
    monkeypatch.setitem(int8_cost.LEAST_VOXELS, "cpu", 10)
    assert measure_int8(bench, job) is None
    assert asked == []


def model_with(folder, ranges, folds=(0, 1)):
    plan = plan_of(WIDE)
    tiny_bundle(folder, plan, folds=folds)
    contents = Contents(
        plan=plan,
        fingerprint=fingerprint_of(plan),
        selection=Selection(members=(Chosen(configuration=WIDE.name, folds=folds),), why="all", int8=ranges),
        card=Card(name="tiny"),
        members=[MemberFile(WIDE.name, fold, folder / f"{WIDE.name}_{fold}.safetensors") for fold in folds],
    )
    write_bundle(folder / "eight.aunet", contents)
    return folder / "eight.aunet"


def ranges_of(*folds):
    image = smooth((1, 8, 16, 16), 3)
    return tuple(MemberRanges(configuration=WIDE.name, fold=fold, layers=seen(wide_network(fold), image)) for fold in folds)


@installed
def test_a_model_that_knows_its_ranges_predicts_in_eight_bits_and_says_what_that_costs(tmp_path):
    known = Int8(members=ranges_of(0, 1), dice=0.8012, dice_before=0.8021, cases=3)
    model = load(model_with(tmp_path, known), device="cpu")
    assert model.bundle.selection.int8 == known
    line = model.engine(Wish(engine="openvino-int8", threads=1)).line
    assert line.endswith("; 8 bits change the Dice by -0.0009, to 0.8012, by one fold on 3 held-out cases.")
    image = smooth((1, 20, 24, 28), 1)[0]
    eight, plain = (
        model.predict(image, spacing=(1, 1, 1), wish=Wish(engine=engine, probabilities=True, threads=1)).probabilities_kzyx
        for engine in ("openvino-int8", "torch")
    )
    assert not np.array_equal(eight, plain)
    assert np.abs(eight - plain).mean() < 0.1 * plain.std()


@installed
@pytest.mark.parametrize("known", [None, "one fold"])
def test_a_model_that_does_not_know_them_is_refused_in_eight_bits(tmp_path, known):
    ranges = None if known is None else Int8(members=ranges_of(0))
    model = load(model_with(tmp_path, ranges), device="cpu")
    with pytest.raises(UserError, match="cannot run in 8 bits") as error:
        model.engine(Wish(engine="openvino-int8", threads=1))
    assert "--engine openvino" in error.value.fix


@installed
def test_ranges_that_are_wrong_are_seen_before_a_case_is_predicted(tmp_path):
    wrong = tuple(
        replace(one, layers=tuple(replace(layer, low=layer.low / 50, high=layer.high / 50) for layer in one.layers))
        for one in ranges_of(0, 1)
    )
    model = load(model_with(tmp_path, Int8(members=wrong)), device="cpu")
    with pytest.raises(UserError, match="differs from torch"):
        model.engine(Wish(engine="openvino-int8", threads=1))
    assert isinstance(model, Model)


@pytest.mark.parametrize(
    "layers",
    [(LayerRange(layer="x", low=1.0, high=0.0),), tuple(LayerRange(layer=f"{n}", low=0.0, high=1.0) for n in range(5000))],
    ids=["backwards", "thousands"],
)
def test_ranges_no_network_can_have_are_refused_with_the_file(tmp_path, layers):
    with pytest.raises(UserError, match="8 bits"):  # a file is opened before it is published
        model_with(tmp_path, Int8(members=(MemberRanges(configuration=WIDE.name, fold=0, layers=layers),)))


def test_ranges_of_a_fold_that_is_not_there_are_refused_with_the_file(tmp_path):
    with pytest.raises(UserError, match="8 bits that belong to no network"):
        model_with(tmp_path, Int8(members=(MemberRanges(configuration=WIDE.name, fold=7, layers=()),)))


def test_a_cost_that_is_not_known_is_not_made_up():
    assert Int8(members=()).words == "what 8 bits cost could not be measured"
    assert Int8(members=(), dice=0.5, dice_before=0.5, cases=1).words.endswith("by +0.0000, to 0.5000, by one fold on 1 held-out case")
