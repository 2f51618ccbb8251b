"""Backbones from images that no client holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from typer.testing import CliRunner

from worker.data.images import Dataset, LabelledImages
from worker.data.loading import DatasetCache
from worker.data.partitions import dominant_groups, paper_partition
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError
from worker.experiment.command import experiment
from worker.experiment.pretraining import METADATA_KEY, images_of_nobody
from worker.models.backbone_weights import load_frozen_backbone


def fashion_like(per_class: int = 6000) -> Dataset:
    """Labels as Fashion-MNIST has them, without its images."""
    labels = torch.arange(10 * per_class) % 10
    split = LabelledImages(
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, ("c",) * 10
    )
    return Dataset("fashion-mnist", split, split, (0.5,), (0.5,))


def test_no_image_of_the_papers_twenty_clients_is_taken_and_every_other_is() -> None:
    dataset = fashion_like()
    source = DataSource(
        dataset="fashion-mnist", data_dir=Path("absent"), partition="paper", num_clients=20
    )
    found = images_of_nobody(source, dataset)
    held = paper_partition(
        dataset.train.labels.numpy(),
        dominant_groups(10),
        num_classes=10,
        num_clients=20,
        examples_per_client=600,
    )
    assert len(np.unique(np.concatenate(held))) == 20 * 600
    assert len(found) == 60_000 - 20 * 600
    assert not np.intersect1d(found, np.concatenate(held)).size
    fewer = images_of_nobody(source.model_copy(update={"num_clients": 5}), dataset)
    assert set(found.tolist()) < set(fewer.tolist()), (
        "five clients hold what the first of twenty do"
    )


def test_a_partition_that_leaves_nothing_is_refused() -> None:
    dataset = DatasetCache().dataset(DataSource(dataset="digits"), Wanted((1, 8, 8)))
    with pytest.raises(DataError, match="the partition iid gives every training image of digits"):
        images_of_nobody(DataSource(dataset="digits", partition="iid", num_clients=2), dataset)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(experiment, ["pretrain", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_file_is_a_backbone_that_a_federation_takes(tmp_path: Path) -> None:
    file = tmp_path / "new" / "vit.safetensors"
    arguments = ["--model", "vit:test_vit", "--output", str(file), "--dataset", "digits"]
    arguments += ["--epochs", "2", "--json"]
    code, output, errors = run(*arguments)
    assert code == 0, errors
    made = json.loads(output)
    assert errors.count("epoch") == 2
    extractor = load_frozen_backbone(
        "vit:test_vit",
        (3, 32, 32),
        source="file",
        expected_digest=made["digest"],
        file=file,
        with_adapters=False,
    )
    assert extractor.feature_width == 64
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()[METADATA_KEY]) == made
    assert made["images"] > 0
    assert run(*arguments)[1] == output, "the same seed gives the same weights"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet81", "--output", "x.safetensors"), "the closest are resnet18"),
        (("--model", "resnet18", "--output", "x.pt"), "must end in .safetensors"),
        (
            ("--model", "resnet18", "--output", "x.safetensors", "--image-shape", "32"),
            "--image-shape must be CxHxW",
        ),
        (
            ("--model", "resnet18", "--output", "x.safetensors", "--partition", "papr"),
            "partition: Input should be",
        ),
        (
            ("--model", "resnet18", "--output", "x.safetensors", "--learning-rate", "nan"),
            "the learning rate nan is not positive and finite",
        ),
    ],
)
def test_what_cannot_be_pretrained_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(*arguments, "--dataset", "digits")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
