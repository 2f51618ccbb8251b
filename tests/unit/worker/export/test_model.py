"""Exported models of rows take raw rows, and say what these are."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from tests.support.random_clients import RESOURCES
from tests.support.rows import FEATURES, random_row_data, random_rows, row_plan
from worker.data.row_scaling import RowScaling
from worker.export.formats import FORMATS, encode
from worker.export.loading import loading_code
from worker.export.model import METADATA_KEY, Description, ExportedRowModel, describe_rows
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant, PersonalModel


@pytest.fixture(scope="module")
def personal() -> tuple[PersonalModel, RowScaling]:
    method = HyperFL(row_plan(), torch.device("cpu"), RESOURCES)
    data = random_row_data(0)
    participant = Participant("site-a", data, method.initial_private(7), 7)
    weights = method.parameters(seed=3).initial_values()
    assert isinstance(data.train.scaling, RowScaling)
    return method.personal_model(participant, weights), data.train.scaling


def description(scaling: RowScaling) -> Description:
    return Description(
        federation="bank",
        client="site-a",
        weights_version=3,
        weights_digest="sha256:0d",
        method="hyperfl",
        model="mlp:8x2",
        input=describe_rows(3),
        image_shape=(5,),
        features=scaling.features,
        mean=tuple(scaling.mean.tolist()),
        std=tuple(scaling.std.tolist()),
        preprocessing=None,
        output="float32 logits (B, 2)",
        class_names=("ill", "well"),
    )


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_file_answers_for_raw_rows_as_the_model_does(
    file_format: str, personal: tuple[PersonalModel, RowScaling], tmp_path: Path
) -> None:
    if file_format == "onnx" and find_spec("onnxruntime") is None:
        pytest.skip("the extra export is not installed")
    model, scaling = personal
    exported, said = ExportedRowModel(model, scaling), description(scaling)
    file = tmp_path / "model"
    file.write_bytes(encode(exported, said, file_format))
    rows = random_rows(5, 9)
    assert rows.isnan().any()
    code = loading_code(exported, said, file_format, file)
    # The last lines draw an input and ask; the rest is what somebody elsewhere runs.
    *opening, drawing, asking = code.splitlines()
    assert drawing.startswith("rows = ")
    assert drawing.endswith(said.input)
    given = {"rows": rows.numpy() if file_format == "onnx" else rows}
    exec("\n".join([*opening, asking]), given)
    with torch.no_grad():
        expected = model.head(model.module(scaling.apply(rows)))
    np.testing.assert_allclose(
        np.asarray(given["logits"].detach() if file_format != "onnx" else given["logits"]),
        expected.numpy(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_names_categories_and_numbers_are_inside(
    personal: tuple[PersonalModel, RowScaling], tmp_path: Path
) -> None:
    model, scaling = personal
    file = tmp_path / "model.safetensors"
    file.write_bytes(encode(ExportedRowModel(model, scaling), description(scaling), "state-dict"))
    with safetensors.safe_open(file, "pt") as opened:
        said = json.loads(opened.metadata()[METADATA_KEY])
    assert said["features"] == [feature.model_dump(mode="json") for feature in FEATURES]
    assert said["mean"] == scaling.mean.tolist()
    assert said["std"] == scaling.std.tolist()
    assert said["class_names"] == ["ill", "well"]
