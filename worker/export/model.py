"""What an exported file computes, and what it says of itself."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from shared.federation.features import Feature
from worker.data.dicom_file import Window
from worker.data.image_file import BACKGROUND
from worker.data.images import ImageShape
from worker.data.row_scaling import RowScaling, scale_rows
from worker.methods.interface import PersonalModel

METADATA_KEY = "hyperfl-model"
"""Of safetensors metadata and ONNX metadata properties; ``extra/KEY.json`` in .pt and .pt2."""


class Preprocessing(BaseModel):
    """How a picture becomes an exported model's input: the steps in their order."""

    model_config = ConfigDict(frozen=True)

    orientation: str = "EXIF orientation applied"
    sixteen_bits: str = "grey v * 255 / 65535, rounded"
    background: str = BACKGROUND
    """Behind what is transparent."""
    channels: str
    size: tuple[int, int]
    """Height, width; the aspect is not kept."""
    resize: str = "bilinear, averaging where it shrinks (Pillow's BILINEAR), to 8 bits a channel"
    scale: float = 1 / 255
    dicom: str = "rescaled, then the file's own window; MONOCHROME1 inverted"

    @classmethod
    def for_shape(cls, image_shape: ImageShape, dicom_window: Window | None = None) -> Self:
        """Of pictures for a model that takes (C, H, W), C 1 or 3."""
        channels, height, width = image_shape
        colours = "grey, ITU-R BT.601 luma" if channels == 1 else "RGB"
        made = cls(channels=colours, size=(height, width))
        if dicom_window is None:
            return made
        centre, spread = dicom_window
        said = f"rescaled, then the window of centre {centre:g}, width {spread:g}"
        return made.model_copy(update={"dicom": f"{said}; MONOCHROME1 inverted"})


class Description(BaseModel):
    """The metadata of an exported file: what goes in, what comes out, where it comes from."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    federation: str
    client: str
    weights_version: int
    weights_digest: str
    method: str
    model: str
    input: str
    image_shape: ImageShape
    """Channels, height, width; of a model of rows, how many inputs its features become."""
    features: tuple[Feature, ...] | None = None
    """One for each value of a row; None of a model that takes images."""
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1; or of each feature, 0 of a category."""
    std: tuple[float, ...]
    preprocessing: Preprocessing | None
    """None where the site makes the images itself: arrays, or code of its own."""
    output: str
    class_names: tuple[str, ...]
    """One per logit."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.image_shape if self.features is None else (len(self.features),)

    @property
    def input_name(self) -> str:
        """Of the model's argument."""
        return "images" if self.features is None else "rows"


class ExportedModel(nn.Module):
    """Raw images to logits: normalisation, personalised extractor, private head.

    Input: float32 images (B, C, H, W), pixels 0..1, already at the model's size and channels.
    Output: float32 logits (B, classes). The parameters are named ``module.*`` and ``head.*``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: PersonalModel, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.module = model.module
        self.head = model.head
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(-1, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, C, H, W) with pixels 0..1."""
        logits: torch.Tensor = self.head(self.module((images - self.mean) / self.std))
        return logits


class ExportedRowModel(nn.Module):
    """Raw rows of features to logits: scaling, personalised network, private head.

    Input: float32 rows (B, F), see :mod:`worker.data.row_scaling`. Output: float32 logits
    (B, classes). The parameters are named ``module.*`` and ``head.*``.
    """

    source: torch.Tensor
    category: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: PersonalModel, scaling: RowScaling) -> None:
        super().__init__()
        self.module = model.module
        self.head = model.head
        for name in ("source", "category", "mean", "std"):
            self.register_buffer(name, getattr(scaling, name), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of raw rows (B, F)."""
        inputs = scale_rows(rows, self.source, self.category, self.mean, self.std)
        logits: torch.Tensor = self.head(self.module(inputs))
        return logits


AnyExportedModel = ExportedModel | ExportedRowModel


def describe_rows(num_features: int) -> str:
    """The input contract of a model of rows in words."""
    return (
        f"float32 rows (B, {num_features}), a value for each of features: a number in the site's "
        "unit, or the place of a category among its categories, from 0; NaN where it is missing"
    )


def describe_input(image_shape: ImageShape, *, is_normalised: bool) -> str:
    """The input contract in words."""
    size = ", ".join(map(str, image_shape))
    if is_normalised:
        return f"float32 images (B, {size}), pixels 0..1"
    return f"float32 images (B, {size}), pixels 0..1, then (x - mean) / std per channel"
