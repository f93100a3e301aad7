"""A model over many images: found in any layout, predicted one after another, written in the format they came in.

Typed again it goes on: a mask is there when the manifest of the output folder says so, for the same
model, image and options. A case that fails is reported and does not stop the others.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autounet import machine, stop
from autounet.images.image import Image
from autounet.images.write import write_image, write_mask
from autounet.inference.inputs import UNDECIDED, InputCase, InputOptions, list_inputs, read_input
from autounet.job import Job
from autounet.model import Mask, Model, Wish, load
from autounet.store.cache import key
from autounet.store.digest import digest_file, digest_tree
from autounet.store.manifest import Manifest
from autounet.store.selection import PresetName
from autounet.store.strict import write_value
from planners.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What is written, and with how much care."""

    preset: PresetName | None = None
    probabilities: bool = False
    uncertainty: bool = False
    classes: tuple[str, ...] | None = None
    gpu_memory: int | None = None
    layout: str | None = None  # of the input; None: found out
    dry_run: bool = False

    def wish(self, threads: int, max_ram_bytes: int | None) -> Wish:
        """As the model takes it."""
        return Wish(
            preset=self.preset,
            probabilities=self.probabilities,
            uncertainty=self.uncertainty,
            classes=self.classes,
            threads=threads,
            max_ram_bytes=max_ram_bytes,
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
        return head, *(f"{c.case}: {c.problem} {c.fix}".rstrip() for c in self.cases if c.problem)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "cases": [{"case": c.case, "mask": c.mask, "problem": c.problem, "fix": c.fix, "notes": list(c.notes)} for c in self.cases],
        }


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
        for case, image in _read_ahead(cases, run):
            stop.check()
            task.step(doing=case.id, n=0)
            done.append(run.one(case, image))
            task.step(n=1)
    report = PredictReport(model=loaded.bundle.sha256, cases=tuple(done))
    write_value(output / "predict.json", report)
    for failed in report.cases:
        if failed.problem:
            job.progress.warn(f"{failed.case}: {failed.problem} {failed.fix}")
    return report


class _Run:
    """What stays the same over the cases."""

    def __init__(self, model: Model, output: Path, job: Job, options: PredictOptions) -> None:
        self.model, self.output, self.job, self.options = model, output, job, options
        self.manifest = Manifest.open(output)
        self.wish = options.wish(job.threads or machine.cores(), job.max_ram_bytes)
        self.key = key(model.bundle.sha256, repr((options.preset, options.probabilities, options.uncertainty, options.classes)))

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

    def one(self, case: InputCase, image: "Future[Image] | None") -> PredictedCase:
        """Predict and write one case, or say why not."""
        name = self.mask_name(case)
        if image is None:
            return PredictedCase(case=case.id, mask=name, found=True)
        try:
            read = image.result()
            wish = replace(self.wish, unusual_geometry=case.reading.unusual_geometry)
            mask = self.model.predict_voxels(read.voxels_czyx, read.geometry, header=read.header, wish=wish, notes=read.notes)
            self._write(case, read, mask)
        except UserError as error:
            return PredictedCase(case=case.id, problem=error.problem, fix=error.fix)
        except (MemoryError, OSError) as error:
            return PredictedCase(
                case=case.id, problem=f"{type(error).__name__}: {error}", fix="free memory or disk space and type it again"
            )
        return PredictedCase(case=case.id, mask=name, notes=mask.notes)

    def _write(self, case: InputCase, image: Image, mask: Mask) -> None:
        from autounet.store.files import publish_text

        extras = self._extras(case, image, mask)
        path = self.output / self.mask_name(case)
        self.manifest.remove(
            self.mask_name(case), self.stamp_name(case)
        )  # first: a kill in between leaves no mask that its entry does not describe
        write_mask(path, mask.values_zyx, image.header)
        stamp = publish_text(self.output / self.stamp_name(case), self._stamp(case))
        names = {name: digest_file(self.output / name) for name in (*extras, self.mask_name(case))}
        self.manifest.add_all({**names, self.stamp_name(case): stamp})

    def _extras(self, case: InputCase, image: Image, mask: Mask) -> list[str]:
        """Probability and uncertainty images, in the geometry of the input."""
        written = []
        labels = self.model.labels
        heads = [r.name for r in labels.regions] or [c.name for c in labels.classes]
        if mask.probabilities_kzyx is not None:
            for head, map_zyx in zip(heads, mask.probabilities_kzyx, strict=True):
                if self.options.classes is None or head in self.options.classes:
                    written.append(f"probabilities/{case.id}/{_safe(head)}.nii.gz")
                    write_image(self.output / written[-1], map_zyx[None], image.geometry)
        for what, map_zyx in (("entropy", mask.entropy_zyx), ("disagreement", mask.disagreement_zyx)):
            if map_zyx is not None:
                written.append(f"uncertainty/{case.id}/{what}.nii.gz")
                write_image(self.output / written[-1], map_zyx[None], image.geometry)
        return written


def _read_ahead(cases: tuple[InputCase, ...], run: _Run) -> "Iterator[tuple[InputCase, Future[Image] | None]]":
    """Each case with its image, which was read while the one before was computed; None when its mask is there."""
    with ThreadPoolExecutor(1) as pool:
        ahead: list[tuple[InputCase, Future[Image] | None]] = []
        for case in cases:
            wanted = None if _is_there(case, run) else pool.submit(read_input, case)
            ahead.append((case, wanted))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield from ahead


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
