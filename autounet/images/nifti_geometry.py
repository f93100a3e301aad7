"""Which of its several placements a NIfTI header means, and whether they agree.

ITK prefers the qform, nibabel the sform, and both take the spacing from pixdim. Where that makes a
difference of more than a tenth of a voxel the user is asked; nobody else can know.
"""

from dataclasses import replace
from math import isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.image import ReadOptions
from autounet.images.nifti_header import NiftiHeader
from autounet.images.placement import SHORTEST_MM, Placed, checked, rectangular
from autounet.images.source import Source
from planners.fingerprint import Triple, TripleMm

AGREE = 1e-3  # relative: spacings that differ less are the same, written with fewer digits
DISAGREE_VOXELS = 0.1  # at a corner: more than this and the two placements are two patients
_MICROMETRES = 3
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, _MICROMETRES: 0.001}
_UNIT_NAMES = {1: "metres", _MICROMETRES: "micrometres"}
_TRUST = "set trust = 'sform' or 'qform' under [dataset] in autounet.toml to say which is right"


def place(source: Source, header: NiftiHeader, options: ReadOptions) -> Placed:
    """The geometry a header means, with the user's decisions where it is unclear."""
    shape_zyx = _shape_zyx(header)
    spacing_xyz, notes = _pixdim(source, header, options)
    if options.trust == "stored":
        placed = Placed(_stored(shape_zyx, spacing_xyz), (*notes, "axes taken as stored, as was asked"))
    elif header.analyze or (header.qform_code <= 0 and header.sform_code <= 0 and options.trust is None):
        kind = "Analyze 7.5 header" if header.analyze else "header (qform_code and sform_code are 0)"
        raise source.refuse(
            f"has no orientation in its {kind}", "set trust = 'stored' under [dataset] in autounet.toml to take the axes as stored"
        )
    else:
        placed = _from_affine(source, header, options, shape_zyx, spacing_xyz, notes)
    # A header that says micrometres knows what it is talking about.
    shortest_mm = 1e-6 if header.units == _MICROMETRES else SHORTEST_MM
    geometry = checked(source, placed.geometry, options, shortest_mm=shortest_mm)
    return Placed(replace(geometry, flat=geometry.flat or len(header.dim) < 3), placed.notes)


def quaternion_affine(quatern: tuple[float, ...], spacing_xyz: tuple[float, ...], qfac: float) -> NDArray[np.float64] | None:
    """The 4 x 4 matrix of a qform; None when the quaternion is none."""
    b, c, d = quatern[:3]
    length = b * b + c * c + d * d
    if not all(map(isfinite, quatern)) or length > 1 + 1e-5:
        return None
    a = sqrt(max(0.0, 1.0 - length))
    if length > 1:
        b, c, d = (v / sqrt(length) for v in (b, c, d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing_xyz) * np.array([1.0, 1.0, qfac])
    affine[:3, 3] = quatern[3:]
    return affine


def _from_affine(
    source: Source, header: NiftiHeader, options: ReadOptions, shape_zyx: Triple, spacing_xyz: TripleMm, notes: tuple[str, ...]
) -> Placed:
    wanted = _wanted(source, header, options)
    unit = _UNITS_MM[header.units]
    sform = _sform(source, header, unit) if "sform" in wanted else None
    qform = _qform(source, header, spacing_xyz, unit) if "qform" in wanted else None
    if sform is not None and options.trust is None and options.spacing_zyx_mm is None:
        scaled, more = _scaled_by_pixdim(source, sform, spacing_xyz, shape_zyx)
        notes += more
        sform = scaled if not more or qform is None else None  # without a scale it was never filled in: the qform is right
    if sform is not None and qform is not None:
        _check_agreement(source, sform, qform, shape_zyx)
    affine = sform if sform is not None else qform
    assert affine is not None
    found = rectangular(source, shape_zyx, affine, "sform" if sform is not None else "qform")
    return Placed(found.geometry, (*notes, *found.notes))


def _wanted(source: Source, header: NiftiHeader, options: ReadOptions) -> tuple[str, ...]:
    given = {"sform": header.sform_code > 0, "qform": header.qform_code > 0}
    if options.trust is None:
        return tuple(name for name, there in given.items() if there)
    if not given[options.trust] and any(given.values()):
        other = next(name for name, there in given.items() if there)
        raise source.refuse(
            f"has no {options.trust} (its code is 0), only a {other}",
            f"set trust = '{other}' under [dataset] in autounet.toml, or leave it out",
        )
    return (options.trust,)


def _shape_zyx(header: NiftiHeader) -> Triple:
    x, y, z = (*header.dim, 1, 1)[:3]
    return z, y, x


def _stored(shape_zyx: Triple, spacing_xyz: TripleMm) -> Geometry:
    x, y, z = spacing_xyz
    return Geometry(shape_zyx=shape_zyx, spacing_zyx_mm=(z, y, x), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT, flat=True)


def _pixdim(source: Source, header: NiftiHeader, options: ReadOptions) -> tuple[TripleMm, tuple[str, ...]]:
    """The spacing of x, y, z in millimetres; an axis of one voxel may have none."""
    if header.units not in _UNITS_MM:
        raise source.refuse(f"has the unknown unit of length {header.units} (xyzt_units)", "set it to 2, millimetres")
    unit, spacing = _UNITS_MM[header.units], []
    notes: tuple[str, ...] = (f"converted from {_UNIT_NAMES[header.units]} to millimetres",) if header.units in _UNIT_NAMES else ()
    if header.units == 0:
        notes += ("the unit of length is not given, millimetres were assumed",)
    for axis in range(3):
        mm = header.pixdim[axis + 1]
        size = header.dim[axis] if axis < len(header.dim) else 1
        if (not isfinite(mm) or mm <= 0) and options.spacing_zyx_mm is None:
            if axis < len(header.dim) and not (size == 1 and mm == 0):
                raise source.refuse(
                    f"has a spacing of {mm:g} mm along {'xyz'[axis]} (pixdim[{axis + 1}])",
                    "correct the header, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml",
                )
            mm = 1.0 / unit
        spacing.append(mm * unit if isfinite(mm) and mm > 0 else 1.0)
    x, y, z = spacing
    return (x, y, z), notes


def _sform(source: Source, header: NiftiHeader, unit: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3] = np.array(header.srow, np.float64).reshape(3, 4)
    if not np.isfinite(affine).all():
        raise source.refuse(
            "has a number in its sform (srow) that is not finite",
            "correct the header, or set trust = 'qform' under [dataset] in autounet.toml",
        )
    affine[:3] *= unit
    if not np.linalg.norm(affine[:3, :3], axis=0).min() or not np.linalg.det(affine[:3, :3]):
        raise source.refuse(
            "has a singular sform (srow): it flattens the volume",
            "correct the header, or set trust = 'qform' under [dataset] in autounet.toml",
        )
    return affine


def _qform(source: Source, header: NiftiHeader, spacing_xyz: TripleMm, unit: float) -> NDArray[np.float64]:
    quatern = (*header.quatern[:3], *(unit * v for v in header.quatern[3:]))
    affine = quaternion_affine(quatern, spacing_xyz, -1.0 if header.pixdim[0] < 0 else 1.0)
    if affine is None:
        raise source.refuse(
            f"has no rotation in its qform (quatern {header.quatern[:3]})",
            "correct the header, or set trust = 'sform' under [dataset] in autounet.toml",
        )
    return affine


def _scaled_by_pixdim(
    source: Source, sform: NDArray[np.float64], spacing_xyz: TripleMm, shape_zyx: Triple
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The sform, once its scale is known to be the pixdim's; a unit scale was never filled in and gives way."""
    norms, pixdim = np.linalg.norm(sform[:3, :3], axis=0), np.array(spacing_xyz)
    several = np.array(shape_zyx[::-1]) > 1  # the spacing of a single slice is often left out of pixdim
    if (np.abs(norms / pixdim - 1) <= AGREE)[several].all():
        return sform, ()
    if (np.abs(norms - 1) <= 1e-6).all():
        scaled = sform.copy()
        scaled[:3, :3] *= pixdim
        return scaled, ("the sform has no scale; the spacing was taken from pixdim",)
    shown = ", ".join(f"{v:.6g}" for v in spacing_xyz), ", ".join(f"{v:.6g}" for v in norms)
    raise source.refuse(
        f"has two spacings in x, y, z: {shown[0]} mm in pixdim, {shown[1]} mm in its sform",
        "set trust = 'sform' under [dataset] in autounet.toml if that is right, or spacing_zyx_mm = [z, y, x]",
    )


def _check_agreement(source: Source, sform: NDArray[np.float64], qform: NDArray[np.float64], shape_zyx: Triple) -> None:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise source.refuse("has a qform that is the mirror image of its sform, so left and right are unclear", _TRUST)
    spacing = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    index = np.array([(x, y, z, 1) for z in (0, shape_zyx[0]) for y in (0, shape_zyx[1]) for x in (0, shape_zyx[2])], float) - [
        0.5,
        0.5,
        0.5,
        0,
    ]
    apart = float(np.linalg.norm(index @ (sform - qform).T, axis=1).max())
    if apart > DISAGREE_VOXELS * spacing:
        raise source.refuse(f"has a qform that puts a corner {apart:.4g} mm away from where its sform has it", _TRUST)
