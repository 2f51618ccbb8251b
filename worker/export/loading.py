"""Python code that loads an exported file, for whoever gets it: without this project."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from worker.export.model import Description, ExportedModel
from worker.export.network_source import network_source
from worker.methods.interface import PersonalModel

_OPEN = {
    "torchscript": "model = torch.jit.load({file!r})",
    "pt2": "model = torch.export.load({file!r}).module()",
}


def loading_code(
    model: ExportedModel, description: Description, file_format: str, file: Path
) -> str:
    """A program that gives ``logits`` of one image.

    For a state dict, which has only tensors, the code includes the network's classes.
    """
    size = ", ".join(map(str, description.image_shape))
    images = f"images = torch.rand(1, {size})  # {description.input}"
    if file_format == "onnx":
        lines = [
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({str(file)!r})",
            f"images = numpy.random.rand(1, {size}).astype(numpy.float32)  # {description.input}",
            '(logits,) = session.run(["logits"], {"images": images})',
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
            f"images = torch.rand(1, {size})  # pixels 0..1",
            "logits = head(extractor((images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)))",
        ]
    else:
        lines = [
            "import torch",
            _OPEN[file_format].format(file=str(file)),
            images,
            "logits = model(images)",
        ]
    return "\n".join(lines)


def _construction(head: nn.Module) -> str:
    """The expression that makes such a head."""
    if isinstance(head, nn.Sequential):
        return f"torch.nn.Sequential({', '.join(_construction(layer) for layer in head)})"
    return f"torch.nn.{head!r}"
