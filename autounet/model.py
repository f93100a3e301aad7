"""A trained model in memory: `load(path)`, then `predict` on files, arrays, SimpleITK or nibabel images. Thread-safe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry, geometry_from_affine, picture_geometry
from autounet.store.bundle import Bundle, open_bundle
from autounet.store.selection import PresetName
from planners.errors import UserError
from planners.fingerprint import TripleMm
from planners.hardware import Precision
from planners.labels import Labels
from planners.plan import Plan

if TYPE_CHECKING:
    from autounet.images.image import Header, ImageInfo
    from autounet.inference.engines import EngineName, Found
    from autounet.inference.ensemble import Ensemble, Options
    from autounet.inference.outlook import Outlook
    from autounet.inference.pace import Pace
    from autounet.inference.settings import Member
    from autounet.inference.witness import Onlooker
    from autounet.metrics.expectation import Guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """What the model says of one image, on the image's own grid."""

    values_zyx: NDArray[Any]  # the label values of the training data
    geometry: Geometry
    labels: Labels
    probabilities_kzyx: NDArray[np.float32] | None = None
    entropy_zyx: NDArray[np.float32] | None = None
    disagreement_zyx: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    header: "Header | None" = None
    differences: tuple[str, ...] = ()  # from what the model was trained on
    guess: "Guess | None" = None  # how good the mask probably is, where the model knows

    @property
    def look(self) -> tuple[str, ...]:
        """Why a person should look at this mask; empty when there is no reason."""
        if self.guess is None or not self.guess.look:
            return self.differences
        return (f"its Dice may be as low as {self.guess.low:.2f}", *self.differences)

    def save(self, path: Path | str) -> None:
        """Write the mask with the geometry of the image."""
        from autounet.images.write import write_mask

        write_mask(Path(path), self.values_zyx, self.header or self.geometry)

    def as_simpleitk(self) -> Any:
        """A SimpleITK image."""
        import SimpleITK

        flip = np.diag([-1.0, -1.0, 1.0])  # SimpleITK's world is LPS
        image = SimpleITK.GetImageFromArray(self.values_zyx)
        image.SetSpacing([float(s) for s in self.geometry.spacing_zyx_mm[::-1]])
        image.SetOrigin([float(v) for v in flip @ np.array(self.geometry.origin_xyz_mm)])
        image.SetDirection([float(v) for v in (flip @ np.array(self.geometry.direction).reshape(3, 3)).ravel()])
        return image

    def as_nibabel(self) -> Any:
        """A nibabel NIfTI image."""
        import nibabel

        return nibabel.Nifti1Image(self.values_zyx.transpose(2, 1, 0), self.geometry.affine_ras)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one call wants otherwise than the model's own choice."""

    preset: PresetName | None = None
    step_fraction: float | None = None
    mirror: bool | None = None
    folds: int = 0
    precision: Precision | None = None
    engine: "EngineName" = "torch"  # who runs the networks on a processor; `auto`: OpenVINO where it is there and agrees
    probabilities: bool = False
    uncertainty: bool = False
    classes: tuple[str, ...] | None = None  # only these; the others become background
    threads: int | None = None
    max_ram_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    post_process: bool = True
    unusual_geometry: bool = False  # also an orientation that a model which turns nothing never saw


DEFAULT = Wish()


class Model:
    """Networks in memory, ready to predict."""

    def __init__(self, bundle: Bundle, device: str = "auto", members: "Mapping[str, Sequence[Member]] | None" = None) -> None:
        self.bundle = bundle
        self.ensemble: Ensemble = _ensemble(bundle, device, members)
        self._engines: dict[tuple[object, ...], Found] = {}
        self._engines_lock = Lock()

    @property
    def plan(self) -> Plan:
        """Every decision the networks were trained by."""
        return self.bundle.plan

    @property
    def labels(self) -> Labels:
        """What the values of a mask mean."""
        return self.bundle.plan.labels

    def predict(
        self,
        image: Any,
        *,
        spacing: Sequence[float] | None = None,
        wish: Wish = DEFAULT,
    ) -> Mask:
        """The mask of an image: a path (or one path a channel), an array with its spacing in the array's axis order, or an image object."""
        voxels_czyx, geometry, header, notes = _given(image, spacing, self.plan)
        if isinstance(image, np.ndarray):  # it says nothing of an orientation; the caller knows
            wish = replace(wish, unusual_geometry=True)
        return self.predict_voxels(voxels_czyx, geometry, header=header, wish=wish, notes=notes)

    def predict_voxels(
        self,
        voxels_czyx: NDArray[Any],
        geometry: Geometry,
        *,
        header: "Header | None" = None,
        wish: Wish = DEFAULT,
        notes: tuple[str, ...] = (),
    ) -> Mask:
        """The same for voxels that were read already."""
        from autounet.inference.drift import check_orientation, differences
        from autounet.inference.ensemble import predict_case
        from autounet.inference.postprocess import post_process
        from autounet.inference.settings import label_values
        from autounet.inference.temper import temper

        options = self._options(wish)
        if not wish.unusual_geometry:
            check_orientation(geometry, self.bundle.fingerprint, self.plan)
        odd = differences(voxels_czyx, geometry, self.bundle.fingerprint, self.plan)
        witness = self._onlooker()
        prediction = predict_case(self.ensemble, voxels_czyx, geometry, options, witness)
        if prediction.probabilities_kzyx is not None:
            temper(prediction.probabilities_kzyx, self.bundle.selection.temperature, softmax=not self.labels.regions)
        label_zyx = prediction.label_zyx
        if wish.post_process:
            label_zyx = post_process(label_zyx, self.bundle.selection.post_steps, self.labels, geometry)
        if wish.classes is not None:
            label_zyx = _only(label_zyx, wish.classes, self.labels)
        return Mask(
            values_zyx=label_values(label_zyx, self.labels),
            geometry=geometry,
            labels=self.labels,
            probabilities_kzyx=prediction.probabilities_kzyx,
            entropy_zyx=prediction.entropy_zyx,
            disagreement_zyx=prediction.disagreement_zyx,
            notes=(*notes, *odd),
            header=header,
            differences=odd,
            guess=None if witness is None else self._guess(witness),
        )

    def _onlooker(self) -> "Onlooker | None":
        if self.bundle.selection.expectation is None:
            return None
        from autounet.inference.votes_to_labels import Decision
        from autounet.inference.witness import Onlooker

        return Onlooker(Decision.of(self.labels), [member.weight for member in self.ensemble.chosen])

    def _guess(self, witness: "Onlooker") -> "Guess":
        from autounet.metrics.expectation import guess
        from autounet.metrics.opinions import expected_dice

        expectation = self.bundle.selection.expectation
        assert expectation is not None
        return guess(expectation, expected_dice(witness.expected))

    def outlook(self, infos: "Sequence[ImageInfo]", wish: Wish, base_bytes: int, limit_bytes: int) -> "Outlook":
        """Memory and work of an image (one file a channel), from its headers; refused with the numbers when it cannot fit."""
        from autounet.inference.outlook import outlook

        voxel_bytes = sum(info.voxel_bytes for info in infos)
        options = self._options(wish)
        return outlook(self.ensemble, infos[0].geometry, options, voxel_bytes=voxel_bytes, base_bytes=base_bytes, limit_bytes=limit_bytes)

    def pace(self, wish: Wish = DEFAULT) -> "Pace":
        """How fast this model is here: timed when it is first asked, then learned."""
        from autounet.inference.pace import Pace

        return Pace(self.ensemble, self._options(wish))

    def engine(self, wish: Wish = DEFAULT) -> "Found":
        """Who will run the networks of such a call; compared with torch once, when it is another."""
        from autounet.inference.engines import Around, Found, find_engine
        from autounet.inference.golden import made_up_image

        if wish.engine == "torch":
            return Found(None)
        told = (wish.engine, wish.precision, wish.threads)
        with self._engines_lock:
            if told not in self._engines:
                selection, options = self.bundle.selection, self._options_of(wish)
                made_up = made_up_image(self.plan, self.bundle.fingerprint, selection)
                self._engines[told] = find_engine(wish.engine, self.ensemble, Around(made_up, options, selection.int8))
            return self._engines[told]

    def _options(self, wish: Wish) -> "Options":
        return replace(self._options_of(wish), engine=self.engine(wish).engine)

    def _options_of(self, wish: Wish) -> "Options":
        from autounet.inference.ensemble import Options

        options = Options(
            probabilities=wish.probabilities,
            uncertainty=wish.uncertainty,
            threads=wish.threads,
            precision=wish.precision,
            max_ram_bytes=wish.max_ram_bytes,
            gpu_memory_bytes=wish.gpu_memory_bytes,
        )
        preset = self.bundle.selection.preset(wish.preset) if wish.preset else None
        if preset is not None:
            options = replace(options, step_fraction=preset.step_fraction, mirror=preset.mirror, folds=preset.folds)
        elif wish.preset == "fast":  # not measured for this model: what is cheap on every model
            options = replace(options, step_fraction=0.75, mirror=False, folds=1)
        elif wish.preset == "balanced":
            options = replace(options, mirror=False)
        if wish.step_fraction is not None:
            options = replace(options, step_fraction=wish.step_fraction)
        if wish.mirror is not None:
            options = replace(options, mirror=wish.mirror)
        return replace(options, folds=wish.folds) if wish.folds else options


def load(path: Path | str, *, device: str = "auto") -> Model:
    """A model from its `.aunet` file, with its weights in memory."""
    return Model(open_bundle(Path(path)), device)


def _ensemble(bundle: Bundle, device: str, members: "Mapping[str, Sequence[Member]] | None") -> "Ensemble":
    from autounet.inference.ensemble import Ensemble, folds_of
    from autounet.inference.load import load_members

    chosen = bundle.selection.members
    if members is None:
        members = {name: load_members(bundle, name, folds, device) for name, folds in folds_of(bundle.plan, chosen).items()}
    return Ensemble(bundle.plan, members, chosen)


def _only(label_zyx: NDArray[Any], names: Sequence[str], labels: Labels) -> NDArray[Any]:
    known = [c.name for c in labels.classes]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"the model knows no class {unknown[0]!r}", f"choose among {', '.join(known[1:])}")
    table = np.array([number if name in names else 0 for number, name in enumerate(known)], label_zyx.dtype)
    kept: NDArray[Any] = table[label_zyx]
    return kept


def _given(image: Any, spacing: Sequence[float] | None, plan: Plan) -> "tuple[NDArray[Any], Geometry, Header | None, tuple[str, ...]]":
    """Voxels and geometry of whatever was handed in."""
    if isinstance(image, str | Path):
        return _from_files([Path(image)])
    if isinstance(image, np.ndarray):
        return *_from_array(image, spacing, plan), None, ()
    if isinstance(image, Sequence) and image and all(isinstance(one, str | Path) for one in image):
        return _from_files([Path(one) for one in image])
    if hasattr(image, "GetDirection") and hasattr(image, "GetSpacing"):
        return *_from_simpleitk(image), None, ()
    if hasattr(image, "affine") and hasattr(image, "dataobj"):
        return *_from_nibabel(image), None, ()
    raise UserError(
        f"an image of the type {type(image).__name__} is not understood",
        "give a path, a list of paths (one a channel), a numpy array with spacing, a SimpleITK or a nibabel image",
    )


def _from_files(paths: list[Path]) -> "tuple[NDArray[Any], Geometry, Header | None, tuple[str, ...]]":
    from autounet.images.read import read_image

    images = [read_image(path) for path in paths]
    for path, one in zip(paths[1:], images[1:], strict=True):
        if one.geometry.shape_zyx != images[0].geometry.shape_zyx:
            raise UserError(
                f"{path.name} has {one.geometry.shape_zyx} voxels, {paths[0].name} has {images[0].geometry.shape_zyx}",
                "resample the channels onto one grid",
            )
    voxels = images[0].voxels_czyx if len(images) == 1 else np.concatenate([one.voxels_czyx for one in images])
    return voxels, images[0].geometry, images[0].header, tuple(note for one in images for note in one.notes)


def _from_array(array: NDArray[Any], spacing: Sequence[float] | None, plan: Plan) -> tuple[NDArray[Any], Geometry]:
    space = array.ndim if array.ndim == plan.dimensions else array.ndim - 1
    if space != plan.dimensions:
        wanted = "(y, x) or (channel, y, x)" if plan.dimensions == 2 else "(z, y, x) or (channel, z, y, x)"
        raise UserError(f"an array of shape {array.shape} is no {plan.dimensions}D image", f"hand in axes {wanted}")
    voxels = array if array.ndim == plan.dimensions + 1 else array[None]
    if plan.dimensions == 2:
        y, x = voxels.shape[1:]
        return voxels[:, None], picture_geometry((y, x))
    if spacing is None or len(spacing) != 3:
        raise UserError("an array tells nothing of the size of its voxels", "pass spacing=(z, y, x) in millimetres")
    mm: TripleMm = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    return voxels, geometry_from_affine(voxels.shape[1:], np.diag([mm[2], mm[1], mm[0], 1.0]))


def _from_simpleitk(image: Any) -> tuple[NDArray[Any], Geometry]:
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    voxels = np.moveaxis(array, -1, 0) if channels > 1 else array[None]
    if image.GetDimension() == 2:
        y, x = voxels.shape[1:]
        return voxels[:, None], picture_geometry((y, x))
    flip = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = flip @ np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = flip @ np.array(image.GetOrigin())
    return voxels, geometry_from_affine(voxels.shape[1:], affine)


def _from_nibabel(image: Any) -> tuple[NDArray[Any], Geometry]:
    array = np.asanyarray(image.dataobj)
    array = array[..., None] if array.ndim == 3 else array.reshape(*array.shape[:3], -1)
    voxels = np.ascontiguousarray(array.transpose(3, 2, 1, 0))
    return voxels, geometry_from_affine(voxels.shape[1:], np.asarray(image.affine, np.float64))
