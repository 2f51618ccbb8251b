"""Images in class folders: a site's own data, and CINIC-10."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worker.data.images import ImageShape, LabelledImages
from worker.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

# Pillow releases the interpreter's lock while it decodes, which pays for photographs; threads that
# decode 32x32 images spend their time waiting for the lock (measured: 150 against 60 µs an image).
_THREADS_PAY_BYTES = 16 * 1024


def read_image_folder(
    data_dir: Path, image_shape: ImageShape, max_bytes: int | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of ``data_dir/train/<class>/…`` and ``data_dir/test/<class>/…``.

    Classes are the folders of ``train`` in alphabetical order. A class folder may be empty (a site
    without an example of a class that other sites have), a split may not.

    Args:
        data_dir: folder with ``train`` and ``test``.
        image_shape: (C, H, W) that every image is resized to, C 1 (grey) or 3 (RGB).
        max_bytes: of a split's images at that size.

    Raises:
        DataError: a folder is missing or has no images, the classes of the two splits differ, the
            images would be too large, or one cannot be read.
    """
    class_names = find_classes(data_dir)
    test_class_names = _class_folders(data_dir / "test")
    if test_class_names != class_names:
        raise DataError(
            f"{data_dir / 'test'}: expected the class folders of {data_dir / 'train'} "
            f"({', '.join(class_names)}), found {', '.join(test_class_names)}"
        )
    train = _read_split(data_dir / "train", class_names, image_shape, max_bytes)
    test = _read_split(data_dir / "test", class_names, image_shape, max_bytes)
    return train, test


def find_classes(data_dir: Path) -> tuple[str, ...]:
    """Names of the class folders in ``data_dir/train``, in alphabetical order.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    return _class_folders(data_dir / "train")


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with one folder for each class, found none")
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)
    )
    if not names:
        raise DataError(f"{folder}: expected one folder for each class, found no folders in it")
    return tuple(names)


def _read_split(
    folder: Path, class_names: Sequence[str], image_shape: ImageShape, max_bytes: int | None
) -> LabelledImages:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        class_paths = _image_paths(folder / name)
        paths += class_paths
        labels += [label] * len(class_paths)
    if not paths:
        raise DataError(f"{folder}: expected images in its class folders, found none")
    needed = len(paths) * math.prod(image_shape)
    if max_bytes is not None and needed > max_bytes:
        raise DataError(
            f"{folder}: expected at most {max_bytes} bytes of images (HYPERFL_MAX_MEMORY_BYTES), "
            f"found {len(paths)} images, which at the model's size have {needed}"
        )
    images = torch.empty((len(paths), *image_shape), dtype=torch.uint8)

    def decode_into_place(positions: Iterable[int]) -> None:
        for position in positions:
            images[position] = _decode(paths[position], image_shape)

    mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
    num_threads = (os.cpu_count() or 1) if mean_bytes > _THREADS_PAY_BYTES else 1
    with ThreadPoolExecutor(num_threads) as pool:
        every_nth = (range(first, len(paths), num_threads) for first in range(num_threads))
        for _ in pool.map(decode_into_place, every_nth):
            pass
    return LabelledImages(images, torch.tensor(labels, dtype=torch.int64), tuple(class_names))


def _image_paths(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(_is_hidden(part) for part in path.relative_to(folder).parts)
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _decode(path: Path, image_shape: ImageShape) -> torch.Tensor:
    channels, height, width = image_shape
    try:
        with Image.open(path) as image:
            mode = image.mode
            converted = image.convert("L" if channels == 1 else "RGB")
    except _DECODING_ERRORS as error:
        raise DataError(f"{path}: expected an image, cannot read it: {error}") from error
    if mode.startswith(("I", "F")):
        # Pillow would clip such values to 255 and leave an almost white image.
        raise DataError(f"{path}: expected 8 bits a channel, found Pillow's mode {mode}")
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(converted, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)
