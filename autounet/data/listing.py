"""One walk through a folder: which files are there, which are rubbish, and which lead out of it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from autounet.data.dataset import Problem
from autounet.data.names import DICOM_SUFFIXES, image_suffix
from planners.errors import UserError

MAX_FILES = 2_000_000  # a home folder given by mistake should end soon
MAX_DEPTH = 16
_JUNK_NAMES = {".ds_store", "thumbs.db", "desktop.ini", "__macosx", "checksums.txt"}
_JUNK_ENDINGS = ("~", ".part", ".tmp", ".bak", ".swp", ".crdownload")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file, by its path below the root."""

    path: PurePosixPath
    size: int

    @property
    def folder(self) -> PurePosixPath:
        """Where it lies."""
        return self.path.parent

    @property
    def suffix(self) -> str:
        """The image suffix, empty for anything else."""
        return image_suffix(self.path.name)

    @property
    def stem(self) -> str:
        """The name without the image suffix."""
        name = self.path.name
        return name[: len(name) - len(self.suffix)]


@dataclass(frozen=True)
class Listing:
    """What lies below a folder. Sorted, so that no file system decides anything."""

    root: Path
    files: tuple[FoundFile, ...]
    junk: int  # ignored: files that systems and editors leave behind
    problems: tuple[Problem, ...]

    @cached_property
    def images(self) -> tuple[FoundFile, ...]:
        """Files whose name says that they are images, each once: of .hdr and .img the header."""
        found = [f for f in self.files if f.suffix]
        headers = {f.path.with_suffix("") for f in found if f.suffix == ".hdr"}
        return tuple(f for f in found if f.suffix != ".img" or f.path.with_suffix("") not in headers)

    @cached_property
    def by_folder(self) -> dict[PurePosixPath, tuple[FoundFile, ...]]:
        """Images by the folder they lie in."""
        folders: dict[PurePosixPath, list[FoundFile]] = {}
        for file in self.images:
            folders.setdefault(file.folder, []).append(file)
        return {folder: tuple(files) for folder, files in folders.items()}

    @cached_property
    def names(self) -> frozenset[str]:
        """All paths, as text."""
        return frozenset(str(f.path) for f in self.files)

    @cached_property
    def dicom_folders(self) -> tuple[PurePosixPath, ...]:
        """Folders that hold DICOM files, told by the suffix or, without a suffix, by the first bytes."""
        folders: dict[PurePosixPath, bool] = {}
        for file in self.files:
            if folders.get(file.folder) or file.suffix or file.path.name.upper() == "DICOMDIR":
                continue
            ending = file.path.suffix.lower()
            if ending in DICOM_SUFFIXES:
                folders[file.folder] = True
            elif file.folder not in folders and (not ending or ending[1:].isdigit()):
                folders[file.folder] = is_dicom(self.root / file.path)
        return tuple(folder for folder, yes in folders.items() if yes)

    def has(self, path: str | PurePosixPath) -> bool:
        """Whether a file of that path was found."""
        return str(path) in self.names


def list_folder(root: Path, *, follow_outside: bool = False) -> Listing:
    """Walk through `root`. Links are followed inside of it only, unless asked; nothing but regular files is opened later."""
    if not root.exists():
        raise UserError(f"there is no folder {root}", "check the path")
    if not root.is_dir():
        raise UserError(f"{root} is a file", "name the folder that holds the dataset")
    root = root.resolve()
    walk = _Walk(root, follow_outside)
    files = sorted(walk.files(PurePosixPath(), 0), key=lambda f: f.path.parts)
    return Listing(root=root, files=tuple(files), junk=walk.junk, problems=tuple(walk.problems))


def is_dicom(path: Path) -> bool:
    """Whether a regular file starts like a DICOM object."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


class _Walk:
    """One walk; it remembers where it has been, because links can lead in circles."""

    def __init__(self, root: Path, follow_outside: bool) -> None:
        self.root, self.follow_outside = root, follow_outside
        self.junk, self.count = 0, 0
        self.problems: list[Problem] = []
        self.seen = {os.path.realpath(root)}

    def files(self, folder: PurePosixPath, depth: int) -> Iterator[FoundFile]:
        if depth > MAX_DEPTH:
            raise UserError(f"{folder} lies more than {MAX_DEPTH} folders deep", "name the folder that holds the dataset itself")
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda e: e.name)
        except OSError as error:
            self._refuse("unreadable", folder, f"the folder cannot be read ({error.strerror})", "a folder you may read", "check its rights")
            return
        for entry in entries:
            path = folder / entry.name
            if _is_junk(entry.name):
                self.junk += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from self.files(path, depth + 1)
            elif entry.is_symlink():
                yield from self._linked(path, depth)
            else:
                yield from self._file(path, entry.stat(follow_symlinks=False))

    def _linked(self, path: PurePosixPath, depth: int) -> Iterator[FoundFile]:
        target = os.path.realpath(self.root / path)
        try:
            status = (self.root / path).stat()
        except OSError as error:
            self._refuse("dangling_link", path, f"the link leads nowhere ({error.strerror})", "a file", "mend or remove the link")
            return
        if not self.follow_outside and not Path(target).is_relative_to(self.root):
            self._refuse(
                "link_outside",
                path,
                "the link leads out of the dataset folder",
                "files below the folder",
                "set follow_symlinks = true under [dataset] in autounet.toml if that is meant",
            )
        elif stat.S_ISDIR(status.st_mode):
            if target not in self.seen:
                self.seen.add(target)
                yield from self.files(path, depth + 1)
            else:
                self._refuse("link_loop", path, "the link leads back to a folder above", "no circles", "remove the link")
        else:
            yield from self._file(path, status)

    def _file(self, path: PurePosixPath, status: os.stat_result) -> Iterator[FoundFile]:
        self.count += 1
        if self.count > MAX_FILES:
            raise UserError(f"{self.root} holds more than {MAX_FILES} files", "name the folder that holds the dataset itself")
        if stat.S_ISREG(status.st_mode):
            yield FoundFile(path, status.st_size)
        elif image_suffix(path.name) or not path.suffix:
            self._refuse("special_file", path, "this is no regular file (a pipe, a socket or a device)", "a regular file", "remove it")

    def _refuse(self, code: str, path: PurePosixPath, found: str, expected: str, remedy: str) -> None:
        self.problems.append(Problem(severity="warning", code=code, case="", found=f"{path}: {found}", expected=expected, remedy=remedy))


def _is_junk(name: str) -> bool:
    lower = name.lower()
    return name.startswith(".") or lower in _JUNK_NAMES or lower.endswith(_JUNK_ENDINGS)
