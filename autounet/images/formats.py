"""Which format a file is: its name says what it should be, its first bytes whether it is."""

from pathlib import Path

from autounet.images.image import DEFAULT, Format, ReadOptions
from autounet.images.inflate import GZIP_MAGIC
from autounet.images.source import Source, opened, shown
from planners.errors import UserError

SUFFIXES: dict[str, Format] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".hdr": "nifti",
    ".img": "nifti",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".gipl": "gipl",
    ".gipl.gz": "gipl",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
}
SUPPORTED = (
    "NIfTI (.nii, .nii.gz, .hdr with .img), MetaImage (.mha, .mhd), NRRD (.nrrd), GIPL (.gipl), PNG, JPEG, BMP, TIFF and DICOM folders"
)
_FOREIGN = {
    ".mgz": "FreeSurfer's format; convert it with mri_convert",
    ".mgh": "FreeSurfer's format; convert it with mri_convert",
    ".mnc": "MINC; convert it with mnc2nii",
    ".par": "Philips PAR/REC; convert it with dcm2niix",
    ".rec": "Philips PAR/REC; convert it with dcm2niix",
    ".head": "AFNI's format; convert it with 3dAFNItoNIFTI",
    ".brik": "AFNI's format; convert it with 3dAFNItoNIFTI",
    ".brik.gz": "AFNI's format; convert it with 3dAFNItoNIFTI",
    ".dcm.gz": "a packed DICOM file; unpack it with gunzip",
    ".gif": "a GIF picture; save it as PNG",
    ".webp": "a WebP picture; save it as PNG",
    ".svs": "a slide scanner's format; export the region that is meant as TIFF",
    ".ndpi": "a slide scanner's format; export the region that is meant as TIFF",
    ".mrxs": "a slide scanner's format; export the region that is meant as TIFF",
    ".zip": "an archive; unpack it",
}
HEAD = 560  # bytes that tell any of them

_NIFTI_SIZES = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"II+\0", "a TIFF picture"),
    (0, b"MM\0+", "a TIFF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"NRRD000", "an NRRD image"),
    (128, b"DICM", "a DICOM file"),
    (252, b"\xef\xff\xe9\xb0", "a GIPL image"),
    (252, b"\x2a\xe3\x89\xb8", "a GIPL image"),
    (0, b"version https://git-lfs", "a git-LFS pointer, not the file itself"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"CDF\x01", "a MINC file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"# vtk", "a VTK file"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"BZh", "bzip2 data"),
    (0, b"\xfd7zXZ", "xz data"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard data"),
    (257, b"ustar", "a tar archive"),
)
_CONTENT: dict[Format, str] = {
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "bmp": "a BMP picture",
    "tiff": "a TIFF picture",
    "nrrd": "an NRRD image",
    "gipl": "a GIPL image",
    "dicom": "a DICOM file",
    "metaimage": "a MetaImage",
}
_REMEDIES = {
    "a git-LFS pointer, not the file itself": "fetch the real file with `git lfs pull`",
    "a web page": "download the file again; this is what the server answered instead",
    "an XML document": "download the file again; this is what the server answered instead",
    "a NIfTI file": "rename it to .nii",
    "gzip data": "rename it so that it ends in .gz, or unpack it",
}
_SUFFIX_OF = {
    "a PNG picture": ".png",
    "a JPEG picture": ".jpg",
    "a TIFF picture": ".tif",
    "a BMP picture": ".bmp",
    "an NRRD image": ".nrrd",
    "a DICOM file": ".dcm",
    "a GIPL image": ".gipl",
    "a MetaImage": ".mha",
}


def suffix_of(name: str) -> str:
    """The supported suffix a name ends in, in lower case; empty when there is none."""
    lower = name.lower()
    return max((suffix for suffix in SUFFIXES if lower.endswith(suffix) and len(lower) > len(suffix)), key=len, default="")


def format_of(path: Path) -> Format | None:
    """The format a file's name promises."""
    return SUFFIXES.get(suffix_of(path.name))


def stem_of(name: str) -> str:
    """A name without its supported suffix."""
    return name[: len(name) - len(suffix_of(name))]


def sniff(path: Path, options: ReadOptions = DEFAULT) -> Format:
    """The format of a file by its name and its first bytes, which have to agree; a folder is taken for a DICOM series."""
    if path.is_dir():
        return "dicom"
    form = required_format(path, options)
    if form != "dicom" and suffix_of(path.name) != ".img":
        with opened(path, options) as source:
            check_content(source, source.file.read(HEAD) or b"", path, form)
    return form


def required_format(path: Path, options: ReadOptions = DEFAULT) -> Format:
    """The format a file's name promises, or an error that lists what is supported."""
    form = format_of(path)
    if form is None:
        lower = path.name.lower()
        for suffix, remedy in _FOREIGN.items():
            if lower.endswith(suffix):
                what, _, fix = remedy.partition("; ")
                raise UserError(f"{shown(path, options.root)} is {what}, which is not read here", f"{fix}, then use one of {SUPPORTED}")
        raise UserError(f"{shown(path, options.root)} has no known image format in its name", f"use {SUPPORTED}")
    return form


def check_content(source: Source, start: bytes, path: Path, form: Format) -> None:
    """Refuse a file whose first bytes are those of something else than its name says, and say what it is."""
    compressed = start.startswith(GZIP_MAGIC)
    suffix = suffix_of(path.name)
    if compressed and (suffix.endswith(".gz") or (form == "nifti" and suffix == ".img")):
        return  # what is inside is judged when it is inflated
    if not suffix and compressed:
        return  # a temporary file, named by nobody
    found = content(start)
    if suffix.endswith(".gz") and not compressed:
        if found == "a NIfTI file" and form == "nifti":
            raise source.refuse("is a plain NIfTI file, not compressed as its name says", "rename it to .nii")
        raise source.refuse(f"is {found or 'no gzip data'}, not compressed as its name says", _remedy(found))
    if compressed:
        raise source.refuse(
            "is gzip data, which its name does not say", f"rename it to {suffix}.gz" if suffix in (".nii", ".gipl") else "unpack it"
        )
    check_inside(source, start, form)


def check_inside(source: Source, start: bytes, form: Format) -> None:
    """The same for bytes that are inflated already."""
    found = content(start)
    if form in ("nifti", "dicom"):
        wrong = found is not None and found != {"nifti": "a NIfTI file", "dicom": "a DICOM file"}[form]
    else:
        wrong = found != _CONTENT[form]
    if wrong:
        raise source.refuse(f"is {found or 'something unknown'}, not the {_promised(form)} its name says", _remedy(found))


def content(start: bytes) -> str | None:
    """What a file is by its first bytes; None when they tell nothing."""
    for offset, magic, name in _MAGICS:
        if start[offset : offset + len(magic)] == magic and not (magic == b"BM" and start[:4] in _NIFTI_SIZES):
            return name
    if start[:4] in _NIFTI_SIZES:
        return "a NIfTI file"
    if start.startswith(GZIP_MAGIC):
        return "gzip data"
    text = start[:HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text):
        return "a web page"
    if text.startswith(b"<?xml"):
        return "an XML document"
    if text.startswith(b"objecttype") or (b"ndims" in text and b"=" in text):
        return "a MetaImage"
    return None


def _promised(form: Format) -> str:
    return {"nifti": "NIfTI image", "dicom": "DICOM file"}.get(form) or _CONTENT[form].removeprefix("a ").removeprefix("an ")


def _remedy(found: str | None) -> str:
    if found in _SUFFIX_OF:
        return f"rename it so that it ends in {_SUFFIX_OF[found]}"
    return _REMEDIES.get(found or "", "copy or export the file again")
