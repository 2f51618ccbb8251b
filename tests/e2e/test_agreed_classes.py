"""Three sites with some of ten classes under names of their own, from folders to exported files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.processes import ServingCoordinator, hyperfl_here
from tests.support.tiny_images import TINY_MODEL

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CLASSES = ("bénin", "malin", *(f"type-{number}" for number in range(8)))
SITES = {
    "site-a": {"gut": "bénin", "boese": "malin", "t0": "type-0", "t1": "type-1"},
    "site-b": {"benign": "bénin"} | {f"type-{number}": f"type-{number}" for number in range(4)},
    "site-c": {f"X{number}": f"type-{number}" for number in range(2, 8)},
}
"""By site: the federation's class by the folder's name."""


def write_site(folder: Path, names: dict[str, str]) -> None:
    """Images of 4x4 with one bright pixel, whose place is the federation's class."""
    generator = np.random.default_rng(len(names))
    for split, number in (("train", 12), ("test", 4)):
        for local, agreed in names.items():
            (folder / split / local).mkdir(parents=True)
            for place in range(number):
                pixels = generator.integers(0, 60, (4, 4), dtype=np.uint8)
                pixels.flat[CLASSES.index(agreed)] = 255
                Image.fromarray(pixels).save(folder / split / local / f"{place}.png")


def write_config(folder: Path, url: str, tokens: dict[str, str]) -> Path:
    lines = [f'coordinator_url = "{url}"', 'federation = "classes"', 'allowed_imports = ["tests"]']
    for seed, (site, token) in enumerate(tokens.items()):
        lines += [
            f'[[clients]]\nname = "{site}"\nstate_dir = "state/{site}"\nseed = {seed}',
            f'enrolment_token = "{token}"',
            f'[clients.data]\ndataset = "image-folder"\ndata_dir = "{site}"',
            "validation_fraction = 0.25",
            "[clients.data.classes]",
            *(f'"{local}" = "{agreed}"' for local, agreed in SITES[site].items()),
        ]
    file = folder / "worker.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def logits_of(file: Path, model: Path) -> tuple[list[float], list[str]]:
    """As whoever got the model's file alone would compute them, from what the file says."""
    import onnxruntime  # noqa: PLC0415 - the extra export

    session = onnxruntime.InferenceSession(str(model))
    said = json.loads(session.get_modelmeta().custom_metadata_map["hyperfl-model"])
    steps = said["preprocessing"]
    height, width = steps["size"]
    assert steps["channels"] == "grey, ITU-R BT.601 luma"
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("L")
    resized = upright.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, np.float32)[None, None] * np.float32(steps["scale"])
    (logits,) = session.run(["logits"], {"images": pixels})
    return logits[0].tolist(), said["class_names"]


def test_sites_with_other_names_train_together_and_predict_what_their_exported_files_say(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    options = ("--classes", ",".join(CLASSES), "--cohort-size", 3, "--rounds", 1)
    coordinator.create_federation(
        "classes", *TINY_MODEL, "--method", "fedavg", "--set", "batch_size=4", *options
    )
    for site, names in SITES.items():
        write_site(tmp_path / site, names)
    config = write_config(tmp_path, coordinator.url, coordinator.invite("classes", *SITES))
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo, exif=exif)
    predict = ("worker", "predict", "--config", config, "--client", "site-a", "--json", photo)

    early = hyperfl_here(*predict, folder=tmp_path)
    assert early.exit_code == 2
    assert "nothing of its own was trained by site-a" in early.errors

    coordinator.admin("federation", "start", "classes")
    done = hyperfl_here("worker", "run", "--config", config, folder=tmp_path)
    assert done.exit_code == 0, done.errors
    lacking = [json.loads(line) for line in done.errors.splitlines() if "without examples" in line]
    assert {one["client"]: one["number"] for one in lacking} == {
        "site-a": 6,
        "site-b": 5,
        "site-c": 4,
    }

    predicted = hyperfl_here(*predict, folder=tmp_path).json["predictions"][0]
    if find_spec("onnxruntime") is None:
        pytest.skip("the extra export is not installed")
    model = tmp_path / "site-a.onnx"
    exported = hyperfl_here(
        *("worker", "export", "--config", config, "--client", "site-a", "--format", "onnx"),
        *("--output", model, "--json"),
        folder=tmp_path,
    )
    assert exported.json["class_names"] == list(CLASSES)
    logits, names = logits_of(photo, model)
    assert names == list(CLASSES)
    probabilities = np.exp(np.array(logits) - max(logits))
    probabilities /= probabilities.sum()
    given = [predicted[f"p({name})"] for name in names]
    np.testing.assert_allclose(given, probabilities, atol=1e-5)
    assert predicted["class"] == names[int(probabilities.argmax())]

    best = hyperfl_here(
        *("worker", "export", "--config", config, "--client", "site-a", "--which", "best"),
        *("--output", tmp_path / "best.pt2", "--json"),
        folder=tmp_path,
    )
    assert best.json["weights_version"] in (0, 1)
    (tmp_path / "site-a" / "test" / "gut").rename(tmp_path / "site-a" / "test" / "sehr-gut")
    renamed = hyperfl_here("worker", "evaluate", "--config", config, folder=tmp_path)
    assert renamed.exit_code == 2
    assert "no class of the federation: 'sehr-gut'" in renamed.errors
