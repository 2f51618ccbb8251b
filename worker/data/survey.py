"""Looks at a site's image files whole, and says all that is wrong or odd with it at once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from worker.data.classes import AgreedClasses
from worker.data.dicom_file import Window
from worker.data.file_splits import TRAIN, FileSplits, label_classes
from worker.data.folder_scan import ScannedSplit, describe
from worker.data.image_file import one_limit, read
from worker.errors import DataError

_NAMED = 5
"""Files named of a kind that may have thousands."""


@dataclass(eq=False)
class SurveyedSplit:
    """What one split's images are.

    Attributes:
        counts: readable images by class: the federation's name of it where names are agreed, else
            the folder's.
        faults: one line for each file or folder that cannot be used.
        left_out: number of files that are passed over, by what they are.
        modes: number of images by Pillow's mode, or what a DICOM file says.
        sizes: number of images by (width, height).
        constant: images that have one colour alone.
        by_digest: images by the SHA-256 of their bytes.
    """

    counts: Counter[str]
    faults: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    constant: list[Path] = field(default_factory=list)
    by_digest: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def num_images(self) -> int:
        """Images that can be read."""
        return self.counts.total()


Survey = Mapping[str, SurveyedSplit]
"""By the split's name."""


def survey(
    scanned: FileSplits, agreed: AgreedClasses | None, dicom_window: Window | None = None
) -> Survey:
    """Reads every image of every split.

    Args:
        scanned: what lies where; splits that cannot be looked at have faults and no classes.
        agreed: the federation's classes; None where it names none, or nobody knows it yet.
        dicom_window: see :func:`worker.data.image_file.decode`.
    """
    return {
        name: _survey_split(split, agreed, scanned[TRAIN], dicom_window)
        for name, split in scanned.items()
    }


def _survey_split(
    split: ScannedSplit,
    agreed: AgreedClasses | None,
    train: ScannedSplit,
    dicom_window: Window | None,
) -> SurveyedSplit:
    classes = list(split.classes) if agreed is None else list(agreed.names)
    found = SurveyedSplit(Counter(dict.fromkeys(classes, 0)), list(split.faults), split.left_out)
    if not split.classes and split.faults:
        return found
    names: Sequence[str] = list(split.classes)
    try:
        labels = label_classes(split, agreed, train if train.classes else split)
    except DataError as error:
        found.faults.append(str(error))
    else:
        if agreed is not None:
            names = [agreed.names[label] for label in labels]
    with one_limit():
        for name, files in zip(names, split.classes.values(), strict=True):
            for file in files:
                _look_at(file, name, found, dicom_window)
    if not any(split.classes.values()):
        found.faults.append(f"{split.folder}: expected images in its class folders, found none")
    return found


def _look_at(file: Path, name: str, found: SurveyedSplit, dicom_window: Window | None) -> None:
    try:
        image, mode = read(file, 3, dicom_window)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (DataError, OSError) as error:
        found.faults.append(str(error))
        return
    found.counts[name] += 1
    found.modes[mode] += 1
    found.sizes[image.size] += 1
    found.by_digest[digest].append(file)
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        found.constant.append(file)


def oddities(found: Survey) -> Iterator[str]:
    """What is no error and yet not as it should be: one line each."""
    for name, split in found.items():
        if split.left_out:
            yield f"{name}: files left out: {describe(split.left_out)}"
        if split.constant:
            number = _images(len(split.constant))
            yield f"{name}: {number} of one colour alone: {_some(split.constant)}"
        if single := [label for label, count in split.counts.items() if count == 1]:
            yield f"{name}: classes with one image: {', '.join(single)}"
    for one, other in combinations(found, 2):
        if both := equal_images(found[one], found[other]):
            said = f"{_images(len(both))} both in {one} and in {other}"
            yield f"{said}, byte by byte: {_pairs(both)}"


def equal_images(one: SurveyedSplit, other: SurveyedSplit) -> list[tuple[Path, Path]]:
    """A pair of files for each content that both splits have."""
    both = sorted(one.by_digest.keys() & other.by_digest.keys())
    return sorted((one.by_digest[key][0], other.by_digest[key][0]) for key in both)


def equal_across(one: Survey, other: Survey) -> str | None:
    """One line about the images that two clients share; None if they share none."""
    pairs = [pair for a in one.values() for b in other.values() for pair in equal_images(a, b)]
    return f"{_images(len(pairs))}, byte by byte: {_pairs(pairs)}" if pairs else None


def summary(name: str, split: SurveyedSplit) -> str:
    """``train: 12 images; cat 7, dog 5; modes L 12; sizes 8x8 to 16x16``."""
    present = [f"{label} {count}" for label, count in split.counts.items() if count]
    absent = [label for label, count in split.counts.items() if not count]
    parts = [f"{name}: {_images(split.num_images)}", ", ".join(present)]
    if absent:
        parts.append(f"none of {', '.join(absent)}")
    parts.append("modes " + ", ".join(f"{mode} {count}" for mode, count in split.modes.items()))
    if split.sizes:
        smallest, largest = (pick(split.sizes, key=_area) for pick in (min, max))
        parts.append(f"sizes {_size(smallest)} to {_size(largest)}")
    return "; ".join(part for part in parts if part.strip() not in ("", "modes"))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _images(number: int) -> str:
    return f"{number} image" + ("" if number == 1 else "s")


def _some(files: Sequence[Path]) -> str:
    rest = len(files) - _NAMED
    return ", ".join(map(str, files[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _pairs(pairs: Sequence[tuple[Path, Path]]) -> str:
    rest = len(pairs) - _NAMED
    said = ", ".join(f"{one} = {other}" for one, other in pairs[:_NAMED])
    return said + (f" and {rest} more" if rest > 0 else "")
