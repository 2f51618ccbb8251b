"""The models of timm that adapters fit, so that a coordinator knows names without timm.

``timm_models.json`` is written by ``python -m tests.support.timm_names``; a test keeps it in step
with the installed timm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class TimmModels:
    """Names of timm's models.

    Attributes:
        transformer_depths: vision transformers, and their number of blocks, each with one MLP.
        resnets: ResNets of four stages.
    """

    transformer_depths: Mapping[str, int]
    resnets: tuple[str, ...]


@cache
def timm_models() -> TimmModels:
    """The names, read when they are first needed."""
    text = files("shared.federation").joinpath("timm_models.json").read_text(encoding="utf-8")
    known = json.loads(text)
    return TimmModels(known["transformer_depths"], tuple(known["resnets"]))
