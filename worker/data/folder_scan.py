"""Which files of a split's class folders are its images, and what is left out.

Nothing is dropped without a word: what is no image is counted by what it is, and what cannot be
looked at is a fault.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from worker.data.dicom_file import EXTRA, can_read_dicom, is_dicom
from worker.data.image_file import IMAGE_SUFFIXES
from worker.errors import DataError

LEFTOVERS = frozenset(
    {
        "#recycle",
        "$RECYCLE.BIN",
        "@Recycle",
        "@eaDir",
        ".DS_Store",
        ".ipynb_checkpoints",
        ".Spotlight-V100",
        ".Trashes",
        "__MACOSX",
        "desktop.ini",
        "lost+found",
        "System Volume Information",
        "Thumbs.db",
    }
)
"""What NAS boxes, desktops and notebooks leave in folders: thumbnails among them."""
HIDDEN = "hidden"
IN_NO_CLASS = "in no class folder"
WITHOUT_SUFFIX = "without suffix"
UNREAD_DICOM = f"DICOM, which needs {EXTRA}"


@dataclass(eq=False)
class ScannedSplit:
    """The image files of one split.

    Attributes:
        folder: of the split; or the file that says which images it has.
        classes: image files by the site's name of their class, both in alphabetical order.
        left_out: number of files by what they are: a suffix, or the name of a leftover.
        faults: what could not be looked at, one line each.
        group_of: whose image each file is, such as a patient's; empty where nothing says so.
    """

    folder: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    group_of: dict[Path, str] = field(default_factory=dict)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the class folders of a split, in alphabetical order.

    Raises:
        DataError: the folder is missing or unreadable, or has no class folders.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with one folder for each class, found none")
    try:
        names = sorted(
            entry.name for entry in folder.iterdir() if entry.is_dir() and not _kind(entry.name)
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not names:
        raise DataError(f"{folder}: expected one folder for each class, found no folders in it")
    return tuple(names)


def scan(folder: Path) -> ScannedSplit:
    """Looks at all that lies in a split's folder. Folders that are linked are followed, once.

    Raises:
        DataError: as :func:`class_folders`.
    """
    split = ScannedSplit(folder)
    split.classes = {name: [] for name in class_folders(folder)}
    walk = _Walk(split)
    for path in walk.files_of(folder, but=split.classes.keys()):
        walk.leave_out(path, inside_class=False)
    for name, files in split.classes.items():
        files.extend(sorted(filter(walk.is_image, walk.files_below(folder / name))))
    return split


def images_below(path: Path) -> list[Path]:
    """The images in a folder and the folders in it, in alphabetical order; or the file itself.

    Raises:
        DataError: there is nothing at the path, no image in the folder, or part of it cannot be
            looked at.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected an image or a folder of images, found nothing")
    split = ScannedSplit(path)
    walk = _Walk(split)
    found = sorted(filter(walk.is_image, walk.files_below(path)))
    if split.faults:
        raise DataError("; ".join(split.faults))
    if not found:
        raise DataError(f"{path}: expected images, found none")
    return found


def describe(left_out: Counter[str]) -> str:
    """``120 @eaDir, 30 .dcm``, the most first."""
    return ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())


def is_read(path: Path) -> bool:
    """Whether a file is an image here: by its suffix, and DICOM where it can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (can_read_dicom() and is_dicom(path))


class _Walk:
    """Goes through folders and links to folders; every one is looked at once."""

    def __init__(self, split: ScannedSplit) -> None:
        self._split = split
        self._seen: dict[tuple[int, int], Path] = {}

    def files_below(self, folder: Path) -> Iterator[Path]:
        """Files, and whatever else is no folder, in ``folder`` and the folders in it."""
        try:
            status = folder.stat()
        except OSError as error:
            self._fault(folder, f"cannot be read: {error.strerror}")
            return
        first = self._seen.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            self._fault(folder, f"is the same folder as {first}: its images would count twice")
            return
        yield from self.files_of(folder)

    def files_of(self, folder: Path, but: Collection[str] = ()) -> Iterator[Path]:
        """The same, without a look at whether it was here before; without the folders ``but``."""
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self._fault(folder, f"cannot be read: {error.strerror}")
            return
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                self._fault(entry, f"cannot be read: {error.strerror}")
                continue
            if kind := _kind(entry.name):
                self._split.left_out[kind] += _count_files(entry)
            elif not is_folder:
                yield entry
            elif entry.name not in but:
                yield from self.files_below(entry)

    def is_image(self, path: Path) -> bool:
        """Whether it is to be read; if not, it is counted or a fault."""
        if path.is_symlink() and not path.exists():
            self._fault(path, "is a link to nothing")
        elif not is_read(path):
            self.leave_out(path, inside_class=True)
        elif not path.is_file():
            self._fault(path, "is no file")
        else:
            return True
        return False

    def leave_out(self, path: Path, *, inside_class: bool) -> None:
        """Counts a file that is not read."""
        if is_read(path) and not inside_class:
            kind = IN_NO_CLASS
        elif is_dicom(path):
            kind = UNREAD_DICOM
        else:
            kind = path.suffix.lower() or WITHOUT_SUFFIX
        self._split.left_out[kind] += 1

    def _fault(self, path: Path, what: str) -> None:
        self._split.faults.append(f"{path}: {what}")


def _kind(name: str) -> str:
    """What is left out by its name alone; empty for all else."""
    if name in LEFTOVERS:
        return name
    return HIDDEN if name.startswith(".") else ""


def _count_files(entry: Path) -> int:
    if not entry.is_dir() or entry.is_symlink():
        return 1
    return sum(len(files) for _, _, files in os.walk(entry))
