"""A plan in words, for people."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from planners import PLANNERS
from planners.default import plan_default
from planners.errors import UserError
from planners.explain import deep, difference, network_svg, network_text, one_screen
from planners.hardware import Budget, GiB
from tests.planners.cases import CPU, GPU, alike, labels

LIVER = alike(131, (1, 0.7676, 0.7676), (432, 512, 512), channels=("abdomen",), modality="ct", table=labels(3, ("liver", "tumour")))
PLAN = plan_default(LIVER, GPU, Budget())


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("machine", [CPU, GPU])
def test_the_screen_is_eighty_columns_wide_and_no_longer_than_a_page(name: str, machine: object) -> None:
    text = one_screen(PLANNERS[name](LIVER, machine, Budget()), LIVER)  # type: ignore[arg-type]
    assert max(len(line) for line in text.splitlines()) <= 80
    assert len(text.splitlines()) <= 60


def test_the_screen_says_what_was_seen_chosen_and_how_to_change_it() -> None:
    text = " ".join(one_screen(PLAN, LIVER).split())
    for said in (
        "131 cases, median 432 x 512 x 512 voxels of 1 x 0.768 x 0.768 mm",
        "abdomen (ct)",
        "2: liver, tumour",
        "residual U-Net, 6 stages, 32 to 320 features; 2 patches of 160 x 224 x 192 a step",
        f"memory {PLAN.configuration('3d_fullres').memory.training_bytes / GiB:.1f} GiB to train",
        "clipped to -60 .. 240, minus 80, divided by 60",
        "131 cases, each 54 patches large",
        "--gpu-memory",
        "plan.json can be edited",
    ):
        assert said in text


def test_every_decision_has_a_reason_with_numbers() -> None:
    decisions = {reason.decision for reason in PLAN.reasons}
    assert {"training", "spacing", "channel abdomen", "capacity", "3d_fullres", "sampling", "mirroring", "schedule", "time"} <= decisions
    assert sum(bool(re.search(r"\d", reason.why)) for reason in PLAN.reasons) >= 0.7 * len(PLAN.reasons)


def test_depth_shows_every_number_of_a_configuration() -> None:
    text = deep(PLAN, "3d_fullres")
    assert "residual blocks" in text
    assert "3d_fullres.schedule.learning_rate = 0.01" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_depth_of_one_decision_is_its_reason() -> None:
    assert "54 patches large" in deep(PLAN, "capacity")


def test_an_unknown_topic_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 3d_fullres"):
        deep(PLAN, "3d_fulres")


def test_the_difference_of_two_plans_is_what_differs() -> None:
    assert difference(PLAN, PLAN) == "The two plans decide the same."
    changed = replace(PLAN, configurations=tuple(replace(one, batch_size=4) if one.name == "2d" else one for one in PLAN.configurations))
    assert difference(PLAN, changed) == "configurations.2d.batch_size: 12 -> 4"
    missing = replace(PLAN, configurations=PLAN.configurations[1:])
    assert "configurations.2d.batch_size: 12 -> (absent)" in difference(PLAN, missing)


@pytest.mark.parametrize("one", PLAN.configurations, ids=lambda one: one.name)
def test_the_picture_is_sound_svg_without_colours_of_its_own(one: object) -> None:
    net = one.architecture  # type: ignore[attr-defined]
    drawing = network_svg(net)
    root = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = root.findall("{*}rect")
    assert len(boxes) == 2 * len(net.features) - 1
    for box in boxes:
        assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
        assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height
    assert not re.search(r"#[0-9a-fA-F]{3}|rgb\(", drawing)


def test_the_table_of_the_network_has_a_row_a_stage() -> None:
    lines = network_text(PLAN.configuration("3d_fullres").architecture).splitlines()
    assert len(lines) == 1 + 6
    assert lines[1].split()[:4] == ["0", "1", "x", "1"]
    assert lines[-1].split()[:6] == ["5", "32", "x", "32", "x", "32"]


def test_pictures_are_told_in_two_dimensions() -> None:
    pictures = alike(24, (999, 1, 1), (1, 512, 512), modality="em")
    text = " ".join(one_screen(plan_default(pictures, CPU, Budget()), pictures).split())
    assert "median 512 x 512 pixels" in text
    assert "top to bottom, left to right" in text
    assert " mm" not in text
