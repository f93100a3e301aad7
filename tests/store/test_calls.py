"""The store reaches the disk through one thin module, and nobody reaches it past the store."""

import ast
from collections.abc import Iterator
from pathlib import Path

import autounet.store

STORE = Path(autounet.store.__file__).parent
WRITES = {"write_text", "write_bytes", "touch", "rename", "symlink_to", "chmod", "hardlink_to", "rmdir"}
OF_OS = {
    "open", "write", "pwrite", "fsync", "fdatasync", "fchmod", "chmod", "close", "replace", "rename", "link", "symlink", "unlink", "remove",
    "mkdir", "makedirs", "rmdir", "truncate", "ftruncate", "sendfile", "copy_file_range", "read", "readv",
}  # fmt: skip


def calls_in(path: Path) -> Iterator[tuple[str, str, int]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value.id if isinstance(node.func.value, ast.Name) else "something"
            yield of, node.func.attr, node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield "", node.func.id, node.lineno


def test_the_store_calls_the_system_by_the_names_that_tests_replace() -> None:
    past = [
        f"{path.name}:{line} {of}.{name}"
        for path in sorted(STORE.glob("*.py"))
        if path.name != "calls.py"
        for of, name, line in calls_in(path)
        if (of == "os" and name in OF_OS) or (of != "calls" and name in {*WRITES, "mkdir", "unlink"}) or (of == "" and name == "open")
    ]
    assert past == []
