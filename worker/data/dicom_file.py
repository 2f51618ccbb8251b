"""One DICOM file as a person sees it, in 8 bits a channel; pydicom reads it, an extra.

Stored values become what they mean (rescale slope and intercept), what the window leaves of them
(DICOM PS3.3, C.11.2), and then 0..255. What says no window, or has many frames, is refused.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.errors import DataError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
EXTRA = "pip install 'hyperfl[worker,dicom]'"
Window = tuple[float, float]
"""Centre and width, of rescaled values: Hounsfield units in a CT image."""

_MAGIC, _MAGIC_AT = b"DICM", 128
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_BEYOND = 1e9
"""Beyond what any window reaches to."""


def is_dicom(path: Path) -> bool:
    """Whether a file is one by its suffix, or without a suffix by its first bytes.

    Archives of hospitals give files such as ``IM000001``.
    """
    if path.suffix:
        return path.suffix.lower() in DICOM_SUFFIXES
    try:
        with path.open("rb") as stream:
            return stream.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def can_read_dicom() -> bool:
    """Whether the extra is installed."""
    return find_spec("pydicom") is not None


def read_dicom(path: Path, window: Window | None) -> tuple[Image.Image, str]:
    """The image in Pillow's mode L or RGB at its own size, and what it is, in words.

    Args:
        path: of the file.
        window: in place of the file's own.

    Raises:
        DataError: the extra is missing, or the file cannot be read or says too little.
    """
    if not can_read_dicom():
        raise DataError(f"{path}: DICOM needs pydicom: {EXTRA}")
    import pydicom  # noqa: PLC0415 - an extra
    import pydicom.config  # noqa: PLC0415

    # Values that break the standard stand in many files; those that matter here are checked.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        dataset = pydicom.dcmread(path)
        _check(path, dataset)
        kind = str(dataset.PhotometricInterpretation)
        stored = dataset.pixel_array
        pixels = stored if kind in _COLOURS else _grey(path, dataset, stored, window)
    except DataError:
        raise
    except Exception as error:  # whatever pydicom and its decoders make of a damaged file
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: expected DICOM, cannot read it: {said}") from error
    return Image.fromarray(pixels), f"DICOM {kind} {dataset.BitsStored} bits"


def _check(path: Path, dataset: Any) -> None:
    """Raises DataError unless it is one image of a kind that is read here."""
    if "PixelData" not in dataset:
        raise DataError(f"{path}: expected an image, found DICOM without pixels")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"{path}: expected one image, found {frames} frames")
    kind = dataset.get("PhotometricInterpretation")
    if kind not in (*_GREY, *_COLOURS):
        raise DataError(f"{path}: expected grey or colour, found DICOM of {kind}")
    if kind in _COLOURS and int(dataset.BitsStored) != 8:
        raise DataError(f"{path}: expected colour of 8 bits, found {dataset.BitsStored}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and int(dataset.Rows) * int(dataset.Columns) > limit:
        raise DataError(f"{path}: expected at most {limit} pixels")
    _check_decoder(path, dataset)


def _check_decoder(path: Path, dataset: Any) -> None:
    from pydicom.pixels import get_decoder  # noqa: PLC0415 - an extra

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DataError(f"{path}: is compressed as {syntax.name}, which is not read") from error
    if not decoder.is_available:
        needed = " or ".join(decoder.missing_dependencies)
        raise DataError(
            f"{path}: is compressed as {syntax.name}, which needs a decoder beside pydicom: "
            f"{needed}"
        )


def _grey(
    path: Path, dataset: Any, stored: npt.NDArray[Any], window: Window | None
) -> npt.NDArray[np.uint8]:
    """0..255, white is white."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing  # noqa: PLC0415

    if window is not None:
        dataset.WindowCenter, dataset.WindowWidth = window
        dataset.VOILUTFunction = "LINEAR"
    has_window = "WindowCenter" in dataset and "WindowWidth" in dataset
    if window is None and dataset.get("VOILUTSequence"):
        meant = apply_modality_lut(stored, dataset)
        shown = apply_voi(meant, dataset).astype(np.float64)
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        black, white = 0.0, float(2**bits - 1)
    elif has_window:
        meant = apply_modality_lut(stored, dataset).astype(np.float64)
        # Two values that no window reaches to are black and white, whatever the window's function.
        ends = np.array([-_BEYOND, _BEYOND])
        with np.errstate(over="ignore"):
            windowed = apply_windowing(np.concatenate([meant.ravel(), ends]), dataset)
        shown, black, white = windowed[:-2].reshape(meant.shape), windowed[-2], windowed[-1]
    elif int(dataset.BitsStored) <= 8:
        lowest = -(2 ** (int(dataset.BitsStored) - 1)) if dataset.PixelRepresentation else 0
        shown, black = stored.astype(np.float64), float(lowest)
        white = float(lowest + 2 ** int(dataset.BitsStored) - 1)
    else:
        raise DataError(
            f"{path}: has {dataset.BitsStored} bits and no window, so that nothing says which "
            "values are black and white: write dicom_window = [centre, width] in [clients.data]"
        )
    share = np.clip((shown - black) / (white - black), 0.0, 1.0)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        share = 1.0 - share
    return np.round(share * 255).astype(np.uint8)
