"""Data sets in the idx format of MNIST: Fashion-MNIST and EMNIST.

The format: two zero bytes, a type code (8 for uint8), the number of dimensions, each dimension as
a big-endian uint32, then the values in row-major order.
"""

from __future__ import annotations

import gzip
import math
import string
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from worker.data.images import LabelledImages
from worker.errors import DataError

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
EMNIST_CLASSES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)

SplitFiles = tuple[Path, Path]
"""The images' file and the labels'."""

_UINT8_TYPE_CODE = 8
_IMAGE_SIZE = (28, 28)


def read_fashion_mnist(data_dir: Path) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of Fashion-MNIST.

    The four files, gzipped or not, lie in ``data_dir`` itself (Debian's package) or in
    ``data_dir/FashionMNIST/raw`` (torchvision's layout).

    Raises:
        DataError: a file is missing, damaged or not what its name says.
    """
    train, test = find_fashion_mnist(data_dir)
    return _read_split(*train, FASHION_MNIST_CLASSES), _read_split(*test, FASHION_MNIST_CLASSES)


def find_fashion_mnist(data_dir: Path) -> tuple[SplitFiles, SplitFiles]:
    """Where its train and test split lie, unread. Raises DataError if a file is missing."""
    folders = (data_dir, data_dir / "FashionMNIST" / "raw")
    return _find_split(folders, "train"), _find_split(folders, "t10k")


def read_emnist(data_dir: Path) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of EMNIST byclass (62 classes), upright.

    The files lie in ``data_dir`` itself or in ``data_dir/EMNIST/raw`` (torchvision's layout).

    Raises:
        DataError: a file is missing, damaged or not what its name says.
    """
    train, test = find_emnist(data_dir)
    # EMNIST's files store every image by columns (Cohen et al. 2017, arXiv 1702.05373).
    return (
        _read_split(*train, EMNIST_CLASSES, by_columns=True),
        _read_split(*test, EMNIST_CLASSES, by_columns=True),
    )


def find_emnist(data_dir: Path) -> tuple[SplitFiles, SplitFiles]:
    """Where its train and test split lie, unread. Raises DataError if a file is missing."""
    folders = (data_dir, data_dir / "EMNIST" / "raw")
    prefix = "emnist-byclass-"
    return _find_split(folders, f"{prefix}train"), _find_split(folders, f"{prefix}test")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array in an idx file of uint8 values, gzipped when its name ends in ``.gz``.

    Returns:
        uint8, of the shape in the file's header, read-only.

    Raises:
        DataError: the file cannot be read, is no idx file, or its length is not what its header
            says.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, _UINT8_TYPE_CODE)):
        raise DataError(
            f"{path}: expected an idx file of uint8 values (it begins with bytes 00 00 08), "
            f"found {content[:4].hex(' ') or 'an empty file'}"
        )
    num_dimensions = content[3]
    header_bytes = 4 + 4 * num_dimensions
    if len(content) < header_bytes:
        raise DataError(
            f"{path}: expected a header of {header_bytes} bytes, found {len(content)} in all"
        )
    shape = struct.unpack_from(f">{num_dimensions}I", content, offset=4)
    expected_bytes = header_bytes + math.prod(shape)
    if len(content) != expected_bytes:
        raise DataError(
            f"{path}: expected {expected_bytes} bytes for shape {shape}, found {len(content)}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _read_split(
    images_path: Path,
    labels_path: Path,
    class_names: tuple[str, ...],
    *,
    by_columns: bool = False,
) -> LabelledImages:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != _IMAGE_SIZE or len(images) == 0:
        raise DataError(f"{images_path}: expected images (N, 28, 28), found shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image of "
            f"{images_path.name}, found shape {labels.shape}"
        )
    if labels.max() >= len(class_names):
        raise DataError(
            f"{labels_path}: expected labels 0 to {len(class_names) - 1}, found {labels.max()}"
        )
    if by_columns:
        images = images.swapaxes(1, 2)
    return LabelledImages(
        images=torch.from_numpy(images[:, None].copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=class_names,
    )


def _find_split(folders: Sequence[Path], prefix: str) -> SplitFiles:
    return (
        _find(folders, f"{prefix}-images-idx3-ubyte"),
        _find(folders, f"{prefix}-labels-idx1-ubyte"),
    )


def _find(folders: Sequence[Path], name: str) -> Path:
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    places = " or ".join(str(folder) for folder in folders)
    raise DataError(f"expected the file {name} or {name}.gz in {places}, found neither")
