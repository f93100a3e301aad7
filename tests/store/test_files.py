"""A file or folder is there whole, or the old one is; and a full or forbidden disk is one clear sentence."""

import errno
import hashlib
import io
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from autounet.store import calls, disk
from autounet.store.cache import Cache, key
from autounet.store.digest import digest_file, digest_tree
from autounet.store.disk import free_bytes, human, require_space
from autounet.store.files import make_folder, publish, publish_bytes, publish_json, publish_text, publish_tree
from autounet.store.json_text import json_text
from planners.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_published_file_has_the_bytes_and_their_digest(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    digest = publish_bytes(tmp_path / "deep/er/file.bin", data)
    assert (tmp_path / "deep/er/file.bin").read_bytes() == data
    assert (digest.size, digest.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert names(tmp_path) == ["deep", "deep/er", "deep/er/file.bin"]


def test_many_small_and_large_pieces_arrive_in_order(tmp_path: Path) -> None:
    pieces = [bytes([i % 256]) * (1 + i * 7919 % 300_000) for i in range(60)]

    def write(file: BinaryIO) -> None:
        for piece in pieces:
            file.write(piece)
        assert file.tell() == sum(map(len, pieces))

    publish(tmp_path / "f", write)
    assert (tmp_path / "f").read_bytes() == b"".join(pieces)


def test_a_writer_may_go_back_and_correct_its_header(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"????" + b"x" * 2_000_000)
        file.seek(0)
        file.write(b"HEAD")
        file.seek(0, os.SEEK_END)
        file.write(b"tail")

    digest = publish(tmp_path / "f", write)
    expected = b"HEAD" + b"x" * 2_000_000 + b"tail"
    assert (tmp_path / "f").read_bytes() == expected
    assert digest == digest_file(tmp_path / "f")
    assert digest.sha256 == hashlib.sha256(expected).hexdigest()


def test_libraries_can_write_into_it(tmp_path: Path) -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 100)
    publish(tmp_path / "a.npy", lambda file: np.save(file, array[:, ::-1], allow_pickle=False))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array[:, ::-1])

    def zipped(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("one.txt", "1" * 5000)

    publish(tmp_path / "a.zip", zipped)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("one.txt") == b"1" * 5000

    def text(file: BinaryIO) -> None:
        with io.TextIOWrapper(file, "utf-8") as lines:  # closes the file it was given, as csv writers do
            lines.write("grün\n")

    publish(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text("utf-8") == "grün\n"


@pytest.mark.parametrize("when", ["write", "verify"])
def test_whoever_fails_leaves_the_old_file_and_nothing_else(when: str, tmp_path: Path) -> None:
    publish_text(tmp_path / "f", "old")

    def write(file: BinaryIO) -> None:
        file.write(b"new" * 1_000_000)
        if when == "write":
            raise ZeroDivisionError

    def verify(part: Path) -> None:
        assert part.read_bytes() == b"new" * 1_000_000
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish(tmp_path / "f", write, verify=verify)
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_file_changed_between_writing_and_reading_back_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = calls.fsync

    def rot(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.pwrite(descriptor, b"?", 1)
        fsync(descriptor)

    monkeypatch.setattr(calls, "fsync", rot)
    with pytest.raises(UserError, match="read back differently"):
        publish_bytes(tmp_path / "f", b"abcdef")
    assert names(tmp_path) == []


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "f").symlink_to(tmp_path / "precious")
    publish_text(tmp_path / "f", "mine")
    assert (tmp_path / "precious").read_text() == "keep me"
    assert not (tmp_path / "f").is_symlink()
    assert (tmp_path / "f").read_text() == "mine"


def test_the_temporary_is_private_and_unguessable_and_the_result_follows_the_umask(tmp_path: Path) -> None:
    seen: list[str] = []

    def write(file: BinaryIO) -> None:
        (part,) = tmp_path.glob(".*.part")
        seen.append(part.name)
        assert stat.S_IMODE(part.stat().st_mode) == 0o600

    before = os.umask(0o027)
    try:
        publish(tmp_path / "a", write)
        publish(tmp_path / "b", lambda file: None)
        os.umask(0o002)
        (tmp_path / "a").unlink()
        publish(tmp_path / "c", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o664
    assert seen[0][:-21] == seen[1][:-21], "both tell the same owner"
    assert seen[0] != seen[1]


def test_json_reads_well_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    plain = {"shape": [1, 2, 3], "cases": [{"id": f"case_{i}", "size": [i] * 20} for i in range(3)], "empty": [], "name": "grün"}
    publish_json(tmp_path / "f.json", plain)
    text = (tmp_path / "f.json").read_text("utf-8")
    assert '  "shape": [1, 2, 3],\n' in text
    assert "grün" in text
    assert max(map(len, text.splitlines())) <= 125
    import json

    assert json.loads(text) == plain
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner/a").write_bytes(b"1" * 1000)
    (folder / "b").write_bytes(b"22")


def test_a_tree_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    digest = publish_tree(tmp_path / "tree", fill)
    assert digest.size == 1002
    assert digest == digest_tree(tmp_path / "tree")

    def fill_again(folder: Path) -> None:
        assert (tmp_path / "tree/b").read_bytes() == b"22", "the old one stays until the new one is complete"
        (folder / "c").write_bytes(b"3")

    assert publish_tree(tmp_path / "tree", fill_again) != digest
    assert names(tmp_path) == ["tree", "tree/c"]


def test_a_tree_is_replaced_also_where_two_names_cannot_be_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tree(tmp_path / "tree", fill)
    monkeypatch.setattr(calls, "exchange", lambda first, second: False)
    publish_tree(tmp_path / "tree", lambda folder: (folder / "c").write_bytes(b"3"))
    assert names(tmp_path) == ["tree", "tree/c"]


def test_the_old_tree_comes_back_when_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish_tree(tmp_path / "tree", fill)
    monkeypatch.setattr(calls, "exchange", lambda first, second: False)
    refused: list[str] = []

    def refuse(source: Path, target: Path) -> None:
        if target.name == "tree" and len(refused) < 2:  # the swap by rename, and the second step of two
            refused.append(str(source))
            raise OSError(errno.ENOTEMPTY if len(refused) == 1 else errno.EIO, "no")
        source.replace(target)

    monkeypatch.setattr(calls, "replace", refuse)
    with pytest.raises(UserError, match="not written"):
        publish_tree(tmp_path / "tree", lambda folder: (folder / "c").write_bytes(b"3"))
    assert digest_tree(tmp_path / "tree") == digest
    assert [n for n in names(tmp_path) if "part" in n] == []


def test_a_swap_that_fails_for_another_reason_than_not_being_known_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        calls.exchange(str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_tree_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    digest = publish_tree(tmp_path / "tree", fill)

    def fail(folder: Path) -> None:
        fill(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish_tree(tmp_path / "tree", fail)
    assert digest_tree(tmp_path / "tree") == digest
    assert [n for n in names(tmp_path) if "part" in n] == []


def test_what_a_writer_cannot_read_stays_its_own_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish_tree(tmp_path / "tree", lambda folder: (tmp_path / "source").read_bytes())
    with pytest.raises(UserError, match="not written"):
        publish_tree(tmp_path / "tree", lambda folder: (folder / "not/there").write_bytes(b""))


def test_a_tree_holds_no_links(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not written"):
        publish_tree(tmp_path / "tree", lambda folder: (folder / "l").symlink_to("/etc/passwd"))
    assert names(tmp_path) == []


def test_a_digest_of_a_tree_sees_names_sizes_and_bytes(tmp_path: Path) -> None:
    seen = set()
    for name, data in (("a", b"1"), ("b", b"1"), ("a", b"2"), ("a", b"11")):
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / name).write_bytes(data)
        seen.add(digest_tree(tmp_path / "t"))
    assert len(seen) == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open_file", "write", "fsync"])
def test_a_full_disk_names_bytes_needed_and_free_and_the_folder(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(calls, call, full)
    with pytest.raises(UserError) as caught:
        publish_bytes(tmp_path / "mask.nii.gz", b"x" * 3_000_000)
    assert "mask.nii.gz needs at least" in caught.value.problem
    assert f"in {tmp_path}, " in caught.value.problem
    assert "are free" in caught.value.problem
    assert "type the same command again" in caught.value.fix
    if call != "open_file":
        assert "2.9 MiB" in caught.value.problem
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_a_failed_sync_means_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_text(tmp_path / "f", "old")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(calls, "fsync", broken)
    with pytest.raises(UserError, match="was not written"):
        publish_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"


def test_a_disk_that_takes_no_bytes_is_an_error_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "write", lambda descriptor, data: 0)
    monkeypatch.setattr("autounet.store.sink.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="not written"):
        publish_bytes(tmp_path / "f", b"x")


def test_a_limit_on_file_sizes_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    publish_bytes(tmp_path / "f", b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError) as caught:
            publish_bytes(tmp_path / "f", b"x" * 100_001)
        publish_bytes(tmp_path / "g", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "needs at least 97.7 KiB" in caught.value.problem
    assert "ulimit -f" in caught.value.fix
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f", "g"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small disk needs more rights")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_really_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    publish_bytes(small_disk / "a", b"a" * 100_000)
    with pytest.raises(UserError) as caught:
        publish_bytes(small_disk / "a", b"b" * 150_000)
    assert "needs at least 146.5 KiB" in caught.value.problem
    assert f"in {small_disk}" in caught.value.problem
    assert (small_disk / "a").read_bytes() == b"a" * 100_000
    assert names(small_disk) == ["a"]
    with pytest.raises(UserError, match="are free"):
        publish_tree(small_disk / "tree", lambda folder: publish_bytes(folder / "x", b"b" * 150_000))
    assert names(small_disk) == ["a"]
    with pytest.raises(UserError, match="are free"):  # a writer of its own, as libraries are
        publish_tree(small_disk / "tree", lambda folder: (folder / "x").write_bytes(b"b" * 150_000))
    with pytest.raises(UserError, match="are free"):
        Cache(small_disk / "cache").put(key("x"), lambda folder: (folder / "x").write_bytes(b"b" * 150_000))
    assert [name for name in names(small_disk) if "part" in name] == []
    publish_bytes(small_disk / "a", b"c" * 80_000)
    assert (small_disk / "a").read_bytes() == b"c" * 80_000


def test_a_read_only_disk_is_told_before_anything_is_written(small_disk: Path) -> None:
    publish_bytes(small_disk / "a", b"old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("a", "deeper/b"):
        with pytest.raises(UserError) as caught:
            publish_bytes(small_disk / name, b"new")
        assert "cannot be written" in caught.value.problem
        assert "--work" in caught.value.fix
    assert (small_disk / "a").read_bytes() == b"old"


def test_a_forbidden_folder_is_told() -> None:
    """As somebody without root's rights, which know no forbidden folders."""
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        folder = Path(open_to_all, "locked")
        folder.mkdir(mode=0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(UserError) as caught:
                publish_text(folder / "f", "x")
        finally:
            os.seteuid(user)
        assert f"cannot be written into {folder} (Permission denied)" in caught.value.problem
        assert names(folder) == []


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("I am a file")
    for path in (tmp_path / "work/plan.json", tmp_path / "work/deeper/plan.json"):
        with pytest.raises(UserError, match="something else is in its place"):
            publish_text(path, "x")
    (tmp_path / "folder/plan.json").mkdir(parents=True)
    (tmp_path / "folder/plan.json/x").touch()
    with pytest.raises(UserError, match="something else is in its place"):
        publish_text(tmp_path / "folder/plan.json", "x")
    assert (tmp_path / "work").read_text() == "I am a file"


def test_two_threads_publishing_one_name_leave_one_of_the_two(tmp_path: Path) -> None:
    def work(letter: bytes) -> None:
        for _ in range(50):
            publish_bytes(tmp_path / "f", letter * 10_000)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "f").exists():
            assert (tmp_path / "f").read_bytes() in (b"a" * 10_000, b"b" * 10_000)
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["f"]


def test_folders_are_made_by_two_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=make_folder, args=(tmp_path / "a/b/c/d",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a/b/c/d").is_dir()


def test_too_little_room_is_refused_before_any_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not/yet/there", 1000, "the cache")
    with pytest.raises(UserError) as caught:
        require_space(tmp_path / "not/yet/there", 2**60, "the cache")
    assert caught.value.problem.startswith("the cache needs 1048576.0 TiB in ")
    assert abs(free_bytes(tmp_path) - shutil.disk_usage(tmp_path).free) < 2**30


def test_b169_a_disk_too_small_is_told_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = types.SimpleNamespace(f_bavail=3 * 256, f_frsize=4096)  # 3 MiB
    monkeypatch.setattr(disk.os, "statvfs", lambda folder: room)
    require_space(tmp_path, 3 * 2**20, "the cache")
    with pytest.raises(UserError, match=r"^the cache needs 5\.5 MiB in .*, 3\.0 MiB are free"):
        require_space(tmp_path, 11 * 2**19, "the cache")


def test_sizes_are_said_as_people_say_them() -> None:
    assert [human(n) for n in (0, 1023, 1024, 1536, 5 * 2**20, 3 * 2**30)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
