"""Reading an image by its path, whatever its format: one door for every stage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autounet.images.formats import required_format
from autounet.images.image import DEFAULT, Format, Image, ImageInfo, ReadOptions

PICTURES: tuple[Format, ...] = ("png", "jpeg", "bmp", "tiff")


def read_header(path: Path, options: ReadOptions = DEFAULT) -> ImageInfo:
    """Geometry, channels and size of an image without its voxels."""
    form: Format = "dicom" if path.is_dir() else required_format(path, options)
    if form in PICTURES:
        from autounet.images.pictures import read_picture_info

        return read_picture_info(path, form, options)
    return _info_readers()[form](path, options)


def read_image(
    path: Path | str,
    options: ReadOptions = DEFAULT,
    *,
    max_bytes: int | None = None,
    fill_nonfinite: float | None = None,
    follow_outside: bool | None = None,
) -> Image:
    """The whole image, checked to its last byte: a file, or a folder that holds one DICOM series."""
    given = {"max_bytes": max_bytes, "fill_nonfinite": fill_nonfinite, "follow_outside": follow_outside}
    options = replace(options, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    place = Path(path)
    return read_as(place, "dicom" if place.is_dir() else required_format(place, options), options)


def read_as(path: Path, form: Format, options: ReadOptions) -> Image:
    """The whole image in a format that is known, whatever the name of the file."""
    if form in PICTURES:
        from autounet.images.pictures import read_picture

        return read_picture(path, form, options)
    return _readers()[form](path, options)


def _info_readers() -> dict[Format, Callable[[Path, ReadOptions], ImageInfo]]:
    from autounet.images.dicom import read_dicom_info
    from autounet.images.gipl import read_gipl_info
    from autounet.images.metaimage import read_metaimage_info
    from autounet.images.nifti import read_nifti_info
    from autounet.images.nrrd import read_nrrd_info

    return {
        "nifti": read_nifti_info,
        "metaimage": read_metaimage_info,
        "nrrd": read_nrrd_info,
        "gipl": read_gipl_info,
        "dicom": read_dicom_info,
    }


def _readers() -> dict[Format, Callable[[Path, ReadOptions], Image]]:
    from autounet.images.dicom import read_dicom
    from autounet.images.gipl import read_gipl
    from autounet.images.metaimage import read_metaimage
    from autounet.images.nifti import read_nifti
    from autounet.images.nrrd import read_nrrd

    return {"nifti": read_nifti, "metaimage": read_metaimage, "nrrd": read_nrrd, "gipl": read_gipl, "dicom": read_dicom}
