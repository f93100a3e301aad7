"""What the command line answers: help, version, results, errors and exit codes."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import autounet
from autounet import pipeline, stop
from autounet.cli import main
from autounet.cli.app import app
from autounet.data.dataset import Dataset, Problem
from autounet.stages.plan import read_plan
from planners.errors import UserError
from planners.labels import LabelClass, Labels
from tests.cli.conftest import REPOSITORY, Call

PAIRS = (["import"], ["export"], ["import", "nnunet"], ["export", "nnunet"])
VERBS = ("run", "check", "plan", "prepare", "train", "demo", "predict", "evaluate", "compare", "report", "info", "verify", "doctor")
HEAVY = ("torch", "scipy", "pandas", "SimpleITK", "nibabel", "matplotlib", "numpy", "sklearn", "blosc2", "pydicom")
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "livers"
    folder.mkdir()
    return folder


def test_the_version_is_the_packages() -> None:
    assert main(["--version"]) == 0


def test_the_version_is_one_line(call: Call) -> None:
    assert call("--version").out == f"autounet {autounet.__version__}\n"


def test_these_are_all_verbs() -> None:
    assert {name for name in app if not name.startswith("-")} == {*VERBS, "import", "export"}


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], [], *([verb, "--help"] for verb in VERBS), *([*pair, "--help"] for pair in PAIRS)], ids=" ".join
)
def test_help_and_version_load_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from autounet.cli import main; code = main(sys.argv[1:]); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "autounet" in done.stdout


def test_the_first_help_names_every_verb_with_what_it_does(call: Call) -> None:
    said = call("--help")
    assert said.code == 0
    assert all(f"│ {verb} " in said.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_common_flags(call: Call, verb: str) -> None:
    text = call(verb, "--help").out
    flags = ("--work", "--json", "--quiet", "--verbose", "--seed", "--device", "--threads", "--max-ram", "--stalled-after", "--dry-run")
    assert [flag for flag in flags if flag not in text] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_reference_page_names_every_verb_and_flag(call: Call, verb: str) -> None:
    page = (REPOSITORY / "docs" / "reference" / "verbs.md").read_text(encoding="utf-8")
    flags = {word for line in call(verb, "--help").out.splitlines() for word in line.split()[1:3] if word.startswith("--")}
    assert f"`{verb}" in page
    assert {flag for flag in flags if flag not in page} == set()


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["rnu", "x"], 'Unknown command "rnu".', 'Did you mean "run"?'),
        (["chekc", "x"], 'Unknown command "chekc".', 'Did you mean "check"?'),
        (["run"], "DATASET requires an argument.", "see `autounet run --help`."),
        (["run", ".", "--tme", "4h"], "Unknown option: --tme.", "Did you mean --time?"),
        (["run", ".", "--thread", "4"], "Unknown option: --thread.", "Did you mean --threads?"),
        (["run", ".", "--time", "40"], '"40" is no time, write for example 90s, 40m or 4h.', "see `autounet run --help`."),
        (["run", ".", "--max-ram", "4"], '"4" is no size', "see `autounet run --help`."),
        (["run", ".", "--threads", "many"], 'unable to convert "many" into int.', "see `autounet run --help`."),
        (["run", ".", "--threads", "0"], "0 threads cannot work.", "1 or more, for example --threads 4"),  # B168
        (["run", ".", "--seed", "-1"], "the seed -1 is not in the range of seeds.", "--seed 0 to 4294967295"),  # B168
        (["run", ".", "--seed=4294967296"], "the seed 4294967296 is not in the range", "--seed 0 to 4294967295"),
        (["run", ".", "--device", "gpu"], '"gpu" is no device.', "cuda:1"),
        (["run", ".", "--folds", "2-0"], "no list of numbers", "see `autounet run --help`."),
        (["check", "a", "b"], "too many words: b.", "see `autounet check --help`."),
        (["run", ".", "--seed"], "--seed requires an argument.", "see `autounet run --help`."),
        (["predict", "a", "b", "c", "--preset", "quick"], "quick", "see `autounet predict --help`."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_make_no_command_end_with_2(call: Call, words: list[str], cause: str, remedy: str) -> None:
    said = call(*words)
    assert said.code == 2
    assert said.last.startswith("error: ")
    assert cause in said.last
    assert remedy in said.last.replace("See", "see")
    assert said.out == ""


def test_a_missing_folder_is_answered_with_the_nearest_one(call: Call, dataset: Path) -> None:
    said = call("check", dataset.with_name("livres"))
    assert said.code == 4
    assert said.last == f"error: the dataset {dataset.with_name('livres')} does not exist. Did you mean {dataset}?"
    assert not dataset.with_name("livres.autounet").exists()


def test_a_misspelt_parent_is_seen_through(call: Call, dataset: Path) -> None:
    inner = dataset / "images"
    inner.mkdir()
    said = call("check", dataset.with_name("Livers_") / "imags")
    assert said.last.endswith(f"Did you mean {inner}?")


def test_a_file_instead_of_a_folder_is_named(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"x")
    said = call("run", file)
    assert (said.code, said.last) == (4, f"error: the dataset {file} is a file, not a folder. Name the folder, for example {tmp_path}.")


def test_a_work_folder_inside_the_dataset_is_refused(call: Call, dataset: Path) -> None:
    said = call("check", dataset, "--work", dataset / "work")
    assert said.code == 4
    assert "lies in the dataset, where nothing is written" in said.last
    assert list(dataset.iterdir()) == []


def test_a_file_as_work_folder_is_refused(call: Call, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("mine")
    said = call("check", dataset, "--work", tmp_path / "w")
    assert (said.code, (tmp_path / "w").read_text()) == (4, "mine")
    assert "the work folder" in said.last


def _raise(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_a_user_error_is_the_last_line_and_ends_with_4(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(UserError("the mask has no header", "write it again", "case_7")))
    said = call("check", dataset)
    assert (said.code, said.last) == (4, "error: case_7: the mask has no header. Write it again.")
    assert "Traceback" not in said.err


def test_json_says_the_same_as_one_object(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(UserError("the mask has no header", "write it again", "case_7")))
    said = call("check", dataset, "--json")
    assert said.json == {"error": {"cause": "the mask has no header", "case": "case_7", "remedy": "write it again", "code": 4}}
    assert said.code == 4


def test_a_wrong_word_with_json_is_an_object_too(call: Call) -> None:
    said = call("chekc", "x", "--json")
    assert said.json["error"]["code"] == said.code == 2  # type: ignore[index]


def test_a_bug_keeps_its_traceback_on_the_screen_and_in_a_file(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(ZeroDivisionError("one over nothing")))
    work = dataset.with_name("livers.autounet")
    work.mkdir()
    said = call("check", dataset)
    (record,) = work.glob("crash-*.txt")
    assert said.code == 1
    assert "Traceback" in said.err
    assert "ZeroDivisionError: one over nothing" in record.read_text()
    assert said.last.startswith("error: this is a bug in autounet: ZeroDivisionError: one over nothing.")
    assert said.last.endswith(f"report it with the file {record}.")


def test_a_bug_before_there_is_a_work_folder_makes_none(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(ZeroDivisionError()))
    assert call("check", dataset).code == 1
    assert not dataset.with_name("livers.autounet").exists()


@pytest.mark.parametrize("error", [stop.Stopped("SIGTERM"), KeyboardInterrupt()])
def test_a_stopped_run_ends_with_75(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(error))
    said = call("check", dataset)
    assert said.code == 75
    assert said.last.endswith("what was finished is kept. Type the same command again to go on.")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(28, "No space left on device", "x.bin"), "Free some space"),
        (OSError(122, "Disk quota exceeded"), "Your disk quota is used up"),
        (PermissionError(13, "Permission denied", "/data/x"), "Ask for the right"),
        (OSError(30, "Read-only file system", "/data"), "That place is read-only"),
        (MemoryError(), "Allow less with --max-ram"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "Plan for less with --gpu-memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_machine_lacks_is_the_users_to_mend(
    call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(error))
    said = call("check", dataset)
    assert said.code == 4
    assert remedy in said.last
    assert "Traceback" not in said.err


def test_cases_that_failed_end_with_3(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(severity="error", code="grid", case="case_2", found="a", expected="b", remedy="type c")
    labels = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="liver", value=1)))
    shape = {"root": "/livers", "name": "livers", "layout": "pairs", "why": "", "dimensions": 3}
    found = Dataset(**shape, cases=(), channels=(), labels=labels, problems=(problem,))
    monkeypatch.setattr(pipeline, "check", lambda *_: found)
    said = call("check", dataset)
    assert (said.code, said.last) == (3, "error: case_2: a (expected: b). Type c.")
    said = call("check", dataset, "--json")
    assert (said.code, said.json["failed_cases"], said.json["code"]) == (3, ["case_2"], 3)
    assert said.json["failed"] == [{"case": "case_2", "cause": "a (expected: b)", "remedy": "type c"}]
    found = replace(found, problems=(problem, replace(problem, case="case_4")))
    assert call("check", dataset).last == "error: 2 cases failed: case_2, case_4. case_2: a (expected: b). Type c."


def test_numbers_that_are_none_are_null_in_json(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autounet.stages import info

    facts = info.Facts(lines=(), plain={"dice": [float("nan"), 0.5, float("inf")], "where": tmp_path})
    monkeypatch.setattr(info, "look", lambda _: facts)
    said = call("info", tmp_path, "--json")
    assert said.json["result"] == {"dice": [None, 0.5, None], "where": str(tmp_path)}
    assert "NaN" not in said.out


def test_a_case_cannot_repaint_the_terminal(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", _raise(UserError("\x1b[2Jgone\r", "a\nb", "evil\u202ecase\x07")))
    said = call("check", dataset)
    assert said.err.count("\n") == 1
    assert not set("\x1b\r\x07\u202e") & set(said.err)
    assert "evil\\u202ecase\\x07" in said.last


def test_common_flags_may_stand_before_the_verb(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(pipeline, "run", lambda data, job, wishes, group: seen.append((data, job, wishes)) or _raise(UserError("a", "b"))())
    call(
        "--quiet", "--seed", "7", "--work=" + str(tmp_path / "w"), "run", dataset, "--time", "1h30m", "--folds", "0,2-3", "--max-ram", "2GB"
    )
    ((data, job, wishes),) = seen
    assert (data, job.work, job.seed, job.max_ram_bytes) == (dataset, tmp_path / "w", 7, 2_000_000_000)
    assert (wishes.seconds, wishes.folds) == (5400.0, (0, 2, 3))


def test_flags_before_a_verb_of_two_words_belong_to_it(call: Call, tmp_path: Path) -> None:
    said = call("--json", "--dry-run", "import", "nnunet", tmp_path, tmp_path / "m.aunet")
    assert (said.code, said.json["code"]) == (0, 0)


def test_flags_before_the_verb_never_become_file_names(call: Call, dataset: Path) -> None:
    said = call("--json", "check", "--", dataset.with_name("--quiet"))
    assert "does not exist" in str(said.json)


def test_a_model_of_the_reference_that_is_not_there_is_one_error(call: Call, tmp_path: Path) -> None:
    said = call("import", "nnunet", tmp_path / "nowhere", tmp_path / "m.aunet")
    assert (said.code, "does not exist" in said.last) == (4, True)
    said = call("export", "nnunet", tmp_path / "nowhere.aunet", tmp_path / "out")
    assert (said.code, "does not exist" in said.last) == (4, True)


def test_the_work_folder_stands_for_its_dataset(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    work = dataset.with_name("livers.autounet")
    work.mkdir()
    monkeypatch.setattr(pipeline, "check", lambda data, job, _: seen.append((data, job.work)) or _raise(UserError("a", "b"))())
    call("check", work)
    assert seen == [(dataset, work)]


def test_a_work_folder_of_another_name_knows_its_dataset(
    call: Call, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    work = tmp_path / "elsewhere"
    work.mkdir()
    (work / "index.json").write_text(json.dumps({"root": str(dataset)}))
    (work / "manifest.json").write_text("{}")
    monkeypatch.setattr(pipeline, "check", lambda data, job, _: seen.append((data, job.work)) or _raise(UserError("a", "b"))())
    call("check", work)
    assert seen == [(dataset, work)]


def test_a_dry_run_writes_neither_folder_nor_log(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(data: Path, job: object, _: object) -> object:
        job.progress.note("looked")  # type: ignore[attr-defined]
        (job.work / "index.json").write_text("{}")  # type: ignore[attr-defined]
        return SimpleNamespace(name="livers", layout="pairs", cases=(1, 2), problems=(), errors={})

    monkeypatch.setattr(pipeline, "check", check)
    before = sorted(dataset.parent.rglob("*"))
    assert call("check", dataset, "--dry-run").code == 0
    assert sorted(dataset.parent.rglob("*")) == before


def test_every_event_of_a_command_lies_in_the_work_folder(call: Call, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = dataset.with_name("livers.autounet")

    def check(data: Path, job: object, _: object) -> object:
        job.work.mkdir()  # type: ignore[attr-defined]
        with job.progress.task("check", total=2) as task:  # type: ignore[attr-defined]
            task.step("a")
            task.step("b")
        return SimpleNamespace(name="livers", layout="pairs", cases=(1, 2), problems=(), errors={})

    monkeypatch.setattr(pipeline, "check", check)
    assert call("check", dataset).code == 0
    events = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events] == ["command", "begin", "step", "end"]  # the one before the folder was there, too
    assert (events[2]["done"], events[2]["doing"]) == (2.0, "b")


def test_the_module_and_the_script_are_the_same(shell: Shell) -> None:
    assert shell("--version").stdout == f"autounet {autounet.__version__}\n"


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A dataset with a plan."""
    data = tmp_path / "organs"
    assert main(["demo", "--cases", "5", "--size", "24", "--folder", str(data), "--data-only", "--quiet"]) == 0
    assert main(["plan", str(data), "--quiet"]) == 0
    return data


@pytest.mark.parametrize("words", [["--planner", "nnunet"], ["--target", "cuda"], ["--gpu-memory", "8GB"]], ids=" ".join)
def test_a_wish_that_the_plan_which_is_there_does_not_hear_of_is_said(call: Call, planned: Path, words: list[str]) -> None:
    plan = planned.with_name("organs.autounet") / "plan.json"
    before = plan.read_bytes()
    said = call("plan", planned, *words)
    assert said.code == 0
    assert f"{plan} is there and is followed, so {words[0]}" in said.err
    assert "--replan" in said.err
    assert plan.read_bytes() == before
    assert "is there and is followed" not in call("plan", planned, *words, "--replan").err
    assert "is there and is followed" not in call("plan", planned).err


def test_a_plan_that_is_there_and_takes_more_than_is_now_allowed_is_said(call: Call, planned: Path) -> None:
    plan = read_plan(planned.with_name("organs.autounet") / "plan.json")
    least = max(plan.configuration(name).memory.training_bytes for name in plan.train)
    said = call("plan", planned, "--max-ram", f"{least // 2_000_000}MB")
    assert said.code == 0
    assert "to train, more than --max-ram" in said.err
    assert "add --replan" in said.err
    assert "more than --max-ram" not in call("plan", planned, "--max-ram", f"{least // 500_000}MB").err


def test_a_device_that_is_not_there_is_said_once_and_before_any_work(call: Call, planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = call("run", planned, "--device", "cuda", "--iterations", "1")
    assert (said.code, said.last) == (
        4,
        "error: this machine has no usable cuda device. Use --device cpu, or type `autounet doctor` to see why.",
    )
    assert "prepare" not in said.err
    assert not (planned.with_name("organs.autounet") / "runs").exists()
