"""Weights come back bit for bit, are read alike by the format's own library, and are believed only when all fits."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from autounet.store.weights import MAX_HEADER_BYTES, SEAL, load_tensors, read_header, save_tensors
from planners.errors import UserError

TENSORS: dict[str, torch.Tensor] = {
    "encoder.0.weight": torch.linspace(-1, 1, 24).reshape(2, 3, 4),
    "half": torch.tensor([1.5, -0.0, float("inf"), 6e-8], dtype=torch.float16),
    "brain": torch.tensor([[3.140625], [-1e30]], dtype=torch.bfloat16),
    "double": torch.tensor(2.0**-1000, dtype=torch.float64),
    "step": torch.tensor(2**40),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "signs": torch.tensor([-128, 127], dtype=torch.int8),
    "short": torch.tensor([-(2**15)], dtype=torch.int16),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.zeros(3, 0, 2),
    "across": torch.arange(6.0).reshape(2, 3).T,
}


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.dtype == torch.bfloat16:
        a, b = a.view(torch.int16), b.view(torch.int16)
    return a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def test_every_type_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", TENSORS)
    back = load_tensors(tmp_path / "w")
    assert set(back) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert equal(back[name], tensor), name


def test_the_library_of_the_format_reads_the_same(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", TENSORS, {"note": "ein Wert"})
    back = safetensors.torch.load_file(tmp_path / "w")
    for name, tensor in TENSORS.items():
        assert equal(back[name], tensor), name
    with safetensors.safe_open(tmp_path / "w", "numpy") as file:
        assert file.metadata()["note"] == "ein Wert"


def test_what_the_library_of_the_format_writes_is_read_when_asked_for(tmp_path: Path) -> None:
    whole = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    safetensors.torch.save_file(whole, tmp_path / "w", {"format": "pt"})
    with pytest.raises(UserError, match="carries no hash"):
        load_tensors(tmp_path / "w")
    back = load_tensors(tmp_path / "w", sealed=False)
    for name, tensor in TENSORS.items():
        assert equal(back[name], tensor), name


def test_numpy_goes_in_and_comes_out(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "big endian": np.array([1, 2, 3], dtype=">i4"),
        "reversed": np.arange(12.0).reshape(3, 4)[::-1, ::2],
        "scalar": np.array(7, np.float32),
    }
    with pytest.raises(ValueError, match="no name for a tensor"):
        save_tensors(tmp_path / "w", arrays)
    arrays["big_endian"] = arrays.pop("big endian")
    save_tensors(tmp_path / "w", arrays)
    back = load_tensors(tmp_path / "w", "numpy")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert back["big_endian"].dtype == np.dtype("<i4")
    assert safetensors.numpy.load_file(tmp_path / "w")["reversed"].tolist() == [[8, 10], [4, 6], [0, 2]]


def test_numpy_sees_a_bfloat16_by_its_value(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", {"b": torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16)})
    back = load_tensors(tmp_path / "w", "numpy")["b"]
    assert back.dtype == np.float32
    assert back.tolist() == torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16).double().tolist()


def test_the_same_values_make_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    digests = {save_tensors(tmp_path / "w", dict(order), {"a": "1"}) for order in (TENSORS.items(), reversed(TENSORS.items()))}
    assert len(digests) == 1


def test_what_was_loaded_can_be_changed_without_changing_another(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", {"a": torch.zeros(4), "b": torch.zeros(4)})
    back = load_tensors(tmp_path / "w")
    back["a"] += 1
    assert back["b"].tolist() == [0, 0, 0, 0]
    assert load_tensors(tmp_path / "w")["a"].tolist() == [0, 0, 0, 0]


def test_types_that_are_not_stored_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    for tensor in (torch.zeros(2, dtype=torch.complex64), np.zeros(2, dtype=object), np.zeros(2, dtype="U3")):
        with pytest.raises(ValueError, match="are not stored"):
            save_tensors(tmp_path / "w", {"a": tensor})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    digest = save_tensors(tmp_path / "w", {"a": torch.arange(20.0), "b": torch.arange(3)}, {"step": "7"})
    whole = (tmp_path / "w").read_bytes()
    rng = random.Random(3)
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        (tmp_path / "w").write_bytes(data)
        with pytest.raises(UserError) as caught:
            load_tensors(tmp_path / "w", sha256=digest.sha256)
        assert str(tmp_path / "w") in str(caught.value)
        # Without the recorded hash only blanks that pad the header may differ: they carry nothing.
        try:
            assert load_tensors(tmp_path / "w")["a"].tolist() == list(range(20))
        except UserError:
            continue
        assert whole[at : at + 1] in b' ,:{}"[]0123456789'


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, -1])
def test_a_cut_file_is_refused(keep: int, tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", TENSORS)
    whole = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(whole[:keep])
    with pytest.raises(UserError, match="w"):
        load_tensors(tmp_path / "w")


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


CROOKED = {
    "a header of a gigabyte": (file_of({}, length=2**30), "should be the header"),
    "a header longer than the file": (file_of({}, length=100), "should be the header"),
    "a header of 2^64-1 bytes": (b"\xff" * 8 + b"{}", "should be the header"),
    "a header above the limit": (file_of(b"{" + b" " * MAX_HEADER_BYTES + b"}"), "should be the header"),
    "a pickle": (b"\x80\x02}q\x00(X\x05\x00\x00\x00", "should be the header"),
    "a zip": (b"PK\x03\x04" + bytes(100), "should be the header"),
    "no object": (file_of([1]), "starts with"),
    "a double name": (file_of(b'{"a": {}, "a": {}}'), "occurs twice"),
    "overlapping tensors": (file_of({"a": one(), "b": one(offsets=[4, 12])}, bytes(12)), "b starts at byte 4"),
    "two tensors on the same bytes": (file_of({"a": one(), "b": one()}, bytes(8)), "b starts at byte 0"),
    "a gap": (file_of({"a": one(), "b": one(offsets=[12, 20])}, bytes(20)), "b starts at byte 12"),
    "a gap in front": (file_of({"a": one(offsets=[4, 12])}, bytes(12)), "a starts at byte 4"),
    "trailing bytes": (file_of({"a": one()}, bytes(9)), "end at byte 8 of 9"),
    "missing bytes": (file_of({"a": one()}, bytes(7)), "end at byte 8 of 7"),
    "a shape that does not fit": (file_of({"a": one(shape=[3])}, bytes(8)), "takes 12 bytes, not 8"),
    "a shape that overflows 64 bits": (file_of({"a": one(shape=[2**33, 2**33])}, bytes(8)), "takes 295147905179352825856 bytes"),
    "a shape that is huge": (file_of({"a": one(shape=[2**60])}, bytes(8)), "has the shape"),
    "a negative edge": (file_of({"a": one(shape=[-2])}, bytes(8)), "has the shape"),
    "a half edge": (file_of({"a": one(shape=[2.0])}, bytes(8)), "has the shape"),
    "a true edge": (file_of({"a": one(shape=[True], offsets=[0, 4])}, bytes(4)), "has the shape"),
    "nine axes": (file_of({"a": one(shape=[1] * 9, offsets=[0, 4])}, bytes(4)), "has the shape"),
    "offsets backwards": (file_of({"a": one(offsets=[8, 0])}, bytes(8)), "takes 8 bytes, not -8"),
    "three offsets": (file_of({"a": one(offsets=[0, 8, 8])}, bytes(8)), "has the shape"),
    "an unknown type": (file_of({"a": one(dtype="F128")}, bytes(8)), "of the type 'F128'"),
    "an object as type": (file_of({"a": one(dtype={})}, bytes(8)), "of the type {}"),
    "a key too many": (file_of({"a": {**one(), "run": "me"}}, bytes(8)), "is not described"),
    "a key too few": (file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "is not described"),
    "texts that are none": (file_of({"__metadata__": {"a": 1}, "a": one()}, bytes(8)), "something else than texts"),
    "a name with a line break": (file_of({"a\n": one()}, bytes(8)), "no name of a tensor"),
    "a name of 300 letters": (file_of({"a" * 300: one()}, bytes(8)), "no name of a tensor"),
    "no name": (file_of({"": one()}, bytes(8)), "no name of a tensor"),
    "a number that is none": (file_of(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', bytes(8)), "NaN is no number"),
    "a deep header": (file_of(b'{"a":' * 1000 + b"1" + b"}" * 1000), "nested deeper"),
    "a truth value of two": (file_of({"a": one("BOOL", [2], [0, 2])}, b"\x01\x02"), "neither 0 nor 1"),
}


@pytest.mark.parametrize("name", CROOKED)
def test_a_crooked_file_is_one_clear_error(name: str, tmp_path: Path) -> None:
    data, problem = CROOKED[name]
    (tmp_path / "crooked.safetensors").write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_tensors(tmp_path / "crooked.safetensors", sealed=False)
    assert problem in caught.value.problem
    assert "crooked.safetensors" in caught.value.problem


def test_a_straight_file_made_by_hand_is_read(tmp_path: Path) -> None:
    """So that the crooked ones above are refused for what is wrong with them."""
    (tmp_path / "w").write_bytes(file_of({"a": one(), "b": one("U8", [], [8, 9])}, np.array([1, 2], np.float32).tobytes() + b"\x07"))
    back = load_tensors(tmp_path / "w", "numpy", sealed=False)
    assert (back["a"].tolist(), int(back["b"])) == ([1, 2], 7)


def test_tensors_that_do_not_start_at_a_multiple_of_their_width_are_read(tmp_path: Path) -> None:
    header = {"b": one("U8", [1], [0, 1]), "a": one("F32", [2], [1, 9])}
    (tmp_path / "w").write_bytes(file_of(header, b"\x07" + np.array([1, 2], np.float32).tobytes()))
    assert load_tensors(tmp_path / "w", sealed=False)["a"].tolist() == [1, 2]


def test_without_a_seal_only_the_recorded_hash_opens_it(tmp_path: Path) -> None:
    digest = save_tensors(tmp_path / "w", {"a": torch.ones(3)}, sealed=False)
    with pytest.raises(UserError, match="carries no hash"):
        load_tensors(tmp_path / "w")
    assert load_tensors(tmp_path / "w", sha256=digest.sha256)["a"].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="was damaged"):
        load_tensors(tmp_path / "w", sha256="0" * 64)


def test_the_seal_covers_the_texts(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", {"a": torch.zeros(1)}, {"labels": "liver"})
    data = (tmp_path / "w").read_bytes()
    assert data.count(b"liver") == 1
    (tmp_path / "w").write_bytes(data.replace(b"liver", b"heart"))
    assert read_header(tmp_path / "w").metadata["labels"] == "heart"
    with pytest.raises(UserError, match="was damaged"):
        load_tensors(tmp_path / "w")


def test_a_header_tells_names_and_shapes_without_reading_tensors(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", {"a": torch.zeros(2, 5), "b": torch.zeros(3, dtype=torch.int64)}, {"step": "7"})
    header = read_header(tmp_path / "w")
    assert [(e.name, e.dtype, e.shape) for e in header.entries] == [("b", "I64", (3,)), ("a", "F32", (2, 5))]
    assert header.metadata["step"] == "7"
    assert len(header.metadata[SEAL]) == 64


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes, framed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(file_of(data) if framed else data)
    with pytest.raises(UserError):
        load_tensors(path)
