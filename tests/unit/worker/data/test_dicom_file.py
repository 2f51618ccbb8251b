"""DICOM files made by pydicom itself: what a radiologist sees is what the model sees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.data.folder_scan import describe, scan
from worker.data.image_file import decode, read
from worker.data.source import DataSource
from worker.errors import DataError

pydicom = pytest.importorskip("pydicom")

SHAPE = (1, 2, 4)
CT = np.array([[0, 1024, 1064, 1224], [824, 1099, 1100, 4095]], np.uint16)
"""Stored values; with an intercept of -1024 they are Hounsfield units."""
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def write(
    file: Path, pixels: np.ndarray[Any, Any], *, syntax: str = "", bits: int = 12, **fields: Any
) -> Path:
    """A file of these pixels, grey unless ``fields`` say otherwise."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        pydicom.uid.SecondaryCaptureImageStorage
    )
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    if syntax:
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(16)])
        dataset["PixelData"].VR = "OB"
    for name, value in fields.items():
        setattr(dataset, name, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)
    return file


def shown(value: float, centre: float, width: float) -> int:
    """By the formula of DICOM PS3.3, C.11.2.1.2.1."""
    share = (value - (centre - 0.5)) / (width - 1) + 0.5
    return round(255 * min(max(share, 0.0), 1.0))


def seen(file: Path, window: tuple[float, float] | None = None) -> list[list[int]]:
    found: list[list[int]] = decode(file, SHAPE, window)[0].tolist()
    return found


def test_a_files_own_window_shows_rescaled_values(tmp_path: Path) -> None:
    file = write(tmp_path / "ct.dcm", CT, WindowCenter=40, WindowWidth=400, **HU)
    expected = [[shown(int(value) - 1024, 40, 400) for value in row] for row in CT]
    assert seen(file) == expected
    assert expected[0][0] == 0
    assert expected[1][3] == 255
    assert read(file, 1)[1] == "DICOM MONOCHROME2 12 bits"


def test_the_sites_window_takes_its_place(tmp_path: Path) -> None:
    file = write(tmp_path / "ct.dcm", CT, WindowCenter=40, WindowWidth=400, **HU)
    expected = [[shown(int(value) - 1024, 100, 2000) for value in row] for row in CT]
    assert seen(file, (100.0, 2000.0)) == expected
    bare = write(tmp_path / "bare.dcm", CT, **HU)
    assert seen(bare, (100.0, 2000.0)) == expected


def test_signed_values_are_shown(tmp_path: Path) -> None:
    values = (CT.astype(np.int16) - 1024).astype(np.int16)
    file = write(tmp_path / "ct.dcm", values, bits=16, WindowCenter=40, WindowWidth=400)
    assert seen(file) == [[shown(int(value), 40, 400) for value in row] for row in values]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    fields = {"WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": "MONOCHROME1"}
    file = write(tmp_path / "xray.dcm", CT, **fields)
    assert seen(file) == [[255 - shown(int(value), 2048, 4096) for value in row] for row in CT]


def test_eight_bits_without_a_window_are_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(0, 256, 32, dtype=np.uint8).reshape(2, 4)
    assert seen(write(tmp_path / "us.dcm", pixels, bits=8)) == pixels.tolist()


def test_colour_is_read(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    file = write(tmp_path / "skin.dcm", pixels, bits=8, PhotometricInterpretation="RGB")
    assert decode(file, (3, 2, 4)).permute(1, 2, 0).tolist() == pixels.tolist()


def test_run_lengths_are_decoded(tmp_path: Path) -> None:
    file = write(tmp_path / "ct.dcm", CT, WindowCenter=40, WindowWidth=400, **HU)
    expected = seen(file)
    dataset = pydicom.dcmread(file)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(file)
    assert seen(file) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"NumberOfFrames": 2}, "expected one image, found 2 frames"),
        ({}, r"has 12 bits and no window, .* write dicom_window = \[centre, width\]"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "found DICOM of PALETTE COLOR"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "expected DICOM, cannot read it: "),
        ({"Rows": 3, "WindowCenter": 1, "WindowWidth": 9}, "expected DICOM, cannot read it: "),
        (
            {"syntax": "1.2.840.10008.1.2.4.80"},
            r"as JPEG-LS Lossless .* needs a decoder .* pyjpegls",
        ),
        ({"syntax": "1.2.840.10008.1.2.4.102"}, r"is compressed as MPEG-4 .* which is not read"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    file = write(tmp_path / "x.dcm", CT, **fields)
    with pytest.raises(DataError, match=f"^{file}: .*{said}") as caught:
        decode(file, SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 9, b""])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.dcm: expected"):
        decode(file, SHAPE)


def test_files_of_an_archive_have_no_suffix(tmp_path: Path) -> None:
    write(tmp_path / "benign" / "IM000001", CT, WindowCenter=40, WindowWidth=400)
    write(tmp_path / "benign" / "2.DCM", CT, WindowCenter=40, WindowWidth=400)
    (tmp_path / "benign" / "README").write_text("no image")
    found = scan(tmp_path)
    assert [file.name for file in found.classes["benign"]] == ["2.DCM", "IM000001"]
    assert describe(found.left_out) == "1 without suffix"


def test_without_the_extra_its_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "benign" / "IM000001", CT)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    found = scan(tmp_path)
    assert found.classes == {"benign": []}
    assert describe(found.left_out) == "1 DICOM, which needs pip install 'hyperfl[worker,dicom]'"
    with pytest.raises(DataError, match=r"IM000001: DICOM needs pydicom: pip install 'hyperfl"):
        decode(file, SHAPE)


def test_a_window_has_a_width() -> None:
    with pytest.raises(ValueError, match="greater than 1"):
        DataSource(dataset="image-folder", data_dir=Path(), dicom_window=(40.0, 0.0))
