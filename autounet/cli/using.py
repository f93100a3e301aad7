"""Verbs that use a model or look at what is there. Each one is one call of a stage; heavy imports stay inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from autounet.cli.failure import Failure, failures
from autounet.cli.flags import DEFAULTS, Bytes, Common, Folder, Names, Switch
from autounet.cli.paths import WORK_SUFFIX, dataset_and_work, existing, existing_folder, outside
from autounet.cli.session import Result, session
from planners.errors import UserError

if TYPE_CHECKING:
    from autounet.metrics.scores import CaseScores
    from autounet.stages.predict import PredictedCase

Model = Annotated[Path, Parameter(help="A trained model: a file that ends in .aunet.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is written beside the masks, and how much care is taken."""

    preset: Annotated[Literal["fast", "balanced", "best"] | None, Parameter(metavar="NAME")] = None
    "fast, balanced or best; what each costs and gains was measured at training. Default: as selected."
    fast: Switch = False
    "The same as --preset fast: some Dice for much time."
    balanced: Switch = False
    "The same as --preset balanced: next to no Dice for some time."
    best: Switch = False
    "The same as --preset best: with all folds and mirrors."
    no_postprocessing: Switch = False
    "Leave out the repairs of masks that were chosen with the model."
    probabilities: Switch = False
    "Also one probability image a class."
    uncertainty: Switch = False
    "Also an image of where the networks are unsure."
    classes: Names = None
    "Only these classes, say liver,spleen."
    gpu_memory: Bytes = None
    "Memory of the accelerator to use."
    precision: Annotated[Literal["float32", "bfloat16", "float16"] | None, Parameter(metavar="NAME")] = None
    "Of the network's numbers: float32, bfloat16 or float16, where the device has it. Default: the model's."
    engine: Annotated[Literal["torch", "openvino", "openvino-int8", "auto"], Parameter(metavar="NAME")] = "torch"
    "Who runs the networks on a processor: torch, openvino (openvino-int8 in 8 bits), or auto: openvino where it is installed and agrees."
    layout: Annotated[str | None, Parameter(metavar="NAME")] = None
    "How the input folder is laid out; default: found out."


AS_SELECTED = Wanted()
PRESETS = ("fast", "balanced", "best")


def predict(
    model: Model,
    input: Annotated[Path, Parameter(metavar="INPUT", help="An image, or a folder of images; it is only read.")],  # noqa: A002
    output: Annotated[Path, Parameter(metavar="OUTPUT", help="Folder for the masks.")],
    /,
    *,
    wanted: Wanted = AS_SELECTED,
    common: Common = DEFAULTS,
) -> Result:
    """Segment images with a trained model; typed again, it goes on where it was."""
    from autounet.stages import predict as stage

    existing(model, "model")
    existing(input, "input")
    for folder, what in ((output, "output folder"), (common.work, "work folder")):
        outside(folder, input, what)
    told = asdict(wanted) | {"preset": _preset(wanted), "postprocessing": not wanted.no_postprocessing}
    said = {name: value for name, value in told.items() if name not in (*PRESETS, "no_postprocessing")}
    options = stage.PredictOptions(**said, dry_run=common.dry_run)
    with session(common, common.work or output) as job:
        made = stage.predict(model, input, output, job, options)
    would = (f"Would write {len(made.cases)} masks to {output}. Nothing was written.",)
    return Result(lines=would if common.dry_run else made.lines(), plain=made.plain(), failed=_unmade(made.cases))


def _unmade(cases: Iterable[PredictedCase | CaseScores]) -> tuple[Failure, ...]:
    return failures({one.case: UserError(one.problem, one.fix, one.case) for one in cases if one.problem})


def _preset(wanted: Wanted) -> str | None:
    """One at most, however it is said."""
    said = {name for name in PRESETS if getattr(wanted, name)} | ({wanted.preset} if wanted.preset else set())
    if len(said) > 1:
        raise UserError(f"{' and '.join(sorted(said))} cannot both be wished", "name one of --fast, --balanced and --best")
    return next(iter(said), None)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What is measured beside overlap and surfaces."""

    tolerance: Names = None
    "Of the NSD in mm: 2 for every class, or liver=3,tumour=1. Default: 1."
    lesions: Switch = False
    "Also count lesions that were found, missed and made up."
    objects: Annotated[Literal["pieces", "numbered"] | None, Parameter(metavar="KIND")] = None
    "Also match object by object: pieces, or numbered when the masks of TRUTH number their objects."
    border: Annotated[int | None, Parameter(metavar="VALUE")] = None
    "The class of the prediction that parts touching objects; with --objects numbered."


AS_USUAL = Scored()


def evaluate(
    predictions: Annotated[Path, Parameter(help="Folder of masks to be scored.")],
    truth: Annotated[Path, Parameter(help="Folder of true masks, or a dataset.")],
    /,
    *,
    out: Folder = None,
    scored: Scored = AS_USUAL,
    common: Common = DEFAULTS,
) -> Result:
    """Score masks against the truth: overlap, surface distances and lesions, with intervals over cases."""
    from autounet.metrics.case_scores import wanted_of
    from autounet.stages import evaluate as stage

    wanted = wanted_of(scored.tolerance or (), lesions=scored.lesions, objects=scored.objects, border=scored.border)
    existing_folder(predictions, "folder of predictions")
    existing_folder(truth, "folder of true masks")
    folder = out or common.work or predictions.absolute().with_name(f"{predictions.absolute().name}.scores")
    for read_only in (predictions, truth):
        outside(folder, read_only, "folder of scores")
    with session(common, folder) as job:
        scores = stage.evaluate(predictions, truth, None if common.dry_run else folder, job, wanted=wanted)
    return Result(lines=scores.lines(), plain=scores.plain(), failed=_unmade(scores.problems))


def compare(
    first: Annotated[Path, Parameter(help="Scores, or a folder of them, as evaluate writes.")],
    second: Path,
    /,
    *others: Path,
    metric: Annotated[str, Parameter(metavar="NAME", help="By which score, say dice, nsd or hd95.")] = "dice",
    common: Common = DEFAULTS,
) -> Result:
    """Who is better, by how much, and whether it is noise."""
    paths = tuple(existing(path, "result") for path in (first, second, *others))
    from autounet.stages import compare as stage

    with session(common, common.work or first, only_looks=True) as job:
        verdict = stage.compare(paths, job, metric=metric)
    return Result(lines=verdict.lines(), plain=verdict.plain())


def report(
    dataset: Annotated[Path, Parameter(help="The dataset, or its work folder.")],
    /,
    *,
    public: Annotated[Switch, Parameter(help="Leave the pictures out.")] = False,
    common: Common = DEFAULTS,
) -> Result:
    """One page about the data, the plan, the training and the scores."""
    from autounet.stages import report as stage

    _, work = dataset_and_work(dataset, common.work)
    existing_folder(work, "work folder")
    if common.dry_run:
        return Result(lines=(f"Would write the report of {work} to {work / 'report' / 'index.html'}.",))
    with session(common, work) as job:
        page = stage.report(work, job, public=public)
    return Result(lines=(f"Report: {page}",), plain={"report": str(page)})


def info(path: Annotated[Path, Parameter(help="A model, a plan, a work folder or an image.")], /, *, common: Common = DEFAULTS) -> Result:
    """Say what a file or folder is, in a few lines."""
    from autounet.stages import info as stage

    existing(path, "path")
    with session(common, common.work or path, only_looks=True):
        facts = stage.look(path)
    return Result(lines=facts.lines, plain=facts.plain)


def verify(path: Annotated[Path, Parameter(help="A model or a work folder.")], /, *, common: Common = DEFAULTS) -> Result:
    """Read everything again and compare it with the hashes that were recorded when it was made."""
    from autounet.stages import verify as stage

    existing(path, "path")
    folder = path
    if path.is_dir() and not path.name.endswith(WORK_SUFFIX) and not (path / "manifest.json").exists():
        folder = dataset_and_work(path, common.work)[1]
    with session(common, common.work or folder, only_looks=True) as job:
        sound, damaged = stage.verify(folder, job)
    lines = (*sound, *(f"damaged: {what}" for what in damaged))
    return Result(
        lines=lines, plain={"sound": list(sound), "damaged": list(damaged)}, failed=failures(dict.fromkeys(damaged)), unit="artefact"
    )


def doctor(
    *,
    seconds: Annotated[float, Parameter(metavar="N", help="About how long to measure the processor; 0: not at all.")] = 10.0,
    common: Common = DEFAULTS,
) -> Result:
    """Look at this machine: what is there, what is slow or broken, and what to type."""
    from autounet.stages import doctor as stage

    with session(common, common.work or Path.cwd(), only_looks=True) as job:
        findings = stage.examine(job, seconds=seconds)
    return Result(lines=stage.lines(findings), plain=stage.plain(findings))
