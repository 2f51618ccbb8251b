"""What a client's model says about image files: the same as of its own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.random_clients import IMAGE_SHAPE, RESOURCES, random_client_data, tiny_plan
from worker.data.image_file import decode
from worker.errors import DataError
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant, PersonalModel
from worker.operations.prediction import predictions

MEAN, STD = torch.tensor([0.5]), torch.tensor([0.25])


@pytest.fixture(scope="module")
def model() -> PersonalModel:
    method = HyperFL(tiny_plan(), torch.device("cpu"), RESOURCES)
    participant = Participant("site-a", random_client_data(0, 5), method.initial_private(7), 7)
    return method.personal_model(participant, method.parameters(seed=3).initial_values())


def write_images(folder: Path, number: int) -> list[Path]:
    generator = np.random.default_rng(1)
    files = [folder / f"{place:03}.png" for place in range(number)]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (9, 7), dtype=np.uint8)).save(file)
    return files


def test_probabilities_are_the_models_over_more_than_one_batch(
    tmp_path: Path, model: PersonalModel
) -> None:
    files = write_images(tmp_path, 70)
    found = list(predictions(model, files, IMAGE_SHAPE, MEAN, STD))
    assert [one.file for one in found] == files
    pixels = torch.stack([decode(file, IMAGE_SHAPE) for file in files]).float() / 255
    with torch.no_grad():
        expected = model.head(model.module((pixels - 0.5) / 0.25)).softmax(dim=1)
    given = torch.tensor([one.probabilities for one in found])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.sum(dim=1), torch.ones(70))


def test_all_images_that_cannot_be_read_are_named(tmp_path: Path, model: PersonalModel) -> None:
    files = write_images(tmp_path, 14)
    for file in files[:12]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        list(predictions(model, files, IMAGE_SHAPE, MEAN, STD))
    said = str(caught.value)
    assert "000.png: expected an image" in said
    assert "009.png: expected an image" in said
    assert said.endswith("; and 2 more")
