import html
import json
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from autounet.job import Job
from autounet.progress import Progress
from autounet.report.figures import curves, intervals, round_ticks, strips
from autounet.report.page import Page, Section, Table, Viewer, render
from autounet.stages.report import report
from autounet.store.selection import (
    Calibration,
    Candidate,
    Chosen,
    Expectation,
    FoldScore,
    PostStep,
    Preset,
    Selection,
    TargetScore,
)
from autounet.store.strict import read_value, write_value
from planners.hardware import GiB
from planners.plan import MemoryEstimate, Plan
from tests.tiny_models import configuration, fingerprint_of, plan_of

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def work(tmp_path):
    """A work folder as a run leaves it, one of whose classes has a hostile name."""
    folder = tmp_path / "heart.autounet"
    plan = plan_of(configuration((8, 8, 8)))
    write_value(folder / "plan.json", plan)
    write_value(folder / "fingerprint.json", fingerprint_of(plan))
    selection = Selection(
        members=(Chosen(configuration="3d_fullres", folds=(0, 1)),),
        why="3d_fullres, 2 folds",
        scores=(TargetScore(name=EVIL, cases=2, dice=0.9, low=0.8, high=0.95),),
        candidates=(
            Candidate(name="3d_fullres", configurations=("3d_fullres",), dice=0.9, low=0.8, high=0.95, within_noise=True),
            Candidate(name="2d", configurations=("2d",), dice=0.7, low=0.6, high=0.8, p_against_best=0.01),
        ),
        cases=2,
    )
    write_value(folder / "selection.json", selection)
    metrics = {EVIL: {"dice": 0.9, "tp": 9, "fp": 1, "fn": 1, "tn": 1}}
    scores = {"targets": {EVIL: [1]}, "cases": [{"case": "c1", "metrics": metrics}, {"case": "c2", "problem": "damaged"}]}
    (folder / "scores" / "3d_fullres").mkdir(parents=True)
    (folder / "scores" / "3d_fullres" / "scores.json").write_text(json.dumps(scores))
    (folder / "runs" / "3d_fullres" / "fold_0").mkdir(parents=True)
    events = [{"kind": "validation", "step": 10 * n, "dice": 0.1 * n} for n in range(5)]
    (folder / "runs" / "3d_fullres" / "fold_0" / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n{torn")
    (folder / "heart.aunet").write_bytes(b"")
    return folder


def page(work):
    return report(work, Job(work=work, progress=Progress.silent())).read_text()


def test_the_page_answers_in_the_order_in_which_a_reader_asks(work):
    text = page(work)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["How good it is", "The data", "The plan", "The network", "The training", "How to use the model"]
    assert "<h1>heart</h1>" in text
    assert "0.9000" in text
    assert "within noise of the best" in text
    assert "damaged" in text
    assert "autounet predict heart.aunet" in text


def test_everything_that_was_chosen_is_said_with_how_sure_it_is(work):
    chosen = read_value(work / "selection.json", Selection)
    more = replace(
        chosen,
        post_steps=(PostStep(kind="drop_small", target="liver", minimum_mm3=120.0, gain=0.0123, p=0.004),),
        presets=(Preset(name="fast", step_fraction=0.75, mirror=False, folds=1, dice=0.85, seconds_per_case=1.234, cases=2),),
        folds=(FoldScore(fold=0, cases=1, dice=0.81), FoldScore(fold=1, cases=1, dice=0.93)),
        expectation=Expectation(expected=(0.1, 0.9), dice=(0.2, 0.95), below=-0.07, above=0.04),
        calibration=Calibration(nll_before=0.4, nll_after=0.3, ece_before=0.081, ece_after=0.012, voxels=99),
        mean_low=0.801,
        mean_high=0.949,
    )
    write_value(work / "selection.json", more)
    record = {"configuration": "3d_fullres", "fold": 0, "iterations": 120, "seconds": 60.0, "execution": "cpu", "waited_seconds": 3.0}
    (work / "runs" / "3d_fullres" / "fold_0" / "run.json").write_text(json.dumps(record))
    text = page(work)
    for said in ("drop pieces of liver below 120 mm³", "+0.0123", "0.8100 to 0.9300", "0.8010 to 0.9490", "-0.070 to +0.040", "0.081"):
        assert said in text, said
    speed = text.split("Speed and memory</h2>")[1]
    for said in ("--fast", "1.23", "0.500", "5%"):
        assert said in speed, said


def test_what_a_training_took_stands_beside_what_was_planned(work):
    plan = read_value(work / "plan.json", Plan)
    planned = replace(plan.configurations[0], memory=MemoryEstimate(training_bytes=4 * GiB, inference_bytes=GiB))
    write_value(work / "plan.json", replace(plan, configurations=(planned,)))
    # A score of a whole volume lies between the third and the fourth step; the fifth was made twice, before and after a kill.
    logs = {0: [(1, 9.0), (2, 9.5), (3, 10.0), (4, 40.0), (5, 40.5), (5, 40.4), (6, 40.9)], 1: [(1, 5.0), (2, 5.7), (3, 6.4)]}
    for fold, steps in logs.items():
        folder = work / "runs" / "3d_fullres" / f"fold_{fold}"
        folder.mkdir(exist_ok=True)
        events = [json.dumps({"kind": "train", "step": step, "seconds": seconds, "loss": 0.1}) for step, seconds in steps]
        (folder / "events.jsonl").write_text("\n".join(events) + "\n{torn")
        record = {"configuration": "3d_fullres", "fold": fold, "iterations": 6, "seconds": 50.0, "execution": "cpu", "waited_seconds": 0.0}
        (folder / "run.json").write_text(json.dumps(record | {"held_bytes": (5 + fold) * GiB // 2}))
    text = page(work).split("Speed and memory</h2>")[1]
    assert "4.0 GiB planned, 3.0 GiB measured, 0.600 s a step measured" in text  # the most of both; the median of 0.5 and 0.7
    assert "1.0 GiB planned" in text
    rows = [re.findall(r"<td[^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    assert [row[4:7] for row in rows if row[:1] == ["3d_fullres"]] == [["0.500", "0%", "2.50"], ["0.700", "0%", "3.00"]]


def test_a_class_has_those_metrics_beside_its_dice_that_were_scored(work):
    path = work / "scores" / "3d_fullres" / "scores.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps(scores | {"mean": {EVIL: {"sensitivity": 0.25, "precision": None, "nsd": 0.875, "hd95_mm": 3.456}}}))
    head, row = re.findall(r"<tr>(.*?)</tr>", page(work), re.DOTALL)[:2]
    assert re.findall(r">([^<>]+)</button>", head) == ["Class", "Cases", "Dice", "from", "to", "Sensitivity", "NSD", "HD95 mm"]
    assert re.findall(r'"num">([^<]*)<', row)[-3:] == ["0.250", "0.875", "3.46"]


def test_nothing_that_comes_from_data_becomes_markup(work):
    text = page(work)
    assert EVIL not in text
    assert "&lt;script&gt;alert" in text


def test_names_of_classes_and_cases_reach_the_viewer_as_data():
    viewer = Viewer(cases=(f"{EVIL}: Dice 0.5",), targets=(EVIL, "quote \"' & <b>"))
    text = render(Page(title=EVIL, lead=(), tiles=(), sections=(Section(id="s", title="S", viewer=viewer),)))
    assert EVIL not in text
    stored = re.search(r'data-targets="([^"]*)"', text)[1]
    assert json.loads(html.unescape(stored)) == list(viewer.targets)


def test_the_page_asks_the_network_for_nothing_and_names_no_path(work):
    text = page(work)
    assert "default-src 'none'" in text
    links = re.findall(r"""(?:src|href|url|xlink:href)\s*[=(]\s*["']?([^"')\s>]+)""", text)
    assert [link for link in links if not link.startswith(("#", "data:", "`viewer/"))] == []
    assert str(work) not in text


def test_a_run_that_has_just_begun_has_a_page_too(tmp_path):
    folder = tmp_path / "begun.autounet"
    folder.mkdir()
    text = page(folder)
    assert "not finished" in text
    assert "<h2>" not in text


def test_figures_are_well_formed_and_hold_every_value():
    rows = [("a & b", 0.9, 0.85, 0.95), ("c", 0.2, 0.1, 0.3)]
    for figure in (
        intervals(rows),
        strips([("a<b", [("case & 1", 0.5), ("case 2", float("nan"))])]),
        curves([("f", [(0, 1.0), (1, 2.0)])], across="x", up="y"),
    ):
        ElementTree.fromstring(str(figure))
    assert str(intervals(rows)).count("<circle") == 2
    assert str(strips([("a", [("one", 0.5), ("two", 0.6)])])).count("<title>") == 2
    assert str(curves([], across="x", up="y")) == ""
    assert str(curves([("one", [(5, 0.5)])], across="x", up="y")).count("<circle") == 1
    ElementTree.fromstring(str(curves([("flat", [(0, 2.0), (1, 2.0)])], across="x", up="y")))


def test_an_interval_begins_at_a_round_number_below_the_lowest():
    text = str(intervals([("a", 0.97, 0.96, 0.98)]))
    assert ">0.90<" in text
    assert ">0.00<" not in text
    assert ">0.00<" in str(intervals([("a", 0.97, 0.16, 0.98)]))


def test_numeric_columns_are_marked_for_sorting():
    table = Table(head=("Case", "Dice"), rows=(("a", "0.5"),), numeric=(False, True))
    text = render(Page(title="t", lead=(), tiles=(), sections=(Section(id="s", title="S", tables=(("", table),)),)))
    assert re.search(r'<th class="num" scope="col"><button type="button">Dice', text)
    assert '<td class="num">0.5</td>' in text


def test_axes_end_at_round_numbers_around_all_values():
    assert round_ticks([27, 60, 162]) == [0, 50, 100, 150, 200]
    assert round_ticks([0.306, 0.796]) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert round_ticks([0.0]) == [0.0, 0.2]
    assert all(a < b for a, b in pairwise(round_ticks([-1e-9, 3e-9])))
