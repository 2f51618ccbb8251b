"""Examples of the site's own code: taken as they are meant, or refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.errors import DataError

SOURCE = DataSource(dataset="own_data:splits")
SHAPE = (1, 4, 4)
CODE = """
import numpy
import torch
from PIL import Image

PIXELS = numpy.arange(5 * 4 * 4, dtype=numpy.uint8).reshape(5, 4, 4)

class Items(torch.utils.data.Dataset):
    def __init__(self, items, classes=None):
        self.items = items
        if classes is not None:
            self.classes = classes
    def __len__(self):
        return len(self.items)
    def __getitem__(self, place):
        return self.items[place]

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield PIXELS[0], 0
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the module ``own_data`` whose function returns what an expression says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(expression: str, signature: str = "splits()") -> None:
        code = f"{CODE}\ndef {signature}:\n    return {expression}\n"
        (tmp_path / "own_data.py").write_text(code)

    return written


def load(names: tuple[str, ...] | None = ("cat", "dog"), **fields: Any) -> Any:
    source = SOURCE.model_copy(update=fields)
    return DatasetCache().client_data(source, SHAPE, len(names or "ab"), names)


def pair(labels: str = "[0, 1, 1, 0, 1]", images: str = "PIXELS") -> str:
    return f"{{'train': ({images}, {labels}), 'test': (PIXELS[:2], [0, 1])}}"


def pixels(examples: Any) -> torch.Tensor:
    """As stored, 0..255."""
    batch, _ = examples.batch(torch.arange(len(examples)), torch.device("cpu"))
    mean, std = examples.normalisation
    rounded: torch.Tensor = ((batch * std.view(-1, 1, 1) + mean.view(-1, 1, 1)) * 255).round()
    return rounded


def test_a_pair_of_arrays_is_taken_with_the_federations_labels(write: Any) -> None:
    write(pair())
    data = load()
    assert data.train.labels.tolist() == [0, 1, 1, 0, 1]
    assert data.train.class_names == ("cat", "dog")
    assert torch.equal(pixels(data.train).flatten(), torch.arange(80.0))
    assert (len(data.test), data.validation) == (2, None)


def test_names_are_mapped_as_folders_are(write: Any) -> None:
    write(pair("['Hund', 'cat', 'cat', 'Hund', 'cat']").replace("[0, 1]", "['cat', 'Hund']"))
    data = load(("bird", "cat", "dog"), classes={"Hund": "dog"})
    assert data.train.labels.tolist() == [2, 1, 1, 2, 1]
    with pytest.raises(DataError, match=r"splits: train: no class of the federation: 'Hund'"):
        load(("bird", "cat", "dog"))


def test_a_map_says_which_class_a_number_is(write: Any) -> None:
    write(pair())
    data = load(("bird", "cat", "dog"), classes={"0": "dog", "1": "bird"})
    assert data.train.labels.tolist() == [2, 0, 0, 2, 0]


def test_a_torch_dataset_is_read_with_its_classes(write: Any) -> None:
    item = "[(torch.tensor(image) / 255, torch.tensor(1)) for image in PIXELS]"
    write(f"{{'train': Items({item}, ['dog', 'cat']), 'test': Items({item}, ['dog', 'cat'])}}")
    data = load()
    assert data.train.labels.tolist() == [0] * 5
    assert torch.equal(pixels(data.train).flatten(), torch.arange(80.0)), "floats are rounded"


def test_pillows_images_are_brought_to_the_models_shape(write: Any) -> None:
    image = "Image.new('RGBA', (9, 7), (0, 0, 0, 0))"
    write(f"{{'train': Items([({image}, 0)]), 'test': Items([(Image.new('L', (3, 3), 8), 1)])}}")
    data = load()
    assert torch.equal(pixels(data.train), torch.full((1, 1, 4, 4), 255.0)), "laid on white"
    assert torch.equal(pixels(data.test), torch.full((1, 1, 4, 4), 8.0))


def test_lists_of_arrays_are_a_pair_too(write: Any) -> None:
    write("{'train': ([*PIXELS], [0, 1, 1, 0, 1]), 'test': [(PIXELS[0], 1), (PIXELS[1], 0)]}")
    data = load()
    assert data.train.labels.tolist() == [0, 1, 1, 0, 1]
    assert data.test.labels.tolist() == [1, 0]


def test_the_folder_is_given_where_there_is_one(write: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", np.full((3, 4, 4), 9, np.uint8))
    one = "(numpy.load(folder / 'pixels.npy'), [0, 1, 0])"
    write(f"{{'train': {one}, 'test': {one}}}", "splits(folder)")
    assert torch.equal(pixels(load(data_dir=tmp_path).train), torch.full((3, 1, 4, 4), 9.0))


def test_nobody_need_know_the_federation_to_try_it_out(write: Any) -> None:
    write(pair("[0, 7, 7, 0, 7]"))
    assert DatasetCache().try_out(SOURCE).train.labels.tolist() == [0, 7, 7, 0, 7]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1 / 0", "own_data:splits failed: ZeroDivisionError: division by zero"),
        ("int('x')", "own_data:splits failed: ValueError: invalid literal"),
        ("exit(3)", "own_data:splits failed: it asked to end the process"),
        ("[1, 2]", "expected a mapping with train, test, and maybe validation, found list"),
        ("{'train': 1}", r"and maybe validation, found \['train'\]"),
        ("{'train': 1, 'test': 2}", r"train: expected a pair .* found int"),
        (pair("[0, 1, 2, 0, 1]"), r"train: expected labels of 0 to 1, .* found 2"),
        (pair("[0, 1, -1, 0, 1]"), r"train: expected labels of 0 or more, found -1 to 1"),
        (pair("[0, 1]"), r"expected 5 labels, one for each example, found .* shape \[2\]"),
        (pair("[0.5, 1, 1, 1, 1]"), r"labels that are integers or names, found dtype float64"),
        (pair("[[0], [1], [1], [1], [1]]"), r"shape \[5, 1\]"),
        (pair(images="PIXELS[0]"), r"expected images of shape .* found \[4, 4\]"),
        (pair(images="PIXELS[..., None]"), "found .*; channels come before height and width"),
        (pair(images="PIXELS.astype('int16')"), "found dtype int16"),
        (pair(images="PIXELS / 100 - 0.1"), "pixels in 0..1, found -0.1 to 0.69"),
        (pair(images="PIXELS / 0.0"), "pixels in 0..1, found nan to nan"),
        (pair("[]", "PIXELS[:0]"), r"expected images, found none: their shape is \[0, 4, 4\]"),
        ("{'train': Endless(), 'test': 0}", r"train: its length cannot be told|expected a pair"),
        ("{'train': Items([]), 'test': 0}", "train: expected examples, found none"),
        ("{'train': Items([1]), 'test': 0}", r"train\[0\]: expected a pair .* found int"),
        ("{'train': Items({1: 2}), 'test': 0}", r"train\[0\] failed: KeyError: 0"),
        (
            "{'train': Items([(PIXELS[0], 0), (PIXELS[0, :2], 0)]), 'test': 0}",
            r"train\[1\]: expected an example of shape \[1, 4, 4\] as the first, found \[1, 2, 4\]",
        ),
        ("{'train': Items([(PIXELS[0], 3)], ['cat']), 'test': 0}", "labels of 0 to 0, found 3"),
        (
            "{'train': [(PIXELS[0], PIXELS[1])] * 2, 'test': 0}",
            r"\[0\]: expected one label, .* \[4, 4\]",
        ),
        ("{'train': Items([(PIXELS[0], None)]), 'test': 0}", "expected one label, .* dtype object"),
        (
            "{'train': Items([(None, 0)]), 'test': 0}",
            r"\[0\]: images: expected an array of numbers",
        ),
        ("{'train': ([PIXELS[0], PIXELS[0, :2]], [0, 1]), 'test': 0}", "expected an array"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_cannot_be_used_is_named(write: Any, expression: str, said: str) -> None:
    write(expression)
    with pytest.raises(DataError, match=said) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_function_that_cannot_be_imported_is_named(write: Any) -> None:
    write("None", "another()")
    with pytest.raises(DataError, match=r"module 'own_data' has no 'splits'"):
        load()
    with pytest.raises(DataError, match=r"cannot import 'no_such_module'.*folder must be the cur"):
        load(dataset="no_such_module:splits")


def test_a_federation_without_names_takes_numbers_within_its_classes(write: Any) -> None:
    write(pair())
    assert load(None).train.class_names == ("0", "1")
    write("{'train': (PIXELS[:1], ['cat']), 'test': (PIXELS[:1], ['cat'])}")
    sys.modules.pop("own_data")
    with pytest.raises(DataError, match="expected 2 classes, found 1: cat"):
        load(None)


def test_images_are_never_taken_for_larger_than_memory_allows(write: Any) -> None:
    write(pair())
    cache = DatasetCache(max_bytes=79)
    with pytest.raises(DataError, match=r"expected at most 79 bytes .* found 5 images, which have"):
        cache.client_data(SOURCE, SHAPE, 2, ("cat", "dog"))
    sys.modules.pop("own_data")
    write("{'train': Items([(PIXELS[0], 0)] + [None] * 4), 'test': 0}")
    with pytest.raises(DataError, match=r"expected at most 79 bytes .* found 5 images, which have"):
        cache.client_data(SOURCE, SHAPE, 2, ("cat", "dog"))
