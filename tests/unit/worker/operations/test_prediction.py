"""What a client's model says about image files: the same as of its own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.random_clients import IMAGE_SHAPE, RESOURCES, random_client_data, tiny_plan
from worker.data.image_file import decode
from worker.errors import ConfigError, DataError
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant, PersonalModel
from worker.operations.prediction import predict, predictions
from worker.settings import WorkerConfig, WorkerSettings

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


def test_images_of_arrays_are_named_by_their_place(tmp_path: Path, model: PersonalModel) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    file = tmp_path / "new.npz"
    np.savez(file, images=pixels)
    (single,) = write_images(tmp_path, 1)
    found = list(predictions(model, [file, single], IMAGE_SHAPE, MEAN, STD))
    assert [one.name for one in found] == [*(f"{file}[{place}]" for place in range(3)), str(single)]
    with torch.no_grad():
        images = torch.from_numpy(pixels)[:, None] / 255
        expected = model.head(model.module((images - 0.5) / 0.25)).softmax(dim=1)
    given = torch.tensor([one.probabilities for one in found[:3]])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


async def test_a_client_of_arrays_takes_no_image_files(tmp_path: Path) -> None:
    data = {"dataset": "arrays", "data_dir": tmp_path}
    clients = [{"name": "site-a", "state_dir": tmp_path, "data": data}]
    config = WorkerConfig.model_validate(
        {"coordinator_url": "http://127.0.0.1:9", "federation": "tiny", "clients": clients}
    )
    with pytest.raises(ConfigError, match=r"trained on arrays .* give \.npz or \.safetensors, not"):
        await predict(config, WorkerSettings(), client="site-a", images=write_images(tmp_path, 1))
