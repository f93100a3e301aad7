"""The bench harness measures what it says it measures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"
MIB = 2**20


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    return module


def _python(bench: ModuleType, code: str, **more: object) -> object:
    return bench.Command(name="x", words=(sys.executable, "-c", code), **more)


def test_cpu_seconds_are_those_of_the_command_and_its_children(bench: ModuleType) -> None:
    burn = "import time; e = time.process_time() + 0.4\nwhile time.process_time() < e: pass"
    run = bench.measure(_python(bench, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"))
    assert 0.4 <= run.cpu_seconds < 0.9
    assert run.wall_seconds >= 0.4
    assert run.code == 0


def test_sleeping_costs_no_cpu(bench: ModuleType) -> None:
    run = bench.measure(_python(bench, "import time; time.sleep(0.5)"))
    assert run.wall_seconds >= 0.5
    assert run.cpu_seconds < 0.3


def test_peak_memory_is_that_of_the_whole_tree(bench: ModuleType) -> None:
    hold = "import time; x = bytearray(b'1') * (60 * 2**20); time.sleep(0.6)"
    code = f"import subprocess, sys; p = [subprocess.Popen([sys.executable, '-c', {hold!r}]) for _ in range(2)]; [q.wait() for q in p]"
    run = bench.measure(_python(bench, code))
    assert 120 * MIB <= run.peak_bytes < 200 * MIB


def test_memory_shared_with_a_fork_counts_once(bench: ModuleType) -> None:
    code = "import os, time; x = bytearray(b'1') * (80 * 2**20); os.fork(); os.fork(); time.sleep(0.6)"
    assert bench.measure(_python(bench, code)).peak_bytes < 140 * MIB


def test_a_command_that_hangs_is_ended(bench: ModuleType) -> None:
    run = bench.measure(_python(bench, "import time; time.sleep(60)", limit_seconds=0.5))
    assert run.code != 0
    assert run.wall_seconds < 20


def test_ratios_are_of_medians_and_failures_show(bench: ModuleType) -> None:
    def side(name: str, walls: list[float], code: int = 0) -> object:
        runs = tuple(
            bench.Run(wall_seconds=w, cpu_seconds=w, peak_bytes=int(w * MIB), code=code, others_cpu_seconds=0.0, output="") for w in walls
        )
        return bench.Side(command=bench.Command(name=name, words=("true",)), runs=runs)

    text = bench.table([bench.Comparison(task="t", ours=side("a", [1.0, 2.0, 50.0]), theirs=side("b", [8.0, 9.0, 10.0], code=1))])
    assert text.splitlines()[-1] == "| t (b ended with 1) | 2.00 | 9.00 | 4.5 | 2.00 | 9.00 | 4.5 | 2.00 | 9.00 | 4.5 |"


def test_a_table_replaces_its_older_self_and_nothing_else(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\n## Start\n\nold\n\n## Other\n\nkept\n")
    monkeypatch.setattr(bench, "DOCUMENT", page)
    bench.conclude("Start", [], ["first"], write=True)
    bench.conclude("Start", [], ["second"], write=True)
    bench.conclude("New", [], ["third"], write=True)
    text = page.read_text()
    assert "old" not in text
    assert "first" not in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Start", "## Other", "## New"]
    assert "kept" in text


def test_the_help_of_every_verb_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import bench_start

    asked = {words[2:-1] for _, words, _ in bench_start.helps() if words[-1] == "--help"}
    assert {(), ("run",), ("doctor",), ("import", "nnunet"), ("export", "nnunet")} <= asked
    assert {words[0] for words in asked if words} == {name for name in bench_start.app if not name.startswith("-")}
    assert asked >= set(bench_start.COUNTERPARTS)
