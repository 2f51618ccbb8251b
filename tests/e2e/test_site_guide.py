"""The commands of docs/site-guide.md in their order, with a site's own images."""

from __future__ import annotations

import csv
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import PROJECT, ServingCoordinator, hyperfl_here

pytestmark = pytest.mark.e2e

_BLOCKS = re.findall(r"```bash\n(.*?)```", (PROJECT / "docs" / "site-guide.md").read_text(), re.S)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in _BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]

_NAME = "hospitals-of-the-guide"
"""Other tests have a federation called hospitals at the same coordinator."""


def _write_images(folder: Path) -> None:
    generator = np.random.default_rng(1)
    for part in ("train/benign", "train/malignant", "test/benign", "test/malignant", "new"):
        (folder / part).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{number}.png")


def test_the_guides_commands_lead_from_a_file_to_a_model(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    assert [words[1] for words in COMMANDS] == [
        *("init", "check", "run", "status", "evaluate", "predict", "export", "personalize")
    ]
    _write_images(tmp_path)
    coordinator.create_federation(
        *(_NAME, "--model", "cnn-mnist", "--image-shape", "1x28x28", "--rounds", 1),
        *("--classes", "benign,malignant", "--set", "epochs=1"),
    )
    (tmp_path / "site-a.token").write_text(coordinator.invite(_NAME, "site-a")["site-a"])
    coordinator.admin("federation", "start", _NAME)
    replaced = {
        "https://federation.example.org": coordinator.url,
        "hospitals": _NAME,
        "/data/images": str(tmp_path),
        "new-images": "new",
    }
    for words in COMMANDS:
        if words[1] == "export" and find_spec("onnxruntime") is None:
            continue  # the extra export is not installed
        done = hyperfl_here(*(replaced.get(word, word) for word in words), folder=tmp_path)
        assert done.exit_code == 0, (words, done.errors, done.output)
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        assert {row["class"] for row in csv.DictReader(stream)} <= {"benign", "malignant"}
    if find_spec("onnxruntime") is not None:
        assert (tmp_path / "site-a.onnx").stat().st_size > 10_000
