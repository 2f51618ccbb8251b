"""Writes ``shared/federation/timm_models.json``: which of the installed timm's models adapters fit.

``python -m tests.support.timm_names`` writes it anew. No network is built: timm's functions are
asked for the class and the options that they would build one with.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm

FILE = Path(__file__).resolve().parents[2] / "shared" / "federation" / "timm_models.json"
_TRANSFORMERS = ("vision_transformer", "vision_transformer_hybrid", "deit", "beit", "eva")
_ONE_MLP_BLOCKS = ("Block", "ResPostBlock")


@contextmanager
def _unbuilt(module: Any) -> Iterator[None]:
    """timm's functions in ``module`` return (class, options) instead of a network."""
    real = module.build_model_with_cfg
    module.build_model_with_cfg = lambda cls, *_, **options: (cls, options)
    try:
        yield
    finally:
        module.build_model_with_cfg = real


def _built_with(module_name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    module = importlib.import_module(f"timm.models.{module_name}")
    # Hybrids and DeiT build theirs with the plain transformer's function.
    plain = importlib.import_module("timm.models.vision_transformer")
    builder = module if hasattr(module, "build_model_with_cfg") else plain
    with _unbuilt(builder), _unbuilt(plain):
        for name in timm.list_models(module=module_name):
            cls, options = timm.models.model_entrypoint(name)(pretrained=False)
            yield name, cls.__name__, options


def vision_transformers() -> dict[str, int]:
    """Number of blocks by name, of transformers whose blocks are attention, then one MLP."""
    found = {}
    for module_name in _TRANSFORMERS:
        for name, _, options in _built_with(module_name):
            block = options.get("block_fn")
            if block is None or block.__name__ in _ONE_MLP_BLOCKS:
                found[name] = options.get("depth", 12)
    return dict(sorted(found.items()))


def resnets() -> list[str]:
    """ResNets of four stages; pruned ones have other widths than their stages say."""
    return sorted(
        name
        for name, cls, options in _built_with("resnet")
        if cls == "ResNet" and not options.get("pruned") and not name.endswith("_pruned")
    )


def source() -> str:
    """The file's text."""
    known = {"transformer_depths": vision_transformers(), "resnets": resnets()}
    return json.dumps(known, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(source())
