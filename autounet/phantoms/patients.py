"""The three-dimensional patients: organs (MR), lesions (MR), torso (CT) and tumour (several channels)."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autounet.phantoms.shapes import Floats, Mm, Points, Waves, bend, ellipsoid, tube
from autounet.rng import generator

Masks = NDArray[np.uint8]


def _shift(rng: np.random.Generator, centre: Mm, by_mm: float) -> Mm:
    x, y, z = (float(c + rng.uniform(-by_mm, by_mm)) for c in centre)
    return x, y, z


def _grow(rng: np.random.Generator, radii: Mm, by: float = 0.12) -> Mm:
    common = rng.uniform(1 - by, 1 + by)
    x, y, z = (float(r * common * rng.uniform(1 - by / 2, 1 + by / 2)) for r in radii)
    return x, y, z


def _noisy(clean: Floats, texture: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """Magnitude noise, as in MR: never below zero, and not Gaussian in air."""
    real = clean + texture + rng.normal(0, sigma, clean.shape).astype(np.float32)
    imaginary = rng.normal(0, sigma, clean.shape).astype(np.float32)
    magnitude: Floats = np.hypot(real, imaginary)
    return magnitude


@dataclass(frozen=True, slots=True, kw_only=True)
class Organs:
    """A trunk with a liver on the right, two kidneys, a curved vessel and a bump on the left: nothing is symmetric."""

    names = ("liver", "kidney_left", "kidney_right", "vessel")
    bends: tuple[Waves, Waves, Waves]
    texture: Waves
    bias: Waves
    liver: tuple[Mm, Mm]
    kidneys: tuple[tuple[Mm, Mm], tuple[Mm, Mm]]  # left, right
    vessel: tuple[Mm, ...]
    brightness: tuple[float, ...]  # air, body, then one per label

    @classmethod
    def draw(cls, rng: np.random.Generator, extent_mm: float = 100.0) -> "Organs":
        """One patient in a box of about `extent_mm`."""
        u = extent_mm / 100
        mm = partial(_shift, rng, by_mm=3 * u)
        curve = tuple(mm((-3 * u + 5 * u * float(np.sin(t / 4)), 6 * u, float(t) * u)) for t in np.linspace(-34, 34, 7))
        gain = float(rng.uniform(0.6, 1.7))
        tissue = (110, 170, 230, 225, 300)
        return cls(
            bends=tuple(Waves.draw(rng, 45 * u) for _ in range(3)),  # type: ignore[arg-type]
            texture=Waves.draw(rng, 9 * u),
            bias=Waves.draw(rng, 160 * u),
            liver=(mm((16 * u, 2 * u, 13 * u)), _grow(rng, (15 * u, 18 * u, 15 * u))),
            kidneys=(
                (mm((-19 * u, -11 * u, -4 * u)), _grow(rng, (6.5 * u, 7 * u, 13 * u))),
                (mm((18 * u, -12 * u, -14 * u)), _grow(rng, (6 * u, 7 * u, 12 * u))),
            ),
            vessel=curve,
            brightness=(8.0, *(gain * float(t * rng.uniform(0.95, 1.05)) for t in tissue)),
        )

    def labels(self, points: Points) -> Masks:
        """0 elsewhere, then in the order of `names`; the vessel runs through everything."""
        bent = bend(points, self.bends, 1.5)
        label = np.zeros(np.broadcast_shapes(*(p.shape for p in points)), np.uint8)
        label[ellipsoid(bent, *self.liver) < 1] = 1
        for value, kidney in zip((2, 3), self.kidneys, strict=True):
            label[ellipsoid(bent, *kidney) < 1] = value
        label[tube(points, self.vessel, 3.2) < 1] = 4
        return label

    def channels(self, points: Points, labels: Masks, rng: np.random.Generator) -> Floats:
        """One MR-like channel with bias field, texture and magnitude noise."""
        body = (ellipsoid(points, (0, 0, 0), (40, 30, 60)) < 1) | (ellipsoid(points, (-24, 18, 8), (14, 16, 18)) < 1)
        index = np.where(labels > 0, labels + 1, body.astype(np.uint8))
        clean = np.array(self.brightness, np.float32)[index] * (1 + np.float32(0.13) * self.bias(points))
        return _noisy(clean, np.where(index > 0, 6 * self.texture(points), 0).astype(np.float32), 9.0, rng)[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesions:
    """A head with none to five small bright lesions; a quarter of the patients are healthy."""

    names = ("lesion",)
    texture: Waves
    bias: Waves
    folds: Waves
    lesions: tuple[tuple[Mm, Mm], ...]
    gain: float

    @classmethod
    def draw(cls, rng: np.random.Generator, extent_mm: float = 100.0) -> "Lesions":
        """One patient."""
        u = extent_mm / 100
        count = 0 if rng.random() < 0.25 else int(rng.integers(1, 6))
        places = []
        for _ in range(count):
            way = rng.normal(size=3)
            way *= rng.uniform(0.1, 0.75) / np.linalg.norm(way)
            radius = float(rng.uniform(1.6, 4.0) * u)
            places.append(((float(way[0] * 32 * u), float(way[1] * 38 * u), float(way[2] * 32 * u)), _grow(rng, (radius,) * 3, 0.3)))
        return cls(
            texture=Waves.draw(rng, 7 * u),
            bias=Waves.draw(rng, 150 * u),
            folds=Waves.draw(rng, 14 * u, 6),
            lesions=tuple(places),
            gain=float(rng.uniform(0.5, 2)),
        )

    def labels(self, points: Points) -> Masks:
        """1 in lesions."""
        label = np.zeros(np.broadcast_shapes(*(p.shape for p in points)), np.uint8)
        for centre, radii in self.lesions:
            label[ellipsoid(points, centre, radii) < 1] = 1
        return label

    def channels(self, points: Points, labels: Masks, rng: np.random.Generator) -> Floats:
        """One channel; tissue folds are nearly as bright as the lesions, so a threshold does not do."""
        head = ellipsoid(points, (0, 0, 0), (36, 43, 37)) < 1
        clean = np.where(head, 130 + 35 * np.clip(self.folds(points), -1, 1), 0).astype(np.float32)
        clean = np.where(labels > 0, np.float32(235), clean) * (1 + np.float32(0.1) * self.bias(points))
        return _noisy(clean * np.float32(self.gain), np.where(head, 5 * self.texture(points), 0).astype(np.float32), 8.0 * self.gain, rng)[
            None
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Torso:
    """A CT: air outside, a table, fat, muscle, lungs, a spine and as many organs as asked, in Hounsfield units."""

    bends: tuple[Waves, Waves, Waves]
    texture: Waves
    organs: tuple[tuple[Mm, Mm], ...]
    hounsfield: tuple[float, ...]
    extent: float

    @classmethod
    def draw(cls, rng: np.random.Generator, extent_mm: float = 380.0, classes: int = 4) -> "Torso":
        """Organs on a jittered lattice, so sixty fit as well as four."""
        u = extent_mm / 380
        side = int(np.ceil((classes / 1.2) ** (1 / 3) + 0.5))
        lattice = [(x, y, z) for z in range(side) for y in range(side) for x in range(side)]
        anatomy = generator(0, "anatomy", classes)  # the same in every patient, or nothing could be learnt
        chosen = anatomy.permutation(len(lattice))[:classes]
        pitch = 200 * u / side
        organs = []
        for index in chosen:
            centre = tuple((lattice[index][axis] - (side - 1) / 2) * pitch * (1.0, 0.7, 1.1)[axis] for axis in range(3))
            organs.append((_shift(rng, centre, 0.15 * pitch), _grow(rng, (0.42 * pitch, 0.3 * pitch, 0.46 * pitch), 0.2)))
        return cls(
            bends=tuple(Waves.draw(rng, 120 * u) for _ in range(3)),  # type: ignore[arg-type]
            texture=Waves.draw(rng, 12 * u, 3),
            organs=tuple(organs),
            hounsfield=tuple(float(h + rng.uniform(-4, 4)) for h in anatomy.permutation(np.linspace(75, 260, classes))),
            extent=extent_mm,
        )

    def labels(self, points: Points) -> Masks:
        """1 to the number of organs."""
        bent = bend(points, self.bends, 0.01 * self.extent)
        label = np.zeros(np.broadcast_shapes(*(p.shape for p in points)), np.uint8)
        for value, (centre, radii) in enumerate(self.organs, start=1):
            box = _near(points, centre, radii, 0.03 * self.extent)
            if box is not None:
                part = tuple(np.broadcast_to(b, label.shape)[box] for b in bent)
                label[box][ellipsoid(part, centre, radii) < 1] = value  # type: ignore[arg-type]
        return label

    def channels(self, points: Points, labels: Masks, rng: np.random.Generator) -> Floats:
        """One channel, whole Hounsfield units, -1024 in the corners as scanners pad them."""
        u = self.extent / 380
        body = ellipsoid(points, (0, 0, 0), (150 * u, 105 * u, 400 * u))
        x, y, z = points
        clean = np.full(labels.shape, -1000, np.float32)
        clean[np.broadcast_to((y < -118 * u) & (y > -128 * u) & (abs(x) < 140 * u), labels.shape)] = -600  # the table
        clean[body < 1] = -95
        clean[body < 0.85] = 45
        for side in (-1, 1):
            clean[ellipsoid(points, (side * 70 * u, 5 * u, 115 * u), (50 * u, 60 * u, 75 * u)) < 1] = -820
        clean[ellipsoid((x, y, 0 * z), (0, -62 * u, 0), (17 * u, 17 * u, 1)) < 1] = 420
        inside = labels > 0
        clean[inside] = np.array((0.0, *self.hounsfield), np.float32)[labels[inside]]
        clean += np.where(body < 1, 12 * self.texture(points), 0).astype(np.float32)
        clean += rng.normal(0, 14, clean.shape).astype(np.float32)
        outside = np.broadcast_to(np.hypot(x, y) > 0.5 * self.extent, labels.shape)
        clean[outside] = -1024
        return np.clip(np.rint(clean), -1024, 3071)[None]


def _near(points: Points, centre: Mm, radii: Mm, margin: float) -> tuple[slice, ...] | None:
    """The box of voxels that can lie in the ellipsoid: sixty organs then cost little more than four."""
    shape = np.broadcast_shapes(*(p.shape for p in points))
    hit = np.ones(shape[:1], bool), np.ones(shape[1:2], bool), np.ones(shape[2:], bool)
    for axis, middle, radius in zip(points, centre, radii, strict=True):
        close = np.broadcast_to(np.abs(axis - middle) <= radius + margin, shape)
        for keep, others in zip(hit, ((1, 2), (0, 2), (0, 1)), strict=True):
            keep &= close.any(axis=others)
    if not all(keep.any() for keep in hit):
        return None
    return tuple(slice(int(np.flatnonzero(keep)[0]), int(np.flatnonzero(keep)[-1]) + 1) for keep in hit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tumour:
    """A skull-stripped brain in two channels (t1c, flair) with a tumour of three nested parts."""

    names = ("necrosis", "oedema", "enhancing")
    values = (1, 2, 4)
    bends: tuple[Waves, Waves, Waves]
    texture: Waves
    centre: Mm
    radii: Mm
    gains: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, extent_mm: float = 100.0) -> "Tumour":
        """One patient."""
        u = extent_mm / 100
        side = 1 if rng.random() < 0.5 else -1
        return cls(
            bends=tuple(Waves.draw(rng, 25 * u) for _ in range(3)),  # type: ignore[arg-type]
            texture=Waves.draw(rng, 10 * u),
            centre=_shift(rng, (side * 15 * u, 5 * u, 6 * u), 7 * u),
            radii=_grow(rng, (13 * u, 15 * u, 13 * u), 0.25),
            gains=(float(rng.uniform(0.5, 2)), float(rng.uniform(0.5, 2))),
        )

    def labels(self, points: Points) -> Masks:
        """BraTS values: 1 necrosis inside 4 enhancing rim inside 2 oedema."""
        inside = ellipsoid(bend(points, self.bends, 1.5), self.centre, self.radii)
        brain = ellipsoid(points, (0, 0, 0), (36, 43, 34)) < 1
        label = np.zeros(np.broadcast_shapes(*(p.shape for p in points)), np.uint8)
        for value, limit in ((2, 1.0), (4, 0.4), (1, 0.18)):
            label[(inside < limit) & brain] = value
        return label

    def channels(self, points: Points, labels: Masks, rng: np.random.Generator) -> Floats:
        """Each channel shows some parts only, so both are needed; exactly 0 outside the brain."""
        brain = ellipsoid(points, (0, 0, 0), (36, 43, 34)) < 1
        texture = 7 * self.texture(points)
        out = []
        for gain, shown in zip(self.gains, ((140, 70, 128, 0, 250), (120, 135, 215, 0, 190)), strict=True):
            clean = np.array(shown, np.float32)[labels]
            out.append(np.where(brain, gain * _noisy(clean, texture, 10.0, rng), 0).astype(np.float32))
        return np.stack(out)
