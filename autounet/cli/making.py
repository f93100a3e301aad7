"""Verbs that go from images to a model. Each one is one call of the job; heavy imports stay inside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from autounet.cli.failure import UsageError, failures
from autounet.cli.flags import DEFAULTS, NO_CHOICES, Choices, Common, Folder, Switch
from autounet.cli.paths import dataset_and_work, existing, outside, work_folder
from autounet.cli.session import Result, rehearsal, session
from autounet.progress.wording import size

if TYPE_CHECKING:
    from autounet.data.dataset import Dataset
    from autounet.job import Job
    from autounet.pipeline import Outcome, Wishes
    from autounet.training.launched import Group
    from planners.fingerprint import Fingerprint
    from planners.plan import Plan

MOST_WORKERS = 256
Data = Annotated[Path, Parameter(help="Folder of images and masks; it is only read.")]


def run(dataset: Data, /, *, choices: Choices = NO_CHOICES, common: Common = DEFAULTS) -> Result:
    """Everything from a folder of images to a model, its scores and a report. Typed again, it goes on."""
    from autounet import pipeline

    data, work = dataset_and_work(dataset, common.work)
    outside(choices.cache, data, "cache")
    if common.dry_run:
        return _rehearse(data, work, choices, common)
    group = pipeline.launched(common.device)
    if group is not None and not group.first:
        return _followed(group, work, choices, common)
    with session(_on_first(common, choices), work) as job:
        return _outcome(pipeline.run(data, job, _wishes(choices), group))


def check(
    dataset: Data,
    /,
    *,
    layout: Annotated[str | None, Parameter(metavar="NAME", help="How the folder is laid out; default: found out.")] = None,
    common: Common = DEFAULTS,
) -> Result:
    """Say what is in a folder, how it was understood, and what is wrong with it."""
    from autounet import pipeline

    data, work = dataset_and_work(dataset, common.work)
    with session(common, work) as job:
        if common.dry_run:
            with rehearsal(work) as folder:
                return _checked(pipeline.check(data, replace(job, work=folder), _wishes(Choices(layout=layout))), data)
        return _checked(pipeline.check(data, job, _wishes(Choices(layout=layout))), data)


def plan(
    dataset: Data,
    /,
    *,
    explain: Annotated[str | None, Parameter(metavar="CONFIGURATION", help="Explain this configuration in depth.")] = None,
    compare: Annotated[Path | None, Parameter(metavar="PLAN", help="Another plan.json: say what differs.")] = None,
    choices: Choices = NO_CHOICES,
    common: Common = DEFAULTS,
) -> Result:
    """Decide everything about the training, on one page, with reasons; plan.json can then be edited."""
    data, work = dataset_and_work(dataset, common.work)
    outside(choices.cache, data, "cache")
    with session(common, work) as job:
        if common.dry_run:
            with rehearsal(work) as folder:
                decided, seen, _ = _decide(data, replace(job, work=folder), choices)
        else:
            decided, seen, _ = _decide(data, job, choices)
    return _planned(decided, seen, explain, compare)


def prepare(
    dataset: Data,
    /,
    *,
    verify: Annotated[Switch, Parameter(help="Read what is prepared, chunk by chunk, and make the damaged anew.")] = False,
    prune: Annotated[Switch, Parameter(help="Afterwards remove from the cache what the plan does not use.")] = False,
    choices: Choices = NO_CHOICES,
    common: Common = DEFAULTS,
) -> Result:
    """Bring every case to the form the networks want, into the cache."""
    from autounet.stages import prepare as stage

    data, work = dataset_and_work(dataset, common.work)
    outside(choices.cache, data, "cache")
    if common.dry_run:
        return _rehearse(data, work, choices, common)
    with session(common, work) as job:
        decided, _, index = _decide(data, job, choices)
        done = stage.prepare(index, decided, job, cache=choices.cache, configurations=choices.configurations, verify=verify)
        freed = stage.prune(decided, job, cache=choices.cache) if prune else 0
    failed = failures({**{f.case: f.error for f in done.failures}, **index.errors})
    lines = [f"{done.made} prepared, {done.found} were there before." + (f" {size(freed)} freed." if prune else "")]
    lines += [f"{f.case}: {f.error}" for f in done.failures]
    plain = {"work": str(work), "made": done.made, "found": done.found, "freed_bytes": freed}
    return Result(lines=(*lines, f"Next: autounet train {quote(str(dataset))}"), plain=plain, failed=failed)


def train(dataset: Data, /, *, choices: Choices = NO_CHOICES, common: Common = DEFAULTS) -> Result:
    """Train the folds of the planned networks; typed again, it goes on from the last checkpoint."""
    from autounet import pipeline

    data, work = dataset_and_work(dataset, common.work)
    outside(choices.cache, data, "cache")
    if common.dry_run:
        return _rehearse(data, work, choices, common)
    group = pipeline.launched(common.device)
    if group is not None and not group.first:
        return _followed(group, work, choices, common)
    with session(_on_first(common, choices), work) as job:
        decided, _, index = _decide(data, job, choices)
        unprepared = pipeline.prepare(index, decided, job, _wishes(choices))
        pipeline.train(index, decided, job, _wishes(choices), group)
    failed = failures({**unprepared, **index.errors})
    line = f"The folds are trained. Next: autounet run {quote(str(dataset))}"
    return Result(lines=(line,), plain={"work": str(work)}, failed=failed)


def _followed(group: Group, work: Path, choices: Choices, common: Common) -> Result:
    """In the other processes of a group: they train with the first, which says and writes everything."""
    from autounet import pipeline

    with session(common, work, silent=True) as job:
        pipeline.follow(job, _wishes(choices), group)
    return Result()


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Phantoms:
    """Which made-up images."""

    kind: Annotated[str, Parameter(metavar="NAME")] = "organs"
    "organs, lesions, ct, multichannel, cells or slides."
    cases: Annotated[int, Parameter(metavar="N")] = 10
    "How many."
    size: Annotated[int | None, Parameter(metavar="VOXELS")] = None
    "Edge of a phantom; default: small."
    folder: Folder = None
    "Where they are put; default: autounet-demo/KIND here."
    data_only: Switch = False
    "Make the dataset, train nothing."


SMALL = Phantoms()
DEMO_FOLDS = (0,)  # one fold for three minutes shows more than five folds for half a minute each
# Planned for three minutes; trained by steps, or a machine that is slow or busy would show a model that has seen nothing.
DEMO_SECONDS, DEMO_ITERATIONS = 180.0, 400


def demo(*, images: Phantoms = SMALL, choices: Choices = NO_CHOICES, common: Common = DEFAULTS) -> Result:
    """Make a small dataset of phantoms, train on it for some minutes, and show the report."""
    from autounet import phantoms, pipeline

    data = images.folder or Path("autounet-demo") / images.kind
    work = work_folder(data, common.work)
    if common.dry_run:
        return Result(lines=(f"Would make {images.cases} phantoms ({images.kind}) in {data} and train on them in {work}.",))
    with session(common, work) as job:
        job.progress.note(f"Making {images.cases} phantoms ({images.kind}) in {data}")
        phantoms.make(images.kind, data, cases=images.cases, size=images.size, seed=common.seed)
        if images.data_only:
            return Result(lines=(f"The phantoms are in {data}. Next: autounet run {quote(str(data))}",), plain={"dataset": str(data)})
        return _outcome(pipeline.run(data, job, _wishes(_short(choices))))


def _short(choices: Choices) -> Choices:
    """A demo's training, where nobody said otherwise."""
    iterations = DEMO_ITERATIONS if choices.time is None and choices.iterations is None else choices.iterations
    return replace(choices, time=choices.time or DEMO_SECONDS, iterations=iterations, folds=choices.folds or DEMO_FOLDS)


def _decide(data: Path, job: Job, choices: Choices) -> tuple[Plan, Fingerprint, Dataset]:
    from autounet import pipeline

    index = pipeline.check(data, job, _wishes(choices))
    seen = pipeline.measure(index, job)
    return pipeline.decide(seen, job, _wishes(choices)), seen, index


def _rehearse(data: Path, work: Path, choices: Choices, common: Common) -> Result:
    """What a training would do, found out in a folder that is thrown away."""
    with session(common, work) as job, rehearsal(work) as folder:
        decided, seen, index = _decide(data, replace(job, work=folder), choices)
    result = _planned(decided, seen, None, None)
    return replace(result, lines=(*result.lines, f"Nothing was written. Without --dry-run, {len(index.cases)} cases go to {work}."))


def _wishes(choices: Choices) -> Wishes:
    from autounet.pipeline import Wishes

    return Wishes(
        layout=choices.layout,
        planner=choices.planner,
        gpu_memory_bytes=choices.gpu_memory,
        seconds=choices.time,
        iterations=choices.iterations,
        extend=choices.extend,
        target=choices.target,
        configurations=choices.configurations,
        folds=choices.folds,
        replan=choices.replan,
        cache=choices.cache,
        probe=choices.probe,
        start=None if choices.from_ is None else existing(choices.from_, "model"),
        devices=choices.devices or (),
        track=choices.track,
        workers=_workers(choices.workers),
        worker_processes=choices.worker_processes,
    )


def _on_first(common: Common, choices: Choices) -> Common:
    """What is not trained, planned say, happens on the first of several devices."""
    named = choices.devices if choices.devices != ("all",) else ("cuda",)
    return replace(common, device=named[0]) if named and common.device == "auto" else common


def _workers(count: int | None) -> int | None:
    if count is not None and not 0 <= count <= MOST_WORKERS:
        raise UsageError(f"{count} workers cannot make samples", f"write --workers 0 to {MOST_WORKERS}")
    return count


def _outcome(outcome: Outcome) -> Result:
    plain = {"model": str(outcome.model), "report": str(outcome.report), "summary": list(outcome.summary)}
    lines = (*outcome.summary, f"Model:  {outcome.model}", f"Report: {outcome.report}")
    return Result(lines=lines, plain=plain, failed=failures(outcome.failed))


def _checked(index: Dataset, data: Path) -> Result:
    problems = [
        {"severity": p.severity, "code": p.code, "case": p.case, "found": p.found, "expected": p.expected, "remedy": p.remedy}
        for p in index.problems
    ]
    errors = sum(p.severity == "error" for p in index.problems)
    verdict = f"{errors} error{'s' if errors > 1 else ''} to mend" if errors else "nothing stands in the way"
    line = f"{index.name}: {len(index.cases)} cases, {verdict}. Next: autounet plan {quote(str(data))}"
    return Result(
        lines=(line,),
        plain={"dataset": index.name, "layout": index.layout, "cases": len(index.cases), "problems": problems},
        failed=failures(index.errors),
    )


def _planned(decided: Plan, seen: Fingerprint, why: str | None, against: Path | None) -> Result:
    from planners import explain
    from planners.strict_json import to_plain

    if against is not None:
        from autounet.stages.plan import read_plan

        text = explain.difference(read_plan(existing(against, "plan")), decided)
    else:
        text = explain.deep(decided, why) if why else explain.one_screen(decided, seen)
    return Result(lines=tuple(text.splitlines()), plain=to_plain(decided))
