import numpy as np
import pytest
import torch
from PIL import Image

from worker.data.classes import AgreedClasses
from worker.data.image_folder import find_classes, read_class_folders, read_folder
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError


def write_image(path, colour, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def data_dir(tmp_path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "dog" / "1.png", (255, 0, 0))
        write_image(tmp_path / split / "cat" / "b.png", (0, 255, 0), size=(9, 9))
        write_image(tmp_path / split / "cat" / "a.jpg", (0, 0, 255))
    return tmp_path


def test_images_labels_and_classes(data_dir):
    train, test = read_class_folders(data_dir, (3, 4, 6))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1]
    assert train.images.shape == (3, 3, 4, 6)
    assert train.images[1].flatten(1)[:, 0].tolist() == [0, 255, 0]
    assert train.images[2].flatten(1)[:, 0].tolist() == [255, 0, 0]


def test_colour_becomes_grey_by_itu_r_601(data_dir):
    train, _ = read_class_folders(data_dir, (1, 8, 8))
    assert train.images.shape == (3, 1, 8, 8)
    assert train.images[2].unique().tolist() == [76]


def test_grey_is_repeated(tmp_path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "only" / "1.png", 93, mode="L")
    train, _ = read_class_folders(tmp_path, (3, 4, 4))
    assert train.images.unique().tolist() == [93]


def test_shrinking_averages_over_all_pixels(tmp_path):
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 255
    for split in ("train", "test"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        Image.fromarray(stripes).save(folder / "1.png")
    train, _ = read_class_folders(tmp_path, (1, 4, 4))
    assert (train.images.float() - 127.5).abs().max() < 10


def test_other_files_and_hidden_ones_are_passed_over_and_folders_inside_are_read(data_dir):
    (data_dir / "train" / "cat" / "notes.txt").write_text("x")
    (data_dir / "train" / "cat" / ".a.png").write_bytes(b"x")
    (data_dir / "train" / ".cache").mkdir()
    write_image(data_dir / "train" / "cat" / "more" / "c.PNG", (1, 1, 1))
    train, _ = read_class_folders(data_dir, (3, 4, 4))
    assert train.labels.tolist() == [0, 0, 0, 1]
    assert train.left_out == {".txt": 1, "hidden": 1}


def test_a_site_may_lack_examples_of_a_class(data_dir):
    (data_dir / "train" / "dog" / "1.png").unlink()
    train, _ = read_class_folders(data_dir, (3, 4, 4))
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(data_dir, split):
    (data_dir / split).rename(data_dir / "elsewhere")
    with pytest.raises(DataError, match=f"{split}: expected a folder"):
        read_class_folders(data_dir, (3, 4, 4))


def test_a_split_without_class_folders_is_named(tmp_path):
    write_image(tmp_path / "train" / "1.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"train: expected one folder for each class"):
        find_classes(tmp_path)


def test_a_split_without_images_is_named(data_dir):
    for path in (data_dir / "test").rglob("*.*"):
        path.unlink()
    with pytest.raises(DataError, match=r"test: expected images in its class folders, found none"):
        read_class_folders(data_dir, (3, 4, 4))


def test_other_classes_in_test_are_named(data_dir):
    (data_dir / "test" / "dog").rename(data_dir / "test" / "wolf")
    with pytest.raises(DataError, match=r"expected the class folders .*cat, dog.* found cat, wolf"):
        read_class_folders(data_dir, (3, 4, 4))


def test_an_unreadable_image_is_named(data_dir):
    path = data_dir / "train" / "cat" / "z.png"
    path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"z\.png: expected an image, cannot read it"):
        read_class_folders(data_dir, (3, 4, 4))


def test_a_truncated_image_is_named(data_dir):
    path = data_dir / "train" / "cat" / "z.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"z\.png: expected an image, cannot read it"):
        read_class_folders(data_dir, (3, 4, 4))


def test_all_that_is_broken_is_named_at_once_up_to_a_bound(data_dir):
    for number in range(12):
        (data_dir / "train" / "cat" / f"z{number:02}.png").write_bytes(b"not an image")
    (data_dir / "test" / "dog" / "0.tif").touch()
    (data_dir / "test" / "cat" / "link.png").symlink_to(data_dir / "nowhere")
    with pytest.raises(DataError) as caught:
        read_class_folders(data_dir, (3, 4, 4))
    said = str(caught.value)
    assert said.startswith(f"{data_dir}: 14 files or folders cannot be used: test/cat/link.png: ")
    assert "is a link to nothing; test/dog/0.tif: expected an image, found an empty file; " in said
    assert "z07.png" in said
    assert "z08.png" not in said
    assert said.endswith("; and 4 more, which `hyperfl worker check` lists")
    assert len(said) < 2000


def test_decoding_in_threads_gives_the_same_images(data_dir, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):  # so large that threads pay
        Image.fromarray(pixels).save(data_dir / "train" / "dog" / f"s{number:02}.png")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    expected, _ = read_class_folders(data_dir, (3, 4, 4))
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    found, _ = read_class_folders(data_dir, (3, 4, 4))
    assert torch.equal(found.images, expected.images)


AGREED = AgreedClasses(("bird", "cat", "dog", "fish"))


def read_agreed(data_dir):
    source = DataSource(dataset="image-folder", data_dir=data_dir)
    dataset = read_folder(source, Wanted((3, 4, 4), AGREED))
    return dataset.train, dataset.test


def test_folders_get_the_labels_of_the_agreed_classes(data_dir):
    (data_dir / "test" / "cat").rename(data_dir / "test" / "fish")
    train, test = read_agreed(data_dir)
    assert train.class_names == test.class_names == AGREED.names
    assert train.labels.tolist() == [1, 1, 2]
    assert test.labels.tolist() == [2, 3, 3]


def test_a_folder_of_no_agreed_class_is_refused_before_an_image_is_read(data_dir):
    (data_dir / "train" / "cat" / "a.jpg").write_bytes(b"not an image")
    (data_dir / "train" / "dog").rename(data_dir / "train" / "dogs")
    with pytest.raises(
        DataError, match=r"train: no class of the federation: 'dogs' \(closest: dog"
    ):
        read_agreed(data_dir)
