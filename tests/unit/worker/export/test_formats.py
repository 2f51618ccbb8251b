"""Exported files: run by a process that has no part of this project, with the same logits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.random_clients import IMAGE_SHAPE, random_client_data, tiny_plan
from worker.export import formats
from worker.export.formats import ExportError, encode
from worker.export.loading import loading_code
from worker.export.model import METADATA_KEY, Description, ExportedModel, describe_input
from worker.methods.base import BuildsPersonalModel, Participant, PersonalModel
from worker.methods.hyperfl import HyperFL

DESCRIPTION = Description(
    federation="hospitals",
    client="site-a",
    weights_version=3,
    weights_digest="sha256:0d",
    method="hyperfl",
    model="own.models:tiny",
    input=describe_input(IMAGE_SHAPE, is_normalised=True),
    image_shape=IMAGE_SHAPE,
    mean=(0.5,),
    std=(0.25,),
    output="float32 logits (B, 3)",
    class_names=("a", "b", "c"),
)
_needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra export is not installed",
)


def tiny_model(name: str = "tiny") -> ExportedModel:
    method = HyperFL(tiny_plan(name), torch.device("cpu"))
    private = method.initial_private(7)
    private["buffers.normalisation.running_mean"] += 0.5
    participant = Participant("site-a", random_client_data(0, 5), private, 7)
    personal = method.personal_model(participant, method.parameters(seed=3).initial_values())
    return ExportedModel(personal, torch.tensor([0.5]), torch.tensor([0.25]))


_METADATA = {
    "state-dict": """
with safetensors.safe_open(FILE, "pt") as opened:
    said = opened.metadata()["KEY"]
""",
    "torchscript": """
extra = {"KEY.json": ""}
torch.jit.load(FILE, _extra_files=extra)
said = extra["KEY.json"]
""",
    "pt2": """
extra = {"KEY.json": ""}
torch.export.load(FILE, extra_files=extra)
said = extra["KEY.json"]
""",
    "onnx": """
said = session.get_modelmeta().custom_metadata_map["KEY"]
""",
}
_NETWORK = """
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 3, 3)
        self.normalisation = torch.nn.BatchNorm2d(3)
        self.linear = torch.nn.Linear(12, 5)
    def forward(self, images):
        maps = torch.tanh(self.normalisation(self.convolution(images)))
        return torch.tanh(self.linear(maps.flatten(1)))
"""


def run_elsewhere(
    file: Path, file_format: str, loading: str, images: np.ndarray
) -> tuple[np.ndarray, Any]:
    """Logits and metadata, by an isolated interpreter in another folder.

    It does what is printed for those who load a file, with our images in place of random ones.
    """
    np.save(file.with_name("images.npy"), images)
    search_path = [
        str(Path(spec.origin).parents[1])
        for name in ("onnxruntime", "google.protobuf")
        if find_spec(name.partition(".")[0]) and (spec := find_spec(name)) and spec.origin
    ]
    loaded = f"numpy.load({str(file.with_name('images.npy'))!r})"
    if file_format != "onnx":
        loaded = f"torch.from_numpy({loaded})"
    loading = re.sub(r"(?m)^images = .*$", f"images = {loaded}", loading)
    code = f"""
import json, sys
sys.path += {search_path!r}
import numpy
{"import torch" if file_format != "onnx" else ""}
{_NETWORK if file_format == "state-dict" else ""}
{loading}
{_METADATA[file_format].replace("KEY", METADATA_KEY).replace("FILE", repr(str(file)))}
assert not any(name.partition(".")[0] in ("worker", "shared", "tests") for name in sys.modules)
logits = logits if isinstance(logits, numpy.ndarray) else logits.detach().numpy()
numpy.save({str(file.with_name("logits.npy"))!r}, logits)
print(said if isinstance(said, str) else said.decode())
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        cwd=file.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(file.with_name("logits.npy")), json.loads(done.stdout)


@pytest.mark.parametrize(
    "file_format", ["state-dict", "torchscript", "pt2", pytest.param("onnx", marks=_needs_onnx)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_another_process_that_does_what_is_printed_gets_the_same_logits(
    file_format: str, tmp_path: Path
) -> None:
    model = tiny_model()
    file = tmp_path / "model"
    file.write_bytes(encode(model, DESCRIPTION, file_format))
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(9))
    loading = loading_code(model, DESCRIPTION, file_format, file)
    logits, said = run_elsewhere(file, file_format, loading, images.numpy())
    np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-5, atol=1e-5)
    assert Description.model_validate(said) == DESCRIPTION


def test_a_head_of_two_layers_is_constructed_as_it_is() -> None:
    layers = [nn.Linear(5, 4), nn.LeakyReLU(), nn.Linear(4, 3)]
    personal = PersonalModel(nn.Flatten(), nn.Sequential(*layers).eval())
    model = ExportedModel(personal, torch.tensor([0.5]), torch.tensor([0.25]))
    code = loading_code(model, DESCRIPTION, "state-dict", Path("model.safetensors"))
    (line,) = (line for line in code.splitlines() if line.startswith("head = "))
    head = eval(line.removeprefix("head = "), {"torch": torch})
    head.load_state_dict(model.head.state_dict())
    features = torch.rand(2, 5)
    torch.testing.assert_close(head(features), model.head(features))


def test_a_state_dict_has_the_modules_own_names_and_the_heads(tmp_path: Path) -> None:
    model = tiny_model()
    file = tmp_path / "model.safetensors"
    file.write_bytes(encode(model, DESCRIPTION, "state-dict"))
    with formats.safetensors.safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        said = opened.metadata()
    assert {name.partition(".")[0] for name in tensors} == {"module", "head"}
    assert {"module.convolution.weight", "module.normalisation.running_mean"} < tensors.keys()
    torch.testing.assert_close(tensors["head.weight"], model.head.weight)
    assert Description.model_validate_json(said[METADATA_KEY]) == DESCRIPTION


def test_the_model_is_the_one_that_is_evaluated() -> None:
    method = HyperFL(tiny_plan("tiny_with_dropout"), torch.device("cpu"))
    assert isinstance(method, BuildsPersonalModel)
    participant = Participant("site-a", random_client_data(0, 5), method.initial_private(7), 7)
    weights = method.parameters(seed=3).initial_values()
    personal = method.personal_model(participant, weights)
    test = participant.data.test
    model = ExportedModel(personal, *test.normalisation)
    mean, std = (part.view(-1, 1, 1) for part in test.normalisation)
    images, labels = test.batch(torch.arange(len(test)), torch.device("cpu"))
    logits = model(images * std + mean)
    evaluated = method.evaluate(participant, weights)
    loss = nn.functional.cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(evaluated["loss"], rel=1e-5)
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(
        evaluated["accuracy"]
    )


class _Untraceable(nn.Module):
    """Its features depend on the images' values through Python."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.linear(images.flatten(1))
        return -features if float(images.sum()) > 0.0 else features


class _Frozen(nn.Module):
    """Its features take a constant from the images that it is traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)) * float(images.sum())


@pytest.mark.parametrize(
    ("module", "file_format", "message"),
    [
        (_Untraceable(), "pt2", "own.models:tiny cannot be exported as pt2: "),
        (_Frozen(), "torchscript", "gives other logits for other images"),
    ],
)
def test_a_model_that_cannot_be_traced_is_one_line(
    module: nn.Module, file_format: str, message: str
) -> None:
    personal = PersonalModel(module.eval(), nn.Linear(5, 3))
    model = ExportedModel(personal, torch.tensor([0.5]), torch.tensor([0.25]))
    with pytest.raises(ExportError) as caught:
        encode(model, DESCRIPTION, file_format)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_packages_are_named_with_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"onnx needs onnx: pip install 'hyperfl\[worker,export"):
        encode(tiny_model(), DESCRIPTION, "onnx")
