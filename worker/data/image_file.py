"""One image file as a person sees it: upright, on white, in 8 bits a channel.

The rules are the same at every site and stand in docs/own-data.md. What they do not cover is
refused by name, so that no picture is taken for another.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from worker.data.dicom_file import Window, is_dicom, read_dicom
from worker.data.images import ImageShape
from worker.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {
        ".bmp",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""In lower case; a file's own may be in upper case."""
BACKGROUND = "white"
"""Behind what an image leaves transparent."""

# A file that says .png may hold any of these, and nothing that Pillow has other programs read.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_SIXTEEN_BITS_AS_INTEGERS = ("PNG", "PPM")
"""Formats whose mode I is 16 bits without a sign, whatever version of Pillow reads them."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


@contextmanager
def one_limit() -> Iterator[None]:
    """Within it, an image beyond Pillow's limit is an error and not a warning on some of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(path: Path, image_shape: ImageShape, dicom_window: Window | None = None) -> torch.Tensor:
    """The image at the model's shape.

    Args:
        path: of the file.
        image_shape: (C, H, W), C 1 (grey, by ITU-R BT.601 luma) or 3 (RGB).
        dicom_window: of DICOM files, in place of their own.

    Returns:
        uint8, (C, H, W); resized bilinearly with antialiasing, whatever that does to its aspect.

    Raises:
        DataError: it cannot be read, has several pages or frames, or values of no known range.
    """
    converted, _ = read(path, image_shape[0], dicom_window)
    return fit(converted, image_shape)


def fit(converted: Image.Image, image_shape: ImageShape) -> torch.Tensor:
    """An image of mode L (1 channel) or RGB (3) at the model's shape, as `decode` has it."""
    channels, height, width = image_shape
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(converted, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read(path: Path, channels: int, dicom_window: Window | None = None) -> tuple[Image.Image, str]:
    """The image in Pillow's mode L (1 channel) or RGB (3) at its own size, and the mode it had.

    Raises:
        DataError: as :func:`decode`.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: expected an image, found an empty file")
        if is_dicom(path):
            image, mode = read_dicom(path, dicom_window)
            return plain(path, image, channels), mode
        with Image.open(path, formats=_FORMATS) as image:
            _check_pages(path, image)
            mode = image.mode
            return plain(path, image, channels), mode
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: expected an image, cannot read it: no known format") from error
    except _ERRORS as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: expected an image, cannot read it: {said}") from error


def plain(where: Path | str, image: Image.Image, channels: int) -> Image.Image:
    """An image as a person sees it, in Pillow's mode L (1 channel) or RGB (3).

    Raises:
        DataError: it has values of no known range; ``where`` is named.
    """
    return _in_eight_bits(where, image).convert("L" if channels == 1 else "RGB")


def _check_pages(path: Path, image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    # A camera's MPO holds a second view after the picture itself.
    if pages > 1 and image.format != "MPO":
        raise DataError(f"{path}: expected one image, found {pages} pages or frames")


def _in_eight_bits(where: Path | str, image: Image.Image) -> Image.Image:
    """Upright, with nothing transparent, at most 8 bits a channel."""
    upright = ImageOps.exif_transpose(image)
    is_deep = image.mode in _DEEP_GREY or (
        image.mode == "I" and image.format in _SIXTEEN_BITS_AS_INTEGERS
    )
    if is_deep:
        return _from_sixteen_bits(upright, white_is_zero=_is_white_zero(image))
    if image.mode.startswith(("I", "F")):
        # Nothing says which of these values are black and white.
        raise DataError(
            f"{where}: expected 8 or 16 bits a channel, found Pillow's mode {image.mode}"
            + (f" in a {image.format}" if image.format else "")
        )
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        visible = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", visible.size, BACKGROUND), visible)
    return upright


def _is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF says that 0 is white, which Pillow heeds for 8 bits alone."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    )


def _from_sixteen_bits(image: Image.Image, *, white_is_zero: bool) -> Image.Image:
    """Grey of 16 bits, 0..65535, as 0..255, rounded; nothing is clipped or stretched."""
    values = np.asarray(image).astype(np.uint32)
    if white_is_zero:
        values = 65535 - values
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
