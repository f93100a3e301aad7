"""A model over many images: found in any layout, predicted one after another, written in the format they came in.

Typed again it goes on: a mask is there when the manifest of the output folder says so, for the same
model, image and options. A case that fails is reported and does not stop the others.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autounet import machine, stop
from autounet.images.image import Image
from autounet.images.write import write_image, write_mask
from autounet.inference.in_step import Steps, in_step
from autounet.inference.inputs import UNDECIDED, InputCase, InputOptions, list_inputs, read_infos, read_input
from autounet.job import Job
from autounet.model import Mask, Model, Wish, load
from autounet.progress import Task
from autounet.store.cache import key
from autounet.store.digest import digest_file, digest_tree
from autounet.store.manifest import Manifest
from autounet.store.selection import PresetName
from autounet.store.strict import read_value, write_value
from planners.errors import UserError
from planners.hardware import Precision
from planners.strict_json import to_plain

if TYPE_CHECKING:
    from autounet.inference.engines import EngineName
    from autounet.inference.outlook import Outlook

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What is written, and with how much care."""

    preset: PresetName | None = None
    probabilities: bool = False
    uncertainty: bool = False
    classes: tuple[str, ...] | None = None
    gpu_memory: int | None = None
    precision: Precision | None = None  # None: the model's
    engine: "EngineName" = "torch"
    postprocessing: bool = True  # the repairs that were chosen with the model
    layout: str | None = None  # of the input; None: found out
    dry_run: bool = False

    def wish(self, threads: int, max_ram_bytes: int | None) -> Wish:
        """As the model takes it."""
        return Wish(
            preset=self.preset,
            probabilities=self.probabilities,
            uncertainty=self.uncertainty,
            classes=self.classes,
            post_process=self.postprocessing,
            threads=threads,
            max_ram_bytes=max_ram_bytes,
            gpu_memory_bytes=self.gpu_memory,
            precision=self.precision,
            engine=self.engine,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedCase:
    """What became of one case."""

    case: str
    mask: str = ""  # relative to the output folder
    problem: str = ""
    fix: str = ""
    notes: tuple[str, ...] = ()
    found: bool = False  # it was there already
    dice: float | None = None  # what it probably is, judged by held-out cases; None: the model cannot tell
    dice_low: float | None = None
    dice_high: float | None = None
    look: tuple[str, ...] = ()  # why a person should look at it

    @property
    def said(self) -> str:
        """Why there is no mask, and what to do, in two sentences."""
        return str(UserError(self.problem, self.fix, self.case))


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictReport:
    """predict.json: all cases of one call, by id; no paths of the machine."""

    schema: int = 1
    model: str  # the identity of its content
    cases: tuple[PredictedCase, ...]

    @property
    def failed_cases(self) -> tuple[str, ...]:
        """Ids of cases without a mask."""
        return tuple(c.case for c in self.cases if c.problem)

    def lines(self) -> tuple[str, ...]:
        """For the terminal."""
        made = sum(1 for c in self.cases if not c.problem)
        found = sum(1 for c in self.cases if c.found)
        head = f"{made} of {len(self.cases)} masks are there" + (f", {found} of them from before." if found else ".")
        return head, *(c.said for c in self.cases if c.problem), *self._to_look_at()

    def _to_look_at(self, most: int = 10) -> tuple[str, ...]:
        odd = [c for c in self.cases if c.look]
        more = (f"{len(odd) - most} more are to be looked at: see predict.json.",) if len(odd) > most else ()
        return *(f"Look at {c.case}: {'; '.join(c.look)}." for c in odd[:most]), *more

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {"model": self.model, "cases": [to_plain(c) for c in self.cases]}


def predict(model: Path, source: Path, output: Path, job: Job, options: PredictOptions | None = None) -> PredictReport:
    """Masks for all images of a file or folder; the list of what became of each is predict.json."""
    options = options or PredictOptions()
    _check_folders(source, output)
    loaded = load(model, device=job.device)
    cases = list_inputs(source, loaded.plan, InputOptions(layout=options.layout, work=output))
    job.progress.note(f"{len(cases)} images for {loaded.bundle.card.name}: {', '.join(c.name for c in loaded.labels.foreground[:8])}")
    if options.dry_run:
        return PredictReport(model=loaded.bundle.sha256, cases=tuple(PredictedCase(case=c.id) for c in cases))
    run = _Run(loaded, output, job, options)
    done = []
    with job.progress.task("predict", total=len(cases), unit="case") as task:
        for made in in_step(cases, Steps(run.read, partial(run.compute, task), run.fits)):
            done.append(made)
            task.step(n=1)
    report = PredictReport(model=loaded.bundle.sha256, cases=tuple(done))
    write_value(output / "predict.json", report)
    for failed in report.cases:
        if failed.problem:
            job.progress.warn(failed.said)
    return report


class _Run:
    """What stays the same over the cases."""

    def __init__(self, model: Model, output: Path, job: Job, options: PredictOptions) -> None:
        self.model, self.output, self.job, self.options = model, output, job, options
        self.manifest = Manifest.open(output)
        self.threads = job.threads or machine.cores()
        self.wish = options.wish(self.threads, job.max_ram_bytes)
        self.limit_bytes = job.max_ram_bytes or machine.memory_limit_bytes()
        engine = model.engine(self.wish)
        if engine.line:
            job.progress.note(engine.line)
        self.base_bytes = machine.process_tree_bytes()  # with what the engine has compiled
        self.pace = model.pace(self.wish)
        self.outlooks: dict[str, Outlook | None] = {}
        asked = (options.preset, options.probabilities, options.uncertainty, options.classes, options.postprocessing, options.precision)
        engines = () if options.engine == "torch" else (options.engine,)  # masks of before there was a choice are still there
        self.key = key(model.bundle.sha256, repr(asked), *engines)

    def mask_name(self, case: InputCase) -> str:
        """The mask's path below the output folder."""
        return f"{case.id}{case.suffix}"

    def there(self, case: InputCase) -> bool:
        """Whether the very same mask was made before."""
        return self.manifest.has(self.mask_name(case), check="hash") and self._stamped(case)

    def stamp_name(self, case: InputCase) -> str:
        """The entry that ties a mask to model, options and image."""
        return f".made/{case.id}.json"

    def _stamped(self, case: InputCase) -> bool:
        path = self.output / self.stamp_name(case)
        return self.manifest.has(self.stamp_name(case), check="hash") and path.read_text() == self._stamp(case)

    def _stamp(self, case: InputCase) -> str:
        decided = "" if case.reading == UNDECIDED else repr(case.reading)
        return key(self.key, decided, *(_hash(path) for path in case.files))

    def read(self, case: InputCase) -> Image | None:
        """The voxels of a case that fits; None when its mask is there."""
        if _is_there(case, self):
            return None
        self._outlook(case)
        return read_input(case)

    def compute(self, task: Task, case: InputCase, image: "Future[Image | None]") -> Callable[[], PredictedCase]:
        """Predict one case, or find out why not; what is left is to write it."""
        stop.check()
        task.step(doing=case.id, n=0)
        mask = self._tried(case, lambda: self._computed(case, image.result()))
        if mask is None:
            return partial(self._found, case)
        if isinstance(mask, PredictedCase):
            return partial(replace, mask)
        return partial(self._written, case, mask)

    def _computed(self, case: InputCase, image: Image | None) -> Mask | None:
        if image is None:
            return None
        outlook = self._outlook(case)
        if outlook is not None:
            self.job.progress.note(f"{case.id}: {outlook.line(self.pace.seconds(outlook, self.threads))}")
        start = time.perf_counter()
        wish = replace(self.wish, unusual_geometry=case.reading.unusual_geometry)
        mask = self.model.predict_voxels(image.voxels_czyx, image.geometry, header=image.header, wish=wish, notes=image.notes)
        if outlook is not None:
            self.pace.learn(outlook, self.threads, time.perf_counter() - start)
        return mask

    def fits(self, case: InputCase, read: InputCase | None, written: InputCase | None) -> bool:
        """Whether a case can be computed while these are read and written."""
        try:
            needed = _bytes(self._outlook(case)) + sum(_bytes(self._outlook(one)) - self.base_bytes for one in (read, written) if one)
        except UserError:
            return False  # it will be said where it happens
        return needed <= self.limit_bytes

    def _outlook(self, case: InputCase) -> "Outlook | None":
        """What a case will take, by its headers; None when they tell nothing. A case that cannot fit is refused here."""
        if case.id not in self.outlooks:
            infos = read_infos(case)
            self.outlooks[case.id] = self.model.outlook(infos, self.wish, self.base_bytes, self.limit_bytes) if infos else None
        return self.outlooks[case.id]

    def _tried(self, case: InputCase, do: "Callable[[], Answer]") -> "Answer | PredictedCase":
        try:
            return do()
        except UserError as error:
            return PredictedCase(case=case.id, problem=error.problem, fix=error.fix)
        except (MemoryError, OSError) as error:
            return PredictedCase(
                case=case.id, problem=f"{type(error).__name__}: {error}", fix="free memory or disk space and type it again"
            )

    def _written(self, case: InputCase, mask: Mask) -> PredictedCase:
        return self._tried(case, lambda: self._write(case, mask))

    def _write(self, case: InputCase, mask: Mask) -> PredictedCase:
        from autounet.store.files import publish_text

        assert mask.header is not None, "images that were read have headers"
        done = predicted_case(case.id, self.mask_name(case), mask)
        write_value(self.output / self._record_name(case), done)
        extras = [*self._extras(case, mask), self._record_name(case)]
        path = self.output / self.mask_name(case)
        self.manifest.remove(
            self.mask_name(case), self.stamp_name(case)
        )  # first: a kill in between leaves no mask that its entry does not describe
        write_mask(path, mask.values_zyx, mask.header)
        stamp = publish_text(self.output / self.stamp_name(case), self._stamp(case))
        names = {name: digest_file(self.output / name) for name in (*extras, self.mask_name(case))}
        self.manifest.add_all({**names, self.stamp_name(case): stamp})
        return done

    def _record_name(self, case: InputCase) -> str:
        return f".made/{case.id}.case.json"

    def _found(self, case: InputCase) -> PredictedCase:
        """What was said of a mask when it was made."""
        name = self._record_name(case)
        if self.manifest.has(name, check="hash"):
            return replace(read_value(self.output / name, PredictedCase), found=True)
        return PredictedCase(case=case.id, mask=self.mask_name(case), found=True)

    def _extras(self, case: InputCase, mask: Mask) -> list[str]:
        """Probability and uncertainty images, in the geometry of the input."""
        written = []
        labels = self.model.labels
        heads = [r.name for r in labels.regions] or [c.name for c in labels.classes]
        if mask.probabilities_kzyx is not None:
            for head, map_zyx in zip(heads, mask.probabilities_kzyx, strict=True):
                if self.options.classes is None or head in self.options.classes:
                    written.append(f"probabilities/{case.id}/{_safe(head)}.nii.gz")
                    write_image(self.output / written[-1], map_zyx[None], mask.geometry)
        for what, map_zyx in (("entropy", mask.entropy_zyx), ("disagreement", mask.disagreement_zyx)):
            if map_zyx is not None:
                written.append(f"uncertainty/{case.id}/{what}.nii.gz")
                write_image(self.output / written[-1], map_zyx[None], mask.geometry)
        return written


def predicted_case(case: str, name: str, mask: Mask) -> PredictedCase:
    """What there is to say of a new mask."""
    told = mask.guess
    if told is None:
        return PredictedCase(case=case, mask=name, notes=mask.notes, look=mask.look)
    dice, low, high = (round(v, 4) for v in (told.dice, told.low, told.high))
    return PredictedCase(case=case, mask=name, notes=mask.notes, dice=dice, dice_low=low, dice_high=high, look=mask.look)


def _bytes(outlook: "Outlook | None") -> int:
    return 0 if outlook is None else outlook.peak_bytes


def _is_there(case: InputCase, run: _Run) -> bool:
    try:
        return run.there(case)
    except (OSError, UserError):
        return False


def _check_folders(source: Path, output: Path) -> None:
    inside = source.resolve() if source.is_dir() else source.resolve().parent
    if output.resolve() == inside or (source.is_dir() and inside in output.resolve().parents):
        raise UserError("the output folder lies in the input", "name an output folder elsewhere: nothing is ever written into the input")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output.name} is a file", "name a folder for the masks")


def _hash(path: Path) -> str:
    path = path.resolve()  # a link was followed to its image; the image is what the mask belongs to
    return digest_tree(path).sha256 if path.is_dir() else digest_file(path).sha256


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
