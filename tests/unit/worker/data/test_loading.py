import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from worker.data.images import LabelledImages
from worker.data.loading import DatasetCache, natural_class_names, natural_image_shape
from worker.data.public_datasets import PUBLIC_DATASETS, find_public
from worker.data.source import DataSource
from worker.errors import DataError

CPU = torch.device("cpu")
DIGITS = DataSource(dataset="digits")


def digits_of(client_index, partition="iid", **fields):
    return DataSource(
        dataset="digits", partition=partition, num_clients=4, client_index=client_index, **fields
    )


def write_class_folders(data_dir, class_names, images_per_class=2):
    for split in ("train", "test"):
        for shade, name in enumerate(class_names):
            folder = data_dir / split / name
            folder.mkdir(parents=True)
            for number in range(images_per_class):
                Image.new("RGB", (32, 32), (10 * shade, 0, 0)).save(folder / f"{number}.png")


def random_cifar10(per_class_train, per_class_test):
    rng = np.random.default_rng(0)

    def split(per_class):
        count = 10 * per_class
        images = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        labels = torch.from_numpy(rng.permutation(np.repeat(np.arange(10), per_class)))
        return LabelledImages(images, labels, tuple("abcdefghij"))

    return split(per_class_train), split(per_class_test)


@pytest.fixture
def fake_cifar10(monkeypatch):
    splits = random_cifar10(2200, 700)
    fake = replace(PUBLIC_DATASETS["cifar10"], read=lambda _: splits)
    monkeypatch.setitem(PUBLIC_DATASETS, "cifar10", fake)
    return splits


def test_digits_split_is_stratified_and_complete():
    data = DatasetCache().client_data(DIGITS, (1, 8, 8), 10)
    assert len(data.train) + len(data.test) == 1797
    expected = np.bincount(load_digits().target) // 5
    assert torch.bincount(data.test.labels).tolist() == expected.tolist()


def test_measured_statistics_give_mean_zero_and_deviation_one():
    train = DatasetCache().client_data(DIGITS, (1, 8, 8), 10).train
    pixels, _ = train.batch(torch.arange(len(train)), CPU)
    assert abs(float(pixels.mean())) < 1e-5
    assert abs(float(pixels.std()) - 1) < 1e-4


def test_images_are_loaded_once_and_shared():
    cache = DatasetCache()
    clients = [cache.client_data(digits_of(index), (1, 8, 8), 10) for index in range(4)]
    storages = {client.train._data.images.data_ptr() for client in clients}
    assert len(storages) == 1
    assert sum(len(client.train) for client in clients) == 1442


def test_digits_in_the_shape_of_another_model():
    data = DatasetCache().client_data(DIGITS, (3, 28, 28), 10)
    pixels, _ = data.train.batch(torch.arange(5), CPU)
    assert pixels.shape == (5, 3, 28, 28)
    assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_paper_partition_of_another_data_set_divides_it_by_the_number_of_clients():
    data = DatasetCache().client_data(digits_of(1, "paper"), (1, 8, 8), 10)
    assert (len(data.train), len(data.test)) == (1442 // 4, 355 // 4)
    counts = torch.bincount(data.train.labels, minlength=10)
    assert set(counts.topk(3).indices.tolist()) == {2, 3, 4}


@pytest.mark.parametrize("partition", ["none", "paper", "dirichlet", "iid"])
def test_numbers_of_examples_can_be_set(partition):
    num_clients = 1 if partition == "none" else 4
    source = DataSource(
        dataset="digits",
        partition=partition,
        num_clients=num_clients,
        train_examples=30,
        test_examples=20,
    )
    first, again = (DatasetCache().client_data(source, (1, 8, 8), 10) for _ in range(2))
    assert (len(first.train), len(first.test)) == (30, 20)
    assert torch.equal(first.train._positions, again.train._positions)


def test_more_examples_than_there_are_is_an_error():
    with pytest.raises(DataError, match="client 2 of 4: train_examples asks for 900"):
        DatasetCache().client_data(digits_of(2, train_examples=900), (1, 8, 8), 10)


def test_dirichlet_test_split_follows_the_train_split():
    data = DatasetCache().client_data(digits_of(0, "dirichlet"), (1, 8, 8), 10)
    train = torch.bincount(data.train.labels, minlength=10) / len(data.train)
    test = torch.bincount(data.test.labels, minlength=10) / len(data.test)
    assert (train - test).abs().max() < 0.05


def test_cifar10_has_the_numbers_offsets_and_augmentation_of_the_paper(fake_cifar10, tmp_path):
    source = DataSource(dataset="cifar10", data_dir=tmp_path, partition="paper", num_clients=20)
    cache = DatasetCache()
    data = cache.client_data(source, (3, 32, 32), 10)
    assert (len(data.train), len(data.test)) == (600, 300)
    for split, examples, first in ((0, data.train, 2000), (1, data.test, 500)):
        nines = torch.nonzero(fake_cifar10[split].labels == 9).flatten()
        taken = examples._positions[examples.labels == 9]
        assert torch.equal(taken, nines[first : first + len(taken)])
    positions = torch.arange(50)
    generator = np.random.default_rng(0)
    plain = data.train.batch(positions, CPU)[0]
    assert not torch.equal(data.train.batch(positions, CPU, generator)[0], plain)
    enlarged = cache.client_data(source, (3, 48, 48), 10).train
    assert torch.equal(
        enlarged.batch(positions, CPU, generator)[0], enlarged.batch(positions, CPU)[0]
    )


def test_augmentation_can_be_turned_off_and_on(fake_cifar10, tmp_path):
    positions = torch.arange(50)
    generator = np.random.default_rng(0)
    off = DataSource(dataset="cifar10", data_dir=tmp_path, augment=False)
    train = DatasetCache().client_data(off, (3, 32, 32), 10).train
    assert torch.equal(train.batch(positions, CPU, generator)[0], train.batch(positions, CPU)[0])
    on = DataSource(dataset="digits", augment=True)
    data = DatasetCache().client_data(on, (1, 8, 8), 10)
    plain = data.train.batch(positions, CPU)[0]
    assert not torch.equal(data.train.batch(positions, CPU, generator)[0], plain)
    plain = data.test.batch(positions, CPU)[0]
    assert torch.equal(data.test.batch(positions, CPU, generator)[0], plain)


def test_colour_turned_grey_is_normalised_by_its_own_statistics(fake_cifar10, tmp_path):
    source = DataSource(dataset="cifar10", data_dir=tmp_path, augment=False)
    train = DatasetCache().client_data(source, (1, 28, 28), 10).train
    pixels, _ = train.batch(torch.arange(len(train)), CPU)
    assert pixels.shape[1:] == (1, 28, 28)
    assert abs(float(pixels.mean())) < 1e-4
    assert abs(float(pixels.std()) - 1) < 1e-3


def test_cifar10_is_read_from_the_files_of_torchvision(tmp_path, monkeypatch):
    class FewImages(CIFAR10):
        def __init__(self, root, train, download):
            assert not download
            rng = np.random.default_rng(int(train))
            self.data = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
            self.targets = [0, 1, 2, 3]
            self.classes = list("abcdefghij")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", FewImages)
    source = DataSource(dataset="cifar10", data_dir=tmp_path)
    train = DatasetCache().client_data(source, (3, 32, 32), 10).train
    expected = FewImages(tmp_path, train=True, download=False).data.transpose(0, 3, 1, 2)
    assert np.array_equal(train._data.images.numpy(), expected)


def test_missing_cifar10_is_an_error_and_not_a_download(tmp_path):
    source = DataSource(dataset="cifar10", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"cifar-10-batches-py: expected the unpacked"):
        DatasetCache().client_data(source, (3, 32, 32), 10)
    assert list(tmp_path.iterdir()) == []


def test_cinic10_is_read_from_class_folders(tmp_path):
    write_class_folders(tmp_path, [f"class{label}" for label in range(10)])
    source = DataSource(dataset="cinic10", data_dir=tmp_path)
    data = DatasetCache().client_data(source, (3, 32, 32), 10)
    assert data.train.labels.tolist() == np.repeat(np.arange(10), 2).tolist()


def test_cinic10_with_other_classes_is_an_error(tmp_path):
    write_class_folders(tmp_path, ["a", "b"])
    source = DataSource(dataset="cinic10", data_dir=tmp_path)
    with pytest.raises(DataError, match="expected the 10 classes of cinic10, found 2"):
        DatasetCache().client_data(source, (3, 32, 32), 10)


def test_image_folder_gets_the_statistics_of_imagenet(tmp_path):
    write_class_folders(tmp_path, ["a", "b"])
    source = DataSource(dataset="image-folder", data_dir=tmp_path)
    train = DatasetCache().client_data(source, (3, 16, 16), 2).train
    pixels, _ = train.batch(torch.tensor([0]), CPU)
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(pixels[0, :, 0, 0], expected)


def test_image_folder_in_grey(tmp_path):
    write_class_folders(tmp_path, ["a", "b"])
    source = DataSource(dataset="image-folder", data_dir=tmp_path)
    train = DatasetCache().client_data(source, (1, 16, 16), 2).train
    pixels, _ = train.batch(torch.tensor([0]), CPU)
    torch.testing.assert_close(pixels, torch.full((1, 1, 16, 16), -1.0))


def test_a_model_with_another_number_of_classes_is_an_error(tmp_path):
    write_class_folders(tmp_path, ["a", "b", "c"])
    source = DataSource(dataset="image-folder", data_dir=tmp_path)
    with pytest.raises(DataError, match="expected 5 classes, found 3") as caught:
        DatasetCache().client_data(source, (3, 16, 16), 5)
    assert str(tmp_path) in str(caught.value)


def test_a_model_with_other_channels_is_an_error():
    with pytest.raises(DataError, match="expected a model of 1 or 3 channels, found 4"):
        DatasetCache().client_data(DIGITS, (4, 8, 8), 10)


def test_fashion_mnist_is_normalised_by_its_known_statistics(tmp_path):
    for prefix in ("train", "t10k"):
        for kind, shape in (("images-idx3", (3, 28, 28)), ("labels-idx1", (3,))):
            header = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
            content = header + bytes(int(np.prod(shape)))
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(content)
    source = DataSource(dataset="fashion-mnist", data_dir=tmp_path)
    train = DatasetCache().client_data(source, (1, 28, 28), 10).train
    pixels, _ = train.batch(torch.arange(3), CPU)
    torch.testing.assert_close(pixels, torch.full((3, 1, 28, 28), -0.1307 / 0.3081))


def test_natural_shapes_and_classes(tmp_path):
    write_class_folders(tmp_path, ["a", "b", "c"], images_per_class=1)
    assert natural_image_shape("emnist") == (1, 28, 28)
    assert natural_image_shape("image-folder") is None
    assert len(natural_class_names("emnist", None)) == 62
    assert natural_class_names("image-folder", tmp_path) == ("a", "b", "c")
    with pytest.raises(DataError, match="expected a data_dir"):
        natural_class_names("image-folder", None)
    with pytest.raises(DataError, match=r"expected a data set among digits, .* found 'mnist'"):
        natural_image_shape("mnist")


def test_a_pretrained_models_statistics_replace_the_data_sets() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    data = DatasetCache((mean, std)).client_data(DIGITS, (3, 16, 16), 10)
    plain = DatasetCache(((0.0,), (1.0,))).client_data(DIGITS, (3, 16, 16), 10)
    images, _ = data.train.batch(torch.arange(4), torch.device("cpu"))
    pixels, _ = plain.train.batch(torch.arange(4), torch.device("cpu"))
    assert images.shape == (4, 3, 16, 16)
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    for channel in range(3):
        expected = (pixels[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(images[:, channel], expected)


FOUR = ("ant", "bee", "cat", "dog")


def test_a_site_with_some_of_the_agreed_classes_has_their_labels(tmp_path):
    write_class_folders(tmp_path, ["Katze", "bee"])
    source = DataSource(dataset="image-folder", data_dir=tmp_path, classes={"Katze": "cat"})
    data = DatasetCache().client_data(source, (1, 16, 16), 4, FOUR)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [2, 2, 1, 1]
    assert data.train.class_names == FOUR


def test_sites_that_share_a_folder_may_name_its_classes_differently(tmp_path):
    write_class_folders(tmp_path, ["x", "y"])
    cache = DatasetCache()
    for meant, labels in (
        ({"x": "ant", "y": "bee"}, [0, 0, 1, 1]),
        ({"x": "dog", "y": "cat"}, [3, 3, 2, 2]),
    ):
        source = DataSource(dataset="image-folder", data_dir=tmp_path, classes=meant)
        assert cache.client_data(source, (1, 8, 8), 4, FOUR).train.labels.tolist() == labels


def test_a_public_data_sets_classes_are_mapped_by_name_too():
    names = tuple(reversed([str(label) for label in range(10)]))
    turned = DatasetCache().client_data(DIGITS, (1, 8, 8), 10, names)
    plain = DatasetCache().client_data(DIGITS, (1, 8, 8), 10)
    assert torch.equal(turned.train.labels, 9 - plain.train.labels)


def test_a_map_of_classes_is_of_no_use_where_none_are_agreed(tmp_path):
    source = DataSource(dataset="digits", classes={"0": "zero"})
    with pytest.raises(DataError, match=r"classes\] is for a federation that has class_names"):
        DatasetCache().client_data(source, (1, 8, 8), 10)


def test_files_that_are_left_out_are_counted_over_both_splits(tmp_path):
    write_class_folders(tmp_path, ["a", "b"])
    for name in ("train/a/x.nii", "test/b/y.nii", "test/b/Thumbs.db"):
        (tmp_path / name).touch()
    source = DataSource(dataset="image-folder", data_dir=tmp_path)
    data = DatasetCache().client_data(source, (1, 8, 8), 2)
    assert data.left_out == {".nii": 2, "Thumbs.db": 1}


def test_a_validation_split_is_cut_from_the_training_examples_of_each_class():
    source = DataSource(dataset="digits", validation_fraction=0.25)
    cache = DatasetCache()
    data, again = (cache.client_data(source, (1, 8, 8), 10) for _ in range(2))
    whole = cache.client_data(DIGITS, (1, 8, 8), 10)
    assert data.validation is not None
    positions = torch.cat([data.train._positions, data.validation._positions])
    assert positions.sort().values.tolist() == [*range(len(whole.train))]
    assert len(data.validation) == len(whole.train) // 4
    share = torch.bincount(data.validation.labels) / torch.bincount(whole.train.labels)
    assert share.min() > 0.2
    assert torch.equal(data.validation._positions, again.validation._positions)
    assert torch.equal(data.test._positions, whole.test._positions)
    assert [*data.splits] == ["train", "test", "validation"]
    assert [*whole.splits] == ["train", "test"]


def test_a_folder_of_its_own_is_the_validation_split(tmp_path):
    write_class_folders(tmp_path, ["a", "b"])
    folder = tmp_path / "validation" / "b"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "0.png")
    (tmp_path / "validation" / "a").mkdir()
    source = DataSource(dataset="image-folder", data_dir=tmp_path)
    data = DatasetCache().client_data(source, (1, 8, 8), 2)
    assert data.validation.labels.tolist() == [1]
    assert DatasetCache().try_out(source).validation.labels.tolist() == [1]
    for fields, said in (
        ({"validation_fraction": 0.5}, "has a validation split, so that validation_fraction"),
        ({"partition": "iid"}, "partition iid divides train and test alone"),
    ):
        with pytest.raises(DataError, match=said):
            DatasetCache().client_data(source.model_copy(update=fields), (1, 8, 8), 2)


def test_a_group_lies_in_train_or_in_validation(tmp_path):
    lines = ["file,label,split,group"]
    for number in range(12):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
        split = "test" if number == 11 else "train"
        lines.append(f"{number}.png,{'ab'[number % 2]},{split},patient-{number // 3}")
    lines[-1] = lines[-1].replace("patient-3", "patient-9")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines))
    source = DataSource(
        dataset="table", data_dir=tmp_path, table_file=table, validation_fraction=0.3
    )
    data = DatasetCache().client_data(source, (1, 4, 4), 2)
    patients = [
        {int(pixels[0, 0, 0]) // 3 for pixels in examples._data.images[examples._positions]}
        for examples in (data.train, data.validation)
    ]
    assert not patients[0] & patients[1]
    assert (len(data.train) + len(data.validation), len(data.test)) == (11, 1)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("fashion-mnist", "train-images-idx3-ubyte.* found neither"),
        ("emnist", "emnist-byclass-train-images-idx3-ubyte.* found neither"),
        ("cifar10", r"cifar-10-batches-py: expected the unpacked"),
        ("cinic10", "train"),
    ],
)
def test_files_that_are_missing_are_noticed_without_reading_any(
    tmp_path: Path, dataset: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        find_public(dataset, tmp_path)


def test_of_data_that_needs_no_files_none_are_looked_for(tmp_path: Path) -> None:
    find_public("digits", None)
    find_public("image-folder", tmp_path)
