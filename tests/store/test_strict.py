"""JSON that somebody touched: whatever is odd about it is one sentence that names the file, and nothing is believed."""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autounet.store.files import publish_json
from autounet.store.json_text import json_text
from autounet.store.strict import MAX_BYTES, parse_json, read_json, read_value, write_value
from planners.errors import UserError
from planners.hardware import Hardware
from planners.labels import LabelClass, Labels

HARDWARE = Hardware(accelerator="cuda", name="a card", accelerator_bytes=8 * 2**30, host_bytes=2**34, cores=4, precisions=("float32",))


def refused(path: Path, data: bytes) -> UserError:
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_json(path)
    return caught.value


def names_the_file(error: UserError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600 + len(str(path))
    assert error.fix


ODD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\t ", "is empty"),
    "ten megabytes deep": (b"[" * 10_000_000, "nested deeper than 32 levels"),
    "ten megabytes deep and closed": (b"[" * 5_000_000 + b"]" * 5_000_000, "nested deeper than 32 levels"),
    "objects in objects": (b'{"a":' * 33 + b"1" + b"}" * 33, "nested deeper than 32 levels"),
    "a double key": (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
    "a double key inside": (b'[{"x": {"a": 1, "a": 1}}]', "the key 'a' occurs twice"),
    "the same key spelled differently": (b'{"a": 1, "\\u0061": 2}', "the key 'a' occurs twice"),
    "NaN": (b'{"a": NaN}', "NaN is no number"),
    "infinity": (b"[Infinity]", "Infinity is no number"),
    "minus infinity": (b"[-Infinity]", "-Infinity is no number"),
    "a number that overflows": (b"[1e999]", "too large to be finite"),
    "a whole number of 5000 digits": (b"[" + b"1" * 5000 + b"]", "refused"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "no JSON"),
    "latin-1": ('{"name": "grün"}'.encode("latin-1"), "no UTF-8 text: byte 12 is 0xfc"),
    "half a pair": (b'["\\ud800"]', "half of a character pair"),
    "half a pair as key": (b'{"\\ud800": 1}', "half of a character pair"),
    "cut in half": (b'{"name": "plan", "numbers": [1, 2, ', "was cut off"),
    "cut inside a text": (b'{"name": "pl', "no JSON at line 1, column 10"),
    "two values": (b"{} {}", "no JSON at line 1, column 4"),
    "single quotes": (b"{'a': 1}", "no JSON"),
    "a comment": (b'{"a": 1 // one\n}', "no JSON at line 1, column 9"),
    "a comma too many": (b'{"a": 1,}', "no JSON"),
    "a key of a megabyte, twice": (b'{"' + b"k" * 2**20 + b'": 1, "' + b"k" * 2**20 + b'": 1}', "occurs twice"),
    "zeros": (bytes(4096), "no JSON"),
    "a pickle": (b"\x80\x04\x95", "no UTF-8"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_one_clear_error(name: str, tmp_path: Path) -> None:
    data, expected = ODD[name]
    error = refused(tmp_path / "plan.json", data)
    assert expected in error.problem
    names_the_file(error, tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == data, "reading changes nothing"


def test_what_is_just_within_the_limits_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"[" * 32 + b"]" * 32)
    assert read_json(tmp_path / "f") == json.loads("[" * 32 + "]" * 32)
    (tmp_path / "f").write_bytes(b'"' + b"x" * (MAX_BYTES - 2) + b'"')
    assert len(str(read_json(tmp_path / "f"))) == MAX_BYTES - 2
    with (tmp_path / "f").open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="more than the 16777216 that are read"):
        read_json(tmp_path / "f")


def test_a_missing_file_a_folder_and_a_pipe_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="Did you mean plan"):
        read_json(tmp_path / "plans.json")
    with pytest.raises(UserError, match="cannot be opened"):
        read_json(tmp_path / "nowhere/plan.json")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):  # a pipe must not be waited for
        with pytest.raises(UserError, match="no regular file"):
            read_json(tmp_path / name)


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=40,
)


@given(plain_json)
def test_what_is_written_is_read_back(plain: Any) -> None:
    assert parse_json(json_text(plain).encode(), "f") == plain
    assert json.loads(json_text(plain)) == plain


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    said = "some.json"
    try:
        parse_json(data, "some.json")
    except UserError as error:
        said = str(error)
    assert "some.json" in said


def test_a_flipped_byte_of_a_plan_is_a_plan_or_one_clear_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = json_text({"schema": 1, **{f.name: getattr(HARDWARE, f.name) for f in HARDWARE.__dataclass_fields__.values()}}).encode()
    for _ in range(500):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "h.json").write_bytes(data)
        said = "h.json"
        try:
            read_value(tmp_path / "h.json", Hardware)
        except UserError as error:
            said = str(error)
        assert "h.json" in said


def test_a_value_comes_back_as_it_was(tmp_path: Path) -> None:
    labels = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="Hüfte 左", value=7)), ignore=255)
    for value in (HARDWARE, labels):
        write_value(tmp_path / "v.json", value)
        assert read_value(tmp_path / "v.json", type(value)) == value


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    schema: int = 3
    name: str
    inner: tuple[Inner, ...] = ()
    size: tuple[int, int] = (1, 2)
    note: str | None = None


WRONG = {
    "a newer version": ({"schema": 4, "name": "x", "future": 1}, "has schema 4, this version reads 3", "update autounet"),
    "an older version": ({"schema": 2, "name": "x"}, "has schema 2, this version reads 3", "run the command that makes it again"),
    "an unknown key": ({"name": "x", "colour": 1}, "the file has the unknown key 'colour'", "use one of schema, name, inner, size, note"),
    "an unknown key of a megabyte": ({"name": "x", "k" * 2**20: 1}, "unknown key 'kkk", "use one of schema"),
    "a misspelled key": ({"nmae": "x"}, "unknown key 'nmae'", "did you mean 'name'?"),
    "a misspelled inner key": ({"name": "x", "inner": [{"kind": "a", "wieght": 1}]}, "inner[0] has the unknown key", "'weight'"),
    "a missing key": ({}, "the file has no key 'name'", "add it"),
    "a list": ([1], "the file is [1], not an object", "write an object"),
    "a wrong choice": ({"name": "x", "inner": [{"kind": "c"}]}, "inner[0].kind is 'c', not one of a, b", "write one of a, b"),
    "a text for a number": ({"name": "x", "inner": [{"kind": "a", "weight": "1"}]}, "inner[0].weight is '1', not a number", "a number"),
    "a truth for a number": ({"name": "x", "inner": [{"kind": "a", "weight": True}]}, "weight is True, not a number", "a number"),
    "a number beyond the floats": ({"name": "x", "inner": [{"kind": "a", "weight": 10**400}]}, "not a finite number", "finite"),
    "a half number": ({"name": "x", "size": [1, 2.5]}, "size[1] is 2.5, not a whole number", "a whole number"),
    "a list too short": ({"name": "x", "size": [1]}, "size is [1], not a list of 2", "a list of 2"),
    "nothing for a text": ({"name": None}, "name is None, not a text", "a text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_names_the_file_and_the_field_and_what_to_write(name: str, tmp_path: Path) -> None:
    plain, problem, fix = WRONG[name]
    publish_json(tmp_path / "outer.json", plain)
    with pytest.raises(UserError) as caught:
        read_value(tmp_path / "outer.json", Outer)
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    names_the_file(caught.value, tmp_path / "outer.json")


def test_a_value_that_refuses_itself_names_the_file(tmp_path: Path) -> None:
    publish_json(tmp_path / "labels.json", {"classes": [{"name": "liver", "value": 1}]})
    with pytest.raises(UserError, match=r"labels\.json: the label table has no background"):
        read_value(tmp_path / "labels.json", Labels)
