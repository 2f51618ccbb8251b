import gzip
import struct

import numpy as np
import pytest

from worker.data.idx import read_emnist, read_fashion_mnist, read_idx
from worker.errors import DataError

RNG = np.random.default_rng(0)


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_idx(path, array, *, gzipped=False):
    content = idx_bytes(array)
    if gzipped:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    return path


def write_split(folder, prefix, num_images, *, gzipped=False, num_classes=10):
    images = RNG.integers(0, 256, (num_images, 28, 28), dtype=np.uint8)
    labels = (np.arange(num_images) % num_classes).astype(np.uint8)
    write_idx(folder / f"{prefix}-images-idx3-ubyte", images, gzipped=gzipped)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels, gzipped=gzipped)
    return images, labels


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_fashion_mnist_in_either_layout(tmp_path, layout, gzipped):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = write_split(folder, "train", 20, gzipped=gzipped)
    test_images, _ = write_split(folder, "t10k", 10, gzipped=gzipped)
    train, test = read_fashion_mnist(tmp_path)
    assert np.array_equal(train.images.numpy()[:, 0], images)
    assert np.array_equal(train.labels.numpy(), labels)
    assert np.array_equal(test.images.numpy()[:, 0], test_images)
    assert train.class_names[9] == "Ankle boot"


def test_emnist_is_put_upright(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    images, _ = write_split(folder, "emnist-byclass-train", 62, num_classes=62)
    write_split(folder, "emnist-byclass-test", 62, num_classes=62)
    train, _ = read_emnist(tmp_path)
    assert np.array_equal(train.images.numpy()[:, 0], images.transpose(0, 2, 1))
    assert train.images.is_contiguous()
    assert (train.class_names[0], train.class_names[10], train.class_names[61]) == ("0", "A", "z")


def test_a_missing_file_is_named_with_the_places_searched(tmp_path):
    write_split(tmp_path, "train", 3)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.*raw, found neither"):
        read_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x89PNG", "found 89 50 4e 47"),
        (bytes((0, 0, 8, 3, 0, 0)), "expected a header of 16 bytes, found 6"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], "expected 18 bytes for shape .* found 17"),
        (idx_bytes(np.zeros((2, 3), np.uint8)) + b"x", "expected 18 bytes .* found 19"),
        (bytes((0, 0, 8, 2)) + b"\xff" * 8, "found 12"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"not gzip at all",
        lambda content: content[:10] + bytes((content[10] ^ 0xFF,)) + content[11:],
        lambda content: content[:-8] + b"\0" * 8,
    ],
    ids=["truncated", "other format", "corrupt stream", "wrong checksum"],
)
def test_a_damaged_gzip_file_is_an_error(tmp_path, damage):
    path = write_idx(tmp_path / "x", np.zeros((5, 28, 28), np.uint8), gzipped=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.gz: cannot be read"):
        read_idx(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-images-idx3-ubyte", np.zeros((5, 27, 28), np.uint8), r"images \(N, 28, 28\)"),
        ("train-images-idx3-ubyte", np.zeros((0, 28, 28), np.uint8), r"images \(N, 28, 28\)"),
        ("train-labels-idx1-ubyte", np.zeros(4, np.uint8), "expected 5 labels"),
        ("train-labels-idx1-ubyte", np.full(5, 10, np.uint8), "labels 0 to 9, found 10"),
    ],
)
def test_contents_that_do_not_fit_are_an_error(tmp_path, name, array, message):
    write_split(tmp_path, "train", 5)
    write_split(tmp_path, "t10k", 5)
    write_idx(tmp_path / name, array)
    with pytest.raises(DataError, match=message):
        read_fashion_mnist(tmp_path)
