"""What is recorded is finished; what is not recorded, or no longer fits its record, is not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autounet.store.files import Digest, digest_tree, publish_bytes, publish_tree
from autounet.store.manifest import Manifest
from planners.errors import UserError


def recorded(folder: Path) -> Manifest:
    manifest = Manifest.open(folder)
    manifest.add("masks/a.bin", publish_bytes(folder / "masks/a.bin", b"a" * 1000))
    manifest.add("plan.json", publish_bytes(folder / "plan.json", b"{}"))
    return manifest


def test_only_what_is_recorded_is_there(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path)
    assert manifest.names() == ()
    digest = publish_bytes(tmp_path / "f", b"x")
    assert not manifest.has("f"), "a file that exists proves nothing"
    manifest.add("f", digest)
    assert manifest.has("f")
    assert manifest.has("f", check="hash")
    assert manifest.digest("f") == digest
    manifest.remove("f")
    assert not manifest.has("f")
    assert (tmp_path / "f").exists()


def test_it_is_read_back_by_the_next_run(tmp_path: Path) -> None:
    recorded(tmp_path)
    again = Manifest.open(tmp_path)
    assert again.names() == ("masks/a.bin", "plan.json")
    assert again.has("masks/a.bin", check="hash")
    assert again.damaged() == ()


def test_a_folder_that_was_moved_is_still_whole(tmp_path: Path) -> None:
    recorded(tmp_path / "work")
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    assert Manifest.open(tmp_path / "elsewhere").damaged() == ()


@pytest.mark.parametrize("size", [0, 1, 500, 999])
def test_a_cut_file_is_not_there(size: int, tmp_path: Path) -> None:
    manifest = recorded(tmp_path)
    os.truncate(tmp_path / "masks/a.bin", size)
    assert not manifest.has("masks/a.bin")
    assert manifest.damaged() == ("masks/a.bin",)


def test_a_flipped_bit_shows_in_the_hash(tmp_path: Path) -> None:
    manifest = recorded(tmp_path)
    for at in (0, 500, 999):
        data = bytearray(b"a" * 1000)
        data[at] ^= 1
        (tmp_path / "masks/a.bin").write_bytes(data)
        assert manifest.has("masks/a.bin", check="size")
        assert not manifest.has("masks/a.bin", check="hash")


def test_a_missing_file_a_link_and_a_folder_in_its_place_are_not_there(tmp_path: Path) -> None:
    manifest = recorded(tmp_path)
    (tmp_path / "plan.json").rename(tmp_path / "other.json")
    assert not manifest.has("plan.json")
    (tmp_path / "plan.json").symlink_to(tmp_path / "other.json")
    assert not manifest.has("plan.json")
    (tmp_path / "plan.json").unlink()
    (tmp_path / "plan.json").mkdir()
    assert not manifest.has("plan.json", check="hash")


def test_a_folder_is_recorded_whole(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_bytes(b"12")
        (folder / "b").write_bytes(b"3")

    manifest = Manifest.open(tmp_path)
    manifest.add("tree", publish_tree(tmp_path / "tree", fill))
    assert manifest.has("tree", check="hash")
    (tmp_path / "tree/b").write_bytes(b"4")
    assert manifest.has("tree")
    assert not manifest.has("tree", check="hash")
    (tmp_path / "tree/c").write_bytes(b"5")
    assert not manifest.has("tree")
    manifest.add("tree", digest_tree(tmp_path / "tree"))
    assert manifest.has("tree", check="hash")


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "", ".", "a\\b", "a\nb", "a/./b", "a//b", "a\0b", "a/"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no relative path"):
        Manifest.open(tmp_path).add(name, Digest(0, "0" * 64))
    assert not (tmp_path / "manifest.json").exists()


def test_one_process_sees_what_another_adds(tmp_path: Path) -> None:
    ours, theirs = Manifest.open(tmp_path), Manifest.open(tmp_path)
    theirs.add("f", publish_bytes(tmp_path / "f", b"x"))
    assert ours.has("f")
    ours.add("g", publish_bytes(tmp_path / "g", b"y"))
    assert theirs.names() == ("f", "g")


WRITER = """
import sys
from collections.abc import Callable
from pathlib import Path
from autounet.store.files import publish_bytes
from autounet.store.manifest import Manifest
folder, letter = Path(sys.argv[1]), sys.argv[2]
manifest = Manifest.open(folder)
for number in range(50):
    name = f"{letter}/{number}"
    manifest.add(name, publish_bytes(folder / name, letter.encode() * number))
    manifest.add("shared", publish_bytes(folder / "shared", b"same for both"))
    assert manifest.has(name, check="hash")
"""


def test_two_writers_at_once_fifty_times_lose_nothing(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, letter]) for letter in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    manifest = Manifest.open(tmp_path)
    assert set(manifest.names()) == {"shared", *(f"{letter}/{number}" for letter in "ab" for number in range(50))}
    assert manifest.damaged() == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "manifest.json", "shared"]


def test_every_single_changed_byte_of_the_list_is_noticed(tmp_path: Path) -> None:
    """Either an error that names the file, or (blanks only) exactly the same list."""
    recorded(tmp_path)
    path, unnoticed = tmp_path / "manifest.json", 0
    whole = path.read_bytes()
    entries = Manifest.open(tmp_path)._entries
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x04
        path.write_bytes(data)
        try:
            assert Manifest.open(tmp_path)._entries == entries
            unnoticed += 1
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
    assert unnoticed == 0


BROKEN: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut in half": lambda text: text[: len(text) // 2],
    "a wrong key": lambda text: text.replace('"entries"', '"entrys"'),
    "a key too many": lambda text: text.replace('"schema": 1', '"schema": 1, "more": 2'),
    "a newer version": lambda text: text.replace('"schema": 1', '"schema": 2'),
    "no version": lambda text: text.replace('"schema": 1,', ""),
    "an entry gone": lambda text: json.dumps({**json.loads(text), "entries": {}}),
    "a size as text": lambda text: text.replace('"size": 2', '"size": "2"'),
    "a negative size": lambda text: text.replace('"size": 2', '"size": -2'),
    "a short hash": lambda text: text.replace('"sha256": "', '"sha256": "0'),
    "a way out": lambda text: text.replace('"plan.json"', '"../plan.json"'),
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 10_000_000,
    "a double entry": lambda text: text.replace('"entries": {', '"entries": {"plan.json": {}, '),
    "not a number": lambda text: text.replace('"size": 2', '"size": NaN'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_list_is_one_clear_error_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    recorded(tmp_path)
    path = tmp_path / "manifest.json"
    text = BROKEN[name](path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    manifest = Manifest(tmp_path, {}, ())
    for use in (lambda: Manifest.open(tmp_path), lambda: manifest.add("g", Digest(0, "0" * 64))):
        with pytest.raises(UserError) as caught:
            use()
        assert str(path) in str(caught.value)
        assert caught.value.fix
    assert path.read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "masks", "plan.json"]
