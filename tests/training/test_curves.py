"""What curves.svg shows, read back from the drawing; and that a log with holes is drawn."""

import json
import math
from xml.etree import ElementTree

import pytest

from autounet.progress import Progress
from autounet.training.curves import panels_of, picture, read_log, thinned, write_curves
from autounet.training.fold import train_fold
from tests.training.test_loop import fold, job

SVG = "{http://www.w3.org/2000/svg}"


def logged(folder, events):
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(e if isinstance(e, str) else json.dumps(e) + "\n" for e in events))


def step(number, **more):
    return {"kind": "train", "step": number, "loss": 2.0 / number, "rate": 0.01, "seconds": 0.5 * number, **more}


def test_each_panel_has_its_lines_and_a_step_made_twice_counts_once(tmp_path):
    scored = {"kind": "validation", "step": 3, "dice": 0.5, "dice_liver": 0.75, "dice_box": None}
    events = [step(1), step(2, loss=99.0), step(2, loss_dice=-0.25), '{"kind": "train", "st', "\n", step(3), scored]
    logged(tmp_path / "f", events)
    panels = dict(panels_of(read_log(tmp_path / "f" / "events.jsonl")))
    assert panels["loss"] == [("sum", [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]), ("dice", [(2, -0.25)])]
    assert panels["Dice of whole held-out volumes"] == [("mean", [(3, 0.5)]), ("liver", [(3, 0.75)])]  # a class that is nowhere has no line
    assert panels["steps per second"] == [("speed", [(2, 2.0), (3, 2.0)])]
    assert panels["learning rate"] == [("rate", [(1, 0.01), (2, 0.01), (3, 0.01)])]


def test_of_many_classes_the_worst_are_drawn_beside_the_mean():
    scored = {"step": 1, "dice": 0.5, **{f"dice_c{i}": i / 10 for i in range(10)}}
    ((_, lines),) = panels_of({"train": [], "validation": [scored]})
    assert [name for name, _ in lines] == ["mean", "c0", "c1", "c2", "c3", "c4"]


def test_long_lines_are_thinned_to_means_and_what_is_no_number_is_left_out():
    assert thinned([(float(i), float(i % 2)) for i in range(480)]) == [(2.0 * i + 1, 0.5) for i in range(240)]
    ((_, lines),) = panels_of({"train": [{"step": 1, "rate": math.nan}, {"step": 2, "rate": 0.5}], "validation": []})
    assert lines == [("rate", [(2.0, 0.5)])]


def test_the_drawing_stands_alone_names_what_it_shows_and_has_colours_for_light_and_dark():
    text = picture([("loss", [("sum", [(1.0, 2.0), (2.0, 1.0)])])], 'a & b "fold 0"')
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == 'a & b "fold 0"'
    style = root.find(f"{SVG}style").text
    assert "prefers-color-scheme: dark" in style
    assert all(f"--c{i}:" in style for i in range(1, 7))
    (line,) = root.iter(f"{SVG}polyline")
    (x1, y1), (x2, y2) = (tuple(map(float, point.split(","))) for point in line.attrib["points"].split())
    assert x1 < x2
    assert y1 < y2  # a loss that falls goes down: y grows downwards
    assert {"sum", "loss", 'a & b "fold 0"'} <= {t.text for t in root.iter(f"{SVG}text")}


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert write_curves(tmp_path, "empty") is None
    assert list(tmp_path.iterdir()) == []


def test_a_trained_fold_has_its_curves(tmp_path):
    made = fold(tmp_path, validate=lambda network: (0.5, (("ball", 0.5), ("box", None))))
    train_fold(made, job(tmp_path))
    root = ElementTree.parse(tmp_path / "fold_0" / "curves.svg").getroot()
    words = {t.text for t in root.iter(f"{SVG}text")}
    assert {"loss", "learning rate", "steps per second", "Dice of whole held-out volumes", "ball", "tiny: 3d_fullres fold 0"} <= words
    assert "box" not in words


def test_curves_that_cannot_be_written_cost_a_word_and_no_training(tmp_path):
    (tmp_path / "fold_0" / "curves.svg").mkdir(parents=True)
    progress = Progress.silent()
    trained = train_fold(fold(tmp_path), job(tmp_path).__class__(work=tmp_path, progress=progress, threads=1, device="cpu"))
    assert trained.state.step == 12
    assert any("curves were not drawn (" in text for text in progress.warnings)


def test_a_line_that_is_level_but_for_rounding_is_drawn():
    for values in ((0.005, 0.0050000000001), (1e-13, 1e-13), (0.0, 0.0), (-1e-9, 2e-9)):
        text = picture([("rate", [("rate", [(1.0, values[0]), (2.0, values[1])])])], "level")
        assert "nan" not in text
        (line,) = ElementTree.fromstring(text).iter(f"{SVG}polyline")
        assert len(line.attrib["points"].split()) == 2
