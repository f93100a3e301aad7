"""A cache entry is whole or not there, is made again when it is damaged, and is found by what it was made from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autounet.store.cache import Cache, key
from planners.errors import UserError

KEY = key("case_01", b"settings")


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner/image").write_bytes(b"i" * 1000)
    (folder / "frame.json").write_bytes(b"{}")


def never(folder: Path) -> None:
    raise AssertionError("made twice")


def test_parts_of_a_key_are_kept_apart() -> None:
    assert key("ab", "c") != key("a", "bc") != key("abc")
    assert key("a") != key(b"a")
    assert key() != key("")
    assert key("a", "b") != key("b", "a")
    assert key("a", b"b") == key("a", b"b")
    assert len(key("a")) == 40


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.get(KEY) is None
    entry = cache.put(KEY, fill)
    assert entry == cache.path(KEY) == cache.get(KEY)
    assert (entry / "inner/image").read_bytes() == b"i" * 1000
    assert cache.put(KEY, never) == entry
    assert cache.verify(KEY)
    assert cache.keys() == (KEY,)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_an_entry_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        fill(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.put(KEY, fail)
    assert cache.get(KEY) is None
    assert cache.keys() == ()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_name_of_the_record_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="own record"):
        Cache(tmp_path).put(KEY, lambda folder: (folder / "entry.json").write_bytes(b"{}"))
    assert Cache(tmp_path).keys() == ()


@pytest.mark.parametrize("name", ["inner/image", "frame.json", "entry.json"])
@pytest.mark.parametrize("left", [0, 1])
def test_a_cut_file_is_found_at_once_and_the_entry_made_again(name: str, left: int, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    os.truncate(cache.put(KEY, fill) / name, left)
    assert cache.get(KEY) is None
    entry = cache.put(KEY, fill)
    assert cache.get(KEY) == entry
    assert cache.verify(KEY)


def test_a_missing_file_a_link_and_a_folder_in_its_place_are_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.put(KEY, fill)
    (entry / "frame.json").unlink()
    assert cache.get(KEY) is None
    (tmp_path / "target").write_bytes(b"{}")
    (entry / "frame.json").symlink_to(tmp_path / "target")
    assert cache.get(KEY) is None
    (entry / "frame.json").unlink()
    (entry / "frame.json").mkdir()
    assert cache.get(KEY) is None
    assert cache.get(cache.put(KEY, fill).name) is not None


def test_every_flipped_byte_is_found_by_the_hash(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name in ("inner/image", "frame.json", "entry.json"):
        for at in (0, 1, -1):
            file = cache.put(KEY, fill) / name
            data = bytearray(file.read_bytes())
            data[at] ^= 0x40
            file.write_bytes(data)
            assert not cache.verify(KEY), (name, at)
            assert cache.get(KEY) is None, "a damaged entry is gone, so that it is made again"


def test_an_entry_under_a_wrong_name_is_not_believed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    other = key("another case")
    entry = cache.put(KEY, fill)
    cache.path(other).parent.mkdir(exist_ok=True)
    entry.rename(cache.path(other))
    assert cache.get(other) is None


def test_a_key_is_no_path(tmp_path: Path) -> None:
    for name in ("../../etc", "a/b", "", "ABCDEF0123", "abc"):
        with pytest.raises(ValueError, match="no key"):
            Cache(tmp_path).path(name)


def test_pruning_keeps_what_is_named(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keys = [key(str(number)) for number in range(5)]
    for one in keys:
        cache.put(one, fill)
    assert cache.prune(keys[:2]) > 3 * 1002
    assert cache.keys() == tuple(sorted(keys[:2]))
    assert all(cache.verify(one) for one in keys[:2])
    assert cache.prune(keys[:2]) == 0


def test_a_cache_that_others_may_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(UserError, match="everybody may write") as caught:
        Cache(tmp_path / "cache").put(KEY, fill)
    assert "chmod o-w" in caught.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 4242, -1)
    for above in (tmp_path, *list(tmp_path.parents)[:3]):
        above.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="belongs to another user"):
            Cache(tmp_path / "cache").put(KEY, fill)
    finally:
        os.seteuid(0)


MAKER = """
import sys, time
from pathlib import Path
from autounet.store.cache import Cache, key
cache = Cache(Path(sys.argv[1]))
def fill(folder):
    (folder / "a").write_bytes(b"a" * 5000)
    time.sleep(0.002)
    (folder / "b").write_bytes(b"b" * 5000)
for number in range(40):
    entry = cache.put(key(str(number)), fill)
    assert (entry / "a").read_bytes() == b"a" * 5000 and (entry / "b").read_bytes() == b"b" * 5000
    assert cache.get(key(str(number))) == entry
"""


def test_two_processes_fill_one_cache_and_never_see_half(tmp_path: Path) -> None:
    makers = [subprocess.Popen([sys.executable, "-c", MAKER, tmp_path / "cache"]) for _ in range(2)]
    assert [maker.wait(timeout=120) for maker in makers] == [0, 0]
    cache = Cache(tmp_path / "cache")
    keys = cache.keys()
    assert set(keys) == {key(str(number)) for number in range(40)}
    assert all(cache.verify(one) for one in keys)
    assert list((tmp_path / "cache").rglob("*.part")) == []
