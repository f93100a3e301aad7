"""What may import what, and what nobody may call."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(REPOSITORY / "autounet").rglob("*.py"), *(REPOSITORY / "planners").rglob("*.py")])
CONVERTER = "autounet/interop/convert_child.py"  # reads other people's checkpoints, alone in a child process
HEAVY = (
    *("torch", "scipy", "pandas", "SimpleITK", "nibabel", "matplotlib", "numpy"),
    *("pydicom", "sklearn", "skimage", "blosc2", "safetensors"),
)

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve", "pickletools"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.compiler.load_cache_artifacts",
    "yaml.load",
    "yaml.unsafe_load",
    "pydoc.locate",
    "os.system",
    "os.popen",
    "os.getenv",
    "os.putenv",
    "runpy.run_path",
    "runpy.run_module",
}
FORBIDDEN_NAMES = {"os.environ", "os.environb"}
FORBIDDEN_METHODS = {"extractall"}
FORBIDDEN_SWITCHES = {"shell", "allow_pickle"}
# Reading the name of a planner that the user typed is the one import by data; planners/__init__.py says so.
IMPORT_BY_NAME = {"planners/__init__.py"}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What local names stand for, so that `from torch import load as peek` is seen through."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def offences(source: str, name: str) -> list[str]:
    """Every use of something that could run code from a file, or that lets the environment steer."""
    tree = ast.parse(source)
    aliases, found = _aliases(tree), []

    def full(node: ast.AST) -> str:
        first, dot, rest = _dotted(node).partition(".")
        return aliases.get(first, first) + dot + rest

    for node in ast.walk(tree):
        bad: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = [f"imports {m}" for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Attribute | ast.Name) and full(node) in FORBIDDEN_NAMES:
            bad = [f"uses {full(node)}"]
        elif isinstance(node, ast.Call):
            bad = _bad_call(node, full(node.func), name)
        found += [f"{name}:{getattr(node, 'lineno', 0)} {what}" for what in bad]
    return found


def _bad_call(node: ast.Call, called: str, name: str) -> list[str]:
    found = [f"calls {called}"] if called in FORBIDDEN_CALLS else []
    if isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS:
        found.append(f"calls .{node.func.attr}")
    constant = node.args and isinstance(node.args[0], ast.Constant)
    if called == "importlib.import_module" and name not in IMPORT_BY_NAME and not constant:
        found.append("imports what data names")
    for keyword in node.keywords:
        off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in FORBIDDEN_SWITCHES and not off:
            found.append(f"passes {keyword.arg}=")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_no_module_runs_code_from_data_or_listens_to_the_environment(path: Path) -> None:
    name = path.relative_to(REPOSITORY).as_posix()
    if name == CONVERTER:
        pytest.skip("the guarded converter")
    assert offences(path.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load as peek\npeek('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
        "import os\nos.environ['A']",
        "from os import environ\nenviron.get('A')",
        "import os\nos.getenv('A')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import zipfile\nzipfile.ZipFile('x').extractall()",
        "import importlib\nimportlib.import_module(name)",
        "import importlib as i\ni.import_module(name)",
        "import yaml\nyaml.load(x)",
        "from pydoc import locate\nlocate('x')",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    assert offences(source, "x.py")


def test_the_search_lets_honest_code_pass() -> None:
    source = "import re, subprocess\nre.compile('a')\nsubprocess.run(['ls'], shell=False)\nmodel.load()\nnetwork.eval()\n"
    assert offences(source, "x.py") == []


def test_planners_import_nothing_but_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"planners"}
    for path in SOURCES:
        if path.is_relative_to(REPOSITORY / "planners"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert {m.split(".")[0] for m in modules} <= allowed, path


def test_planners_work_without_any_installed_package() -> None:
    modules = [p.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".") for p in SOURCES if "planners" in p.parts]
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); " + "; ".join(
        f"import {m.removesuffix('.__init__')}" for m in modules if m.startswith("planners")
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["autounet", "autounet.cli", "autounet.progress", "autounet.job", "autounet.stop", "autounet.pipeline"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {p.relative_to(REPOSITORY).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: count for name, count in lengths.items() if count > 400} == {}
