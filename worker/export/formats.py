"""Writing a model in each of the formats. Every file is whole or absent."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import safetensors.torch
import torch

from worker.errors import ExportError
from worker.export.model import METADATA_KEY, AnyExportedModel, Description

_TRACING_BATCH_SIZE = 2
_TRIAL_BATCH_SIZE = 5
_TOLERANCE = 1e-4


def encode(model: AnyExportedModel, description: Description, file_format: str) -> bytes:
    """The file's content.

    Args:
        model: in evaluation mode, on the CPU.
        description: written into the file as JSON.
        file_format: one of :data:`FORMATS`.

    Raises:
        ExportError: the model's code cannot be traced, or packages are missing.
    """
    try:
        return FORMATS[file_format](model, description)
    except (ExportError, MemoryError):
        raise
    except ImportError as error:
        raise ExportError(
            f"{file_format} needs {error.name}: pip install 'hyperfl[worker,export]'"
        ) from error
    except Exception as error:  # whatever a user's own module makes of being traced
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"model {description.model} cannot be exported as {file_format}: {reason[0]}"
        ) from error


def _encode_state_dict(model: AnyExportedModel, description: Description) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors, {METADATA_KEY: description.model_dump_json()})


def _encode_torchscript(model: AnyExportedModel, description: Description) -> bytes:
    inputs = _inputs(description, _TRACING_BATCH_SIZE)
    with warnings.catch_warnings():
        # torch 2.14 deprecates torch.jit in favour of torch.export, which is the format pt2.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # What a trace takes for constant is found by the trial below, for other images.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(model, (inputs,))  # type: ignore[no-untyped-call]
        _try(traced, model, description)
        stream = io.BytesIO()
        extra = {f"{METADATA_KEY}.json": description.model_dump_json()}
        torch.jit.save(traced, stream, _extra_files=extra)
    return stream.getvalue()


def _encode_pt2(model: AnyExportedModel, description: Description) -> bytes:
    program = _export(model, description)
    _try(program.module(), model, description)
    stream = io.BytesIO()
    extra = {f"{METADATA_KEY}.json": description.model_dump_json()}
    torch.export.save(program, stream, extra_files=extra)
    return stream.getvalue()


def _encode_onnx(model: AnyExportedModel, description: Description) -> bytes:
    import onnx  # noqa: PLC0415 - an extra
    import onnxscript  # noqa: F401, PLC0415 - an extra, which the exporter needs

    exported = torch.onnx.export(
        _export(model, description),
        input_names=[description.input_name],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    if exported is None:
        raise ExportError("torch.onnx returned no program")
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {METADATA_KEY: description.model_dump_json()})
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


def _export(model: AnyExportedModel, description: Description) -> torch.export.ExportedProgram:
    inputs = _inputs(description, _TRACING_BATCH_SIZE)
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (inputs,), dynamic_shapes=({0: batch},))


def _try(
    found: Callable[[torch.Tensor], torch.Tensor], model: AnyExportedModel, description: Description
) -> None:
    """Raises ExportError unless ``found`` gives the model's logits for a batch of another size."""
    inputs = _inputs(description, _TRIAL_BATCH_SIZE)
    with torch.no_grad():
        expected, given = model(inputs), found(inputs)
    if expected.shape != given.shape or not torch.allclose(expected, given, atol=_TOLERANCE):
        raise ExportError(
            f"model {description.model} cannot be exported: "
            "the traced model gives wrong logits for other inputs"
        )


def _inputs(description: Description, batch_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch_size)
    inputs = torch.rand(batch_size, *description.input_shape, generator=generator)
    for place, feature in enumerate(description.features or ()):
        if feature.categories is not None:
            drawn = torch.randint(len(feature.categories), (batch_size,), generator=generator)
            inputs[:, place] = drawn
    if description.features is not None:
        inputs[0, 0] = torch.nan
    return inputs


FORMATS: dict[str, Callable[[AnyExportedModel, Description], bytes]] = {
    "state-dict": _encode_state_dict,
    "torchscript": _encode_torchscript,
    "pt2": _encode_pt2,
    "onnx": _encode_onnx,
}
