"""The planes in one DICOM file: one, or the frames of an enhanced object, each with its own place and scale."""

from collections.abc import Callable
from typing import Any

from autounet.images.dicom_files import DicomFile, items, numbers
from autounet.images.dicom_stack import Slice
from autounet.images.source import Source


def frame_slices(source: Source, dataset: Any, file: DicomFile, number: int) -> list[Slice]:
    """One record for each frame of a file."""
    if file.rows < 1 or file.columns < 1:
        raise source.refuse(f"has {file.columns} x {file.rows} pixels (Columns, Rows)", "export the file again")
    frames = items(source, dataset, "PerFrameFunctionalGroupsSequence")
    if not frames:
        if file.frames > 1:
            raise source.refuse(
                f"holds {file.frames} frames without their positions", "convert it to NIfTI or to an enhanced DICOM object first"
            )
        return [_slice(source, file, number, 0, lambda name, count: numbers(source, dataset, name, count))]
    if len(frames) != file.frames:
        raise source.refuse(f"describes {len(frames)} of {file.frames} frames", "export the file again")
    shared = items(source, dataset, "SharedFunctionalGroupsSequence") or [None]
    return [_slice(source, file, number, index, _lookup(source, frame, shared[0], dataset)) for index, frame in enumerate(frames)]


_Lookup = Callable[[str, int], tuple[float, ...] | None]
_GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _lookup(source: Source, frame: Any, shared: Any, dataset: Any) -> _Lookup:
    """Where an enhanced object keeps a field: with the frame, shared by all frames, or at the top."""

    def look(name: str, count: int) -> tuple[float, ...] | None:
        for holder in (frame, shared):
            group = items(source, holder, _GROUPS[name]) if holder is not None and name in _GROUPS else None
            if group and (found := numbers(source, group[0], name, count)) is not None:
                return found
        return numbers(source, dataset, name, count)

    return look


def _slice(source: Source, file: DicomFile, number: int, frame: int, look: _Lookup) -> Slice:
    spacing = look("PixelSpacing", 2) or look("ImagerPixelSpacing", 2)
    orientation, position = look("ImageOrientationPatient", 6), look("ImagePositionPatient", 3)
    slope, intercept = look("RescaleSlope", 1), look("RescaleIntercept", 1)
    thickness = look("SpacingBetweenSlices", 1) or look("SliceThickness", 1)
    if slope is not None and slope[0] == 0:
        raise source.refuse("has a RescaleSlope of 0, which makes every value the same", "export the file again")
    return Slice(
        name=source.shown if frame == 0 and file.frames == 1 else f"{source.shown} frame {frame + 1}",
        file=number,
        frame=frame,
        rows=file.rows,
        columns=file.columns,
        spacing_yx_mm=(spacing[0], spacing[1]) if spacing else None,
        orientation=orientation,
        position_lps=position,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        rescaled=slope is not None or intercept is not None,
        localizer=file.localizer,
        thickness_mm=abs(thickness[0]) if thickness and thickness[0] else None,
    )
