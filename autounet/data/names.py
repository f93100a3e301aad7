"""What people call things: image and label folders, channel endings, patients, scans of one patient, sides."""

import re
import unicodedata

from autounet.images.formats import suffix_of
from planners.errors import UserError
from planners.fingerprint import Modality

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
FLAT_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

# In the order of preference: where several could be meant, the first one is.
LABEL_WORDS = (
    "labels", "label", "labelstr", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "dseg", "gt", "gts",
    "groundtruth", "groundtruths", "annotations", "annotation", "annots", "truth", "truths", "targets", "target", "manual",
    "lbl", "labelmaps", "labelmap", "msk", "lesion", "roi", "rois", "contours",
)  # fmt: skip
IMAGE_WORDS = (
    "images", "image", "imagestr", "imgs", "img", "scans", "scan", "volumes", "volume", "inputs", "input", "raw",
    "pictures", "photos", "data", "orig",
)  # fmt: skip
TEST_WORDS = ("test", "testing", "imagests", "labelsts", "holdout", "unlabelled", "unlabeled")
TRAIN_WORDS = ("train", "training", "trainset", "val", "valid", "validation")
CHANNEL_WORDS: dict[str, Modality] = {
    **dict.fromkeys(("ct", "cta", "ctp", "ncct", "cect", "cbct"), "ct"),
    **dict.fromkeys(("mr", "mri", "t1", "t1w", "t1n", "t1c", "t1ce", "t1gd", "t1post", "t2", "t2w", "t2s", "t2star", "t2f", "flair"), "mr"),
    **dict.fromkeys(("dwi", "adc", "swi", "pd", "pdw", "hbv", "cor", "sag", "dce", "fa", "md", "bold", "ce", "cet1w"), "mr"),
    **dict.fromkeys(("mprage", "t1map", "mp2rage"), "mr"),
    **dict.fromkeys(("pet", "suv", "spect", "fdg"), "pet"),
    **dict.fromkeys(("us", "ultrasound", "echo"), "us"),
    **dict.fromkeys(("xray", "cxr"), "xray"),
    **dict.fromkeys(("em", "sem", "tem"), "em"),
    **dict.fromkeys(("red", "green", "blue", "rgb"), "rgb"),
    **dict.fromkeys(("fluo", "dapi", "phase"), "light"),
}  # fmt: skip

MANY_FOLDERS = 8  # so many folders of cases are patients, whatever they are called; few may be sites
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SPLIT = re.compile(r"[-_. ]+")


def image_suffix(name: str) -> str:
    """The image suffix of a file's name as written, empty for other files; DICOM goes by folders."""
    suffix = suffix_of(name)
    return "" if suffix in DICOM_SUFFIXES else name[len(name) - len(suffix) :]


def words(name: str) -> tuple[str, ...]:
    """The parts of a name between separators, in lower case."""
    return tuple(w for w in _SPLIT.split(name.lower()) if w)


def channel_modality(name: str) -> Modality:
    """What a channel's name says it is."""
    for word in (*words(name), re.sub(r"[^a-z0-9]", "", name.lower())):
        if word in CHANNEL_WORDS:
            return CHANNEL_WORDS[word]
    return "unknown"


def is_channel_token(token: str) -> bool:
    """Whether the end of a file's name is a channel: four digits, or words like flair."""
    return bool(re.fullmatch(r"\d{4}", token)) or (bool(words(token)) and all(w in CHANNEL_WORDS for w in words(token)))


def safe_id(text: str) -> str:
    """A case id that every file system can hold; harmless characters are replaced, dangerous ones refused."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise _refuse(text, "has control characters")
    if ".." in text or text.startswith(("-", ".")) or text.endswith((".", " ")):
        raise _refuse(text, "starts with - or ., ends with . or a space, or holds ..")
    decomposed = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = "".join(c if c.isascii() or not c.isalnum() else f"u{ord(c):x}" for c in decomposed)
    plain = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9._-]", "_", plain)).strip("_")
    if not CASE_ID.fullmatch(plain):
        raise _refuse(text, f"has {len(text)} characters" if len(plain) > 128 else "holds no letter or digit to begin with")
    if _RESERVED.fullmatch(plain):
        raise _refuse(text, "is a device name on Windows")
    return plain


def _refuse(text: str, why: str) -> UserError:
    shown = ascii(text if len(text) < 60 else text[:57] + "...")
    return UserError(f"the case id {shown} {why}", "rename the file, or give the case another id in a table (columns case, image, label)")


_ENTITY = re.compile(r"^(sub-[A-Za-z0-9]+)")
# A patient's number, and something behind it: a date, a visit, a frame, a slice.
_PATIENT = re.compile(r"^((?:.*[-_])?(?:p|s|pt|pat|patient|subj|subject|sub|id|case|mouse|rat|animal)[-_]?\d+)[-_](.+)$", re.IGNORECASE)
_SCAN = re.compile(
    r"^(.+?)[-_](?:(?:t|tp|time|timepoint|ses|session|visit|v|scan|day|week|month|year|fu|followup|run|rep|frame|fr|phase"
    r"|slice|sl|z|im|img|image|tile|patch|crop)"
    r"[-_]?\d+.*|left|right|l|r|baseline|followup|ed|es)$",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"^(.+[-_]\d{3,})[-_]\d{1,4}$")
GROUP_RULES = (
    ("the BIDS subject", _ENTITY),
    ("the patient's number in the name", _PATIENT),
    ("the name before the visit, frame, slice or side", _SCAN),
    ("the first of two numbers in the name", _NUMBERS),
)


_PERSON = re.compile(r"(p|s|pt|pat|patient|subj|subject|sub|id|case|mouse|rat|animal)[-_]?\w*\d+", re.IGNORECASE)
_PLACE = re.compile(
    r"(fold|site|cent(er|re)|hospital|clinic|batch|part|set|group|vendor|scanner|split|domain|task|series|run)[-_ ]?\w*", re.IGNORECASE
)


def are_patients(folders: set[str]) -> bool:
    """Whether folders that hold the cases are patients, and not sites, batches or folds."""
    if len(folders) < 2 or all(_PLACE.fullmatch(f) for f in folders):
        return False
    return len(folders) >= MANY_FOLDERS or all(_PERSON.fullmatch(f) for f in folders)


def groups_by_name(ids: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Which cases seem to be scans of one patient, and by which rule; the rule is empty when every case is its own."""
    for rule, pattern in GROUP_RULES:
        groups = {case: (match.group(1) if (match := pattern.match(case)) else case) for case in ids}
        sizes = set(groups.values())
        if 1 < len(sizes) < len(ids):
            return groups, rule
    return {case: case for case in ids}, ""
