"""Sizes, times and lists as people type them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autounet.cli.quantities import parse_bytes, parse_devices, parse_names, parse_numbers, parse_seconds, parse_steps_or_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GB", 4_000_000_000),
        ("4gb", 4_000_000_000),
        ("4 G", 4_000_000_000),
        ("1.5GiB", 1_610_612_736),
        ("512MB", 512_000_000),
        ("2TB", 2_000_000_000_000),
        ("1k", 1000),
    ],
)
def test_sizes_mean_what_their_unit_says(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["4", "", "GB", "-4GB", "4GBs", "0GB", "four", "4 4GB", "1e9", "nan", "٤GB4"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("40m", 2400), ("4h", 14_400), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), ("10min", 600)]
)
def test_times_add_up(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["40", "", "h", "-4h", "4x", "4h3", "0s", "4 fortnights", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        parse_seconds(text)


def test_lists_of_numbers_hold_ranges_and_no_number_twice() -> None:
    assert parse_numbers("0-2,4,2") == (0, 1, 2, 4)


@pytest.mark.parametrize("text", ["", "a", "2-0", "0,,1", "-1", "0-99999", "1;2"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no list"):
        parse_numbers(text)


def test_names_are_split_at_commas() -> None:
    assert parse_names("2d, 3d_fullres,2d") == ("2d", "3d_fullres")


@given(st.text(max_size=12))
def test_a_text_is_read_or_refused_with_an_example(text: str) -> None:
    for parse in (parse_bytes, parse_seconds, parse_numbers, parse_names):
        complaint = _complaint(parse, text)
        assert not complaint or "write for example" in complaint


def _complaint(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


def test_devices_keep_their_order_and_may_be_named_twice():
    assert parse_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert parse_devices("cpu,cpu") == ("cpu", "cpu")
    assert parse_devices("all") == ("all",)


@pytest.mark.parametrize("text", ["", "auto", "all,cuda:0", "gpu0", "cuda:0;cuda:1", "cuda:123"])
def test_what_is_no_list_of_devices_is_refused(text):
    with pytest.raises(ValueError, match="no list of devices"):
        parse_devices(text)


def test_more_training_is_a_number_of_steps_or_a_time_with_its_unit():
    assert parse_steps_or_seconds("5000") == (5000, None)
    assert parse_steps_or_seconds("1h30m") == (None, 5400.0)
    for text in ("0", "-3", "2.5", "soon"):
        with pytest.raises(ValueError, match="no number of steps and no time"):
            parse_steps_or_seconds(text)
