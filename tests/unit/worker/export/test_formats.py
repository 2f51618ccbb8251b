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

from shared.federation.plans import TrainingPlan, takes_backbone
from tests.support.backbones import IMAGE_SHAPE as BACKBONE_SHAPE
from tests.support.backbones import random_digest
from tests.support.random_clients import IMAGE_SHAPE, RESOURCES, random_client_data, tiny_plan
from worker.errors import ExportError
from worker.export import formats
from worker.export.formats import encode
from worker.export.loading import loading_code
from worker.export.model import (
    METADATA_KEY,
    Description,
    ExportedModel,
    Preprocessing,
    describe_input,
)
from worker.methods import build_method
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import BuildsPersonalModel, Participant, PersonalModel
from worker.models.registry import default_image_shape

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
    preprocessing=Preprocessing.for_shape(IMAGE_SHAPE),
    output="float32 logits (B, 3)",
    class_names=("a", "b", "c"),
)
_needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra export is not installed",
)


def tiny_model(name: str = "tiny") -> ExportedModel:
    method = HyperFL(tiny_plan(name), torch.device("cpu"), RESOURCES)
    private = method.initial_private(7)
    private["buffers.normalisation.running_mean"] += 0.5
    participant = Participant("site-a", random_client_data(0, 5), private, 7)
    personal = method.personal_model(participant, method.parameters(seed=3).initial_values())
    return ExportedModel(personal, torch.tensor([0.5]), torch.tensor([0.25]))


def built_in_model(method: str, model: str) -> tuple[ExportedModel, Description]:
    """A client's model of a built-in network, random but for its private statistics."""
    hyperparameters: dict[str, Any] = {}
    shape = default_image_shape(model)
    assert shape is not None
    if takes_backbone(method):
        shape = BACKBONE_SHAPE
        digest = random_digest(model, shape)
        hyperparameters = {"backbone_weights": "random", "backbone_digest": digest}
    plan = TrainingPlan(
        method=method,
        model=model,
        image_shape=shape,
        num_classes=3,
        hyperparameters=hyperparameters,
    )
    built = build_method(plan, torch.device("cpu"), RESOURCES)
    assert isinstance(built, BuildsPersonalModel)
    private = built.initial_private(7)
    for name in private:
        if name.endswith("running_mean"):
            private[name] += 0.5
    participant = Participant("site-a", random_client_data(0, 5), private, 7)
    weights = built.parameters(seed=3).initial_values()
    personal = built.personal_model(participant, weights)
    statistics = (torch.full((shape[0],), 0.5), torch.full((shape[0],), 0.25))
    description = DESCRIPTION.model_copy(
        update={
            "model": model,
            "method": method,
            "image_shape": shape,
            "preprocessing": Preprocessing.for_shape(shape),
            "input": describe_input(shape, is_normalised=True),
            "mean": (0.5,) * shape[0],
            "std": (0.25,) * shape[0],
        }
    )
    return ExportedModel(personal, *statistics), description


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
_OWN_MODELS = """
import types, torch
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 3, 3)
        self.normalisation = torch.nn.BatchNorm2d(3)
        self.linear = torch.nn.Linear(12, 5)
    def forward(self, images):
        maps = torch.tanh(self.normalisation(self.convolution(images)))
        return torch.tanh(self.linear(maps.flatten(1)))
models = types.ModuleType("own.models")
models.tiny = lambda: (Tiny(), 5)
sys.modules |= {"own": types.ModuleType("own"), "own.models": models}
"""


def run_elsewhere(
    models: list[tuple[str, Path, str, np.ndarray]],
) -> list[tuple[np.ndarray, Any]]:
    """Logits and metadata of each file, by an isolated interpreter that lacks this project.

    It does what is printed for those who load a file, with our images in place of random ones. It
    has torch unless all are in ONNX, and the user's own models for state dicts alone.

    Args:
        models: a format, a file in it, what is printed, and images, for each.
    """
    programs = []
    for file_format, file, loading, images in models:
        np.save(file.with_suffix(".npy"), images)
        loaded = f"numpy.load({str(file.with_suffix('.npy'))!r})"
        if file_format != "onnx":
            loaded = f"torch.from_numpy({loaded})"
        program = re.sub(r"(?m)^images = .*$", f"images = {loaded}", loading)
        metadata = _METADATA[file_format].replace("KEY", METADATA_KEY)
        own = _OWN_MODELS if file_format == "state-dict" else ""
        programs.append((own, program + metadata.replace("FILE", repr(str(file))), str(file)))
    needed = [
        str(Path(spec.origin).parents[1])
        for name in ("onnxruntime", "google.protobuf")
        if find_spec(name.partition(".")[0]) and (spec := find_spec(name)) and spec.origin
    ]
    without_torch = all(file_format == "onnx" for file_format, _, _, _ in models)
    code = f"""
import importlib.util, json, os, sys
sys.path = [path for path in sys.path if not os.path.isdir(os.path.join(path, "worker"))]
sys.path += {needed!r}
assert not any(map(importlib.util.find_spec, ("worker", "shared", "coordinator", "tests")))
import numpy
{"" if without_torch else "import torch"}
given = dict(globals())
for own, program, file in {programs!r}:
    names = dict(given)
    exec(own, names)
    exec(compile(program, file, "exec", dont_inherit=True), names)
    for name in ("own", "own.models"):
        sys.modules.pop(name, None)
    logits, said = names["logits"], names["said"]
    numpy.save(file + ".logits.npy", logits if {without_torch} else logits.detach().numpy())
    print(json.dumps(json.loads(said)))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        cwd=models[0][1].parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = map(json.loads, done.stdout.splitlines())
    logits = [np.load(f"{file}.logits.npy") for _, file, _, _ in models]
    return list(zip(logits, said, strict=True))


@pytest.mark.parametrize(
    "file_formats",
    [("state-dict", "torchscript", "pt2"), pytest.param(("onnx",), marks=_needs_onnx)],
    ids=" ".join,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_another_process_that_does_what_is_printed_gets_the_same_logits(
    file_formats: tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny_model()
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(9))
    written = []
    for file_format in file_formats:
        file = tmp_path / f"{file_format}-model"
        file.write_bytes(encode(model, DESCRIPTION, file_format))
        loading = loading_code(model, DESCRIPTION, file_format, file)
        written.append((file_format, file, loading, images.numpy()))
    for logits, said in run_elsewhere(written):
        np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-5, atol=1e-5)
        assert Description.model_validate(said) == DESCRIPTION


_BUILT_IN = [("hyperfl", "cnn-mnist"), ("hyperfl-lpm", "vit:test_vit"), ("hyperfl-lpm", "resnet18")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_format", "others"),
    [
        (
            "state-dict",
            [
                ("fedavg", "cnn-cifar"),
                ("fedavg-fixed", "resnet18"),
                ("fedavg-adapter", "resnet:test_resnet"),
            ],
        ),
        ("torchscript", []),
        pytest.param("onnx", [], marks=_needs_onnx),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_models_that_a_federation_names_give_the_same_logits_elsewhere(
    file_format: str, others: list[tuple[str, str]], tmp_path: Path
) -> None:
    written, expected = [], []
    for index, (method, model) in enumerate([*_BUILT_IN, *others]):
        exported, description = built_in_model(method, model)
        file = tmp_path / f"model-{index}"
        file.write_bytes(encode(exported, description, file_format))
        generator = torch.Generator().manual_seed(9)
        images = torch.rand(3, *description.image_shape, generator=generator)
        loading = loading_code(exported, description, file_format, file)
        written.append((file_format, file, loading, images.numpy()))
        expected.append((exported(images).numpy(), description))
    found = run_elsewhere(written)
    for (logits, said), (same, description) in zip(found, expected, strict=True):
        np.testing.assert_allclose(logits, same, rtol=1e-4, atol=1e-4)
        assert Description.model_validate(said) == description


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
    method = HyperFL(tiny_plan("tiny_with_dropout"), torch.device("cpu"), RESOURCES)
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
        (_Frozen(), "torchscript", "gives wrong logits for other inputs"),
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
