"""Python code that loads an exported file, for whoever gets it: without this project."""

from __future__ import annotations

import inspect
from pathlib import Path

from torch import nn

from worker.data.row_scaling import RowScaling, scale_rows
from worker.export.model import AnyExportedModel, Description
from worker.export.network_source import network_source
from worker.methods.interface import PersonalModel

_OPEN = {
    "torchscript": "model = torch.jit.load({file!r})",
    "pt2": "model = torch.export.load({file!r}).module()",
}


def loading_code(
    model: AnyExportedModel, description: Description, file_format: str, file: Path
) -> str:
    """A program that gives ``logits`` of one image, or of one row.

    For a state dict, which has only tensors, the code includes the network's classes.
    """
    size, name = ", ".join(map(str, description.input_shape)), description.input_name
    drawn = "rand" if description.features is None else "zeros"
    inputs = f"{name} = torch.{drawn}(1, {size})  # {description.input}"
    if file_format == "onnx":
        lines = [
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({str(file)!r})",
            f"{name} = numpy.random.rand(1, {size}).astype(numpy.float32)  # {description.input}"
            if description.features is None
            else f"{name} = numpy.zeros((1, {size}), numpy.float32)  # {description.input}",
            f'(logits,) = session.run(["logits"], {{"{name}": {name}}})',
        ]
    elif file_format == "state-dict":
        lines = [
            network_source(PersonalModel(model.module, model.head), description),
            "import torch, safetensors.torch",
            f"tensors = safetensors.torch.load_file({str(file)!r})",
            "def part(prefix):",
            "    return {name.removeprefix(prefix): one for name, one in tensors.items()"
            " if name.startswith(prefix)}",
            'extractor.eval().load_state_dict(part("module."))',
            f"head = {_construction(model.head)}",
            'head.load_state_dict(part("head."))',
            f"mean, std = torch.tensor({list(description.mean)}), "
            f"torch.tensor({list(description.std)})",
            *_scaled(description, inputs),
        ]
    else:
        lines = [
            "import torch",
            _OPEN[file_format].format(file=str(file)),
            inputs,
            f"logits = model({name})",
        ]
    return "\n".join(lines)


def _scaled(description: Description, inputs: str) -> list[str]:
    """What a state dict leaves to whoever loads it."""
    if description.features is None:
        size = ", ".join(map(str, description.input_shape))
        return [
            f"images = torch.rand(1, {size})  # pixels 0..1",
            "logits = head(extractor((images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)))",
        ]
    scaling = RowScaling(description.features, description.mean, description.std)
    return [
        inspect.getsource(scale_rows),
        f"source = torch.tensor({scaling.source.tolist()})",
        f"category = torch.tensor({scaling.category.tolist()})",
        inputs,
        "logits = head(extractor(scale_rows(rows, source, category, mean, std)))",
    ]


def _construction(head: nn.Module) -> str:
    """The expression that makes such a head."""
    if isinstance(head, nn.Sequential):
        return f"torch.nn.Sequential({', '.join(_construction(layer) for layer in head)})"
    return f"torch.nn.{head!r}"
