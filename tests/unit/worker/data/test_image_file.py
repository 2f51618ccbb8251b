"""Each kind of image file becomes what a person sees of it, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from worker.data.image_file import IMAGE_SUFFIXES, decode, one_limit
from worker.errors import DataError

DARK, LIGHT = 10, 240


def half(first: Any, second: Any, mode: str) -> Image.Image:
    """Left half and right half, 8 pixels each way."""
    image = Image.new(mode, (16, 8), first)
    image.paste(second, (8, 0, 16, 8))
    return image


def grey_halves(file: Path) -> list[int]:
    """The middle of both halves, as grey."""
    pixels = decode(file, (1, 8, 16))
    return [int(pixels[0, 4, 4]), int(pixels[0, 4, 12])]


def colour_halves(file: Path) -> list[list[int]]:
    pixels = decode(file, (3, 8, 16))
    return [pixels[:, 4, 4].tolist(), pixels[:, 4, 12].tolist()]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_read_in_upper_case_too(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"image{suffix.upper()}"
    half(DARK, LIGHT, "L").save(file)
    dark, light = grey_halves(file)
    assert abs(dark - DARK) < 4
    assert abs(light - LIGHT) < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.T),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(
    tmp_path: Path, suffix: str, orientation: int, turn: Callable[[Any], Any]
) -> None:
    stored = np.zeros((16, 16), np.uint8)
    stored[:8, :8], stored[:8, 8:] = 250, 120
    file = tmp_path / f"photo{suffix}"
    if suffix == ".tif":
        Image.fromarray(stored).save(file, tiffinfo={0x112: orientation})
    else:
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(stored).save(
            file, exif=exif, **({"lossless": True} if suffix == ".webp" else {})
        )
    seen = decode(file, (1, 16, 16))[0].numpy().astype(int)
    assert np.abs(seen - turn(stored)).max() < 8


@pytest.mark.parametrize("bytes_order", ["I;16", "I;16B"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_sixteen_bits_is_scaled_and_not_clipped(
    tmp_path: Path, suffix: str, bytes_order: str
) -> None:
    values = np.full((8, 16), 40000, np.uint16)
    values[:, 8:] = 300
    kind = ">u2" if bytes_order == "I;16B" else "<u2"
    image = Image.frombytes(bytes_order, (16, 8), values.astype(kind).tobytes())
    image.save(tmp_path / f"deep{suffix}")
    assert grey_halves(tmp_path / f"deep{suffix}") == [156, 1]
    assert colour_halves(tmp_path / f"deep{suffix}") == [[156] * 3, [1] * 3]


def test_a_pgm_of_sixteen_bits_is_scaled(tmp_path: Path) -> None:
    values = np.full((8, 16), 40000, np.uint16)
    values[:, 8:] = 300
    header = b"P5\n16 8\n65535\n"
    (tmp_path / "deep.pgm").write_bytes(header + values.astype(">u2").tobytes())
    assert grey_halves(tmp_path / "deep.pgm") == [156, 1]


def test_a_tiff_whose_zero_is_white_is_inverted_in_sixteen_bits_too(tmp_path: Path) -> None:
    values = np.full((8, 16), 65535, np.uint16)
    values[:, 8:] = 0
    Image.fromarray(values).save(tmp_path / "deep.tif", tiffinfo={262: 0})
    assert grey_halves(tmp_path / "deep.tif") == [0, 255]


def test_grey_of_sixteen_bits_is_turned_upright(tmp_path: Path) -> None:
    values = np.zeros((8, 16), np.uint16)
    values[:, 8:] = 65535
    Image.fromarray(values).save(tmp_path / "deep.tif", tiffinfo={0x112: 3})
    assert grey_halves(tmp_path / "deep.tif") == [255, 0]


@pytest.mark.parametrize("value", [1, 70000])
def test_integers_of_no_known_range_are_refused(tmp_path: Path, value: int) -> None:
    file = tmp_path / "wide.tif"
    Image.fromarray(np.full((4, 4), value, np.int32)).save(file)
    with pytest.raises(DataError, match=r"wide\.tif: expected 8 or 16 bits .* mode I in a TIFF$"):
        decode(file, (1, 4, 4))


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: expected 8 or 16 bits .* mode F"):
        decode(tmp_path / "float.tif", (1, 4, 4))


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    half((200, 30, 30), (10, 20, 220), "RGB").quantize(2).save(tmp_path / "p.png")
    assert colour_halves(tmp_path / "p.png") == [[200, 30, 30], [10, 20, 220]]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_gives_its_colours(tmp_path: Path, suffix: str) -> None:
    half((0, 255, 255, 0), (0, 0, 0, 255), "CMYK").save(tmp_path / f"c{suffix}")
    red, black = colour_halves(tmp_path / f"c{suffix}")
    assert np.abs(np.array([red, black]) - [[255, 0, 0], [0, 0, 0]]).max() < 6


def test_black_and_white_is_black_and_white(tmp_path: Path) -> None:
    half(0, 1, "1").save(tmp_path / "b.png")
    assert grey_halves(tmp_path / "b.png") == [0, 255]


@pytest.mark.parametrize(
    ("mode", "seen", "unseen", "options"),
    [
        ("RGBA", (DARK, DARK, DARK, 255), (DARK, DARK, DARK, 0), {}),
        ("LA", (DARK, 255), (DARK, 0), {}),
        ("RGB", (DARK, DARK, DARK), (0, 255, 0), {"transparency": (0, 255, 0)}),
        ("L", DARK, 99, {"transparency": 99}),
    ],
)
def test_what_is_transparent_is_white(
    tmp_path: Path, mode: str, seen: Any, unseen: Any, options: dict[str, Any]
) -> None:
    half(seen, unseen, mode).save(tmp_path / "t.png", **options)
    assert grey_halves(tmp_path / "t.png") == [DARK, 255]
    assert colour_halves(tmp_path / "t.png") == [[DARK] * 3, [255] * 3]


def test_what_is_half_transparent_is_mixed_with_white(tmp_path: Path) -> None:
    half((0, 0, 0, 128), (0, 0, 0, 255), "RGBA").save(tmp_path / "t.webp", lossless=True)
    assert grey_halves(tmp_path / "t.webp") == [127, 0]


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = half(0, 1, "P")
    image.putpalette([DARK, DARK, DARK, 0, 255, 0])
    image.save(tmp_path / "t.gif", transparency=1)
    assert grey_halves(tmp_path / "t.gif") == [DARK, 255]


def test_a_transparent_grey_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    values = np.full((8, 16), 2570, np.uint16)
    values[:, 8:] = 7
    Image.fromarray(values).save(tmp_path / "t.png", transparency=7)
    assert grey_halves(tmp_path / "t.png") == [10, 255]


@pytest.mark.parametrize(("suffix", "pages"), [(".tif", 3), (".gif", 2), (".webp", 2)])
def test_several_pages_or_frames_are_refused(tmp_path: Path, suffix: str, pages: int) -> None:
    file = tmp_path / f"stack{suffix}"
    more = [Image.new("L", (8, 8), 50 * number) for number in range(1, pages)]
    Image.new("L", (8, 8)).save(file, save_all=True, append_images=more)
    with pytest.raises(DataError, match=rf"{file.name}: expected one image, found {pages} pages"):
        decode(file, (1, 8, 8))


def test_a_cameras_second_view_is_no_second_page(tmp_path: Path) -> None:
    file = tmp_path / "camera.jpg"
    more = [Image.new("RGB", (16, 8), (255, 0, 0))]
    half(DARK, LIGHT, "L").convert("RGB").save(
        file, format="MPO", save_all=True, append_images=more
    )
    dark, light = grey_halves(file)
    assert abs(dark - DARK) < 4
    assert abs(light - LIGHT) < 4


def test_a_suffix_may_be_another_formats(tmp_path: Path) -> None:
    half(DARK, LIGHT, "L").save(tmp_path / "really.png", format="BMP")
    assert grey_halves(tmp_path / "really.png") == [DARK, LIGHT]


def test_what_other_programs_would_read_is_not_read(tmp_path: Path) -> None:
    half(DARK, LIGHT, "L").save(tmp_path / "really.png", format="EPS")
    with pytest.raises(DataError, match=r"really\.png: expected an image, cannot read it: "):
        decode(tmp_path / "really.png", (1, 8, 8))


def test_an_image_beyond_pillows_limit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(DARK, LIGHT, "L").save(tmp_path / "large.png")
    for limit in (100, 50):  # a warning of Pillow's, and an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with (
            one_limit(),
            pytest.raises(DataError, match=r"large\.png: .* limit of \d+ pixels") as e,
        ):
            decode(tmp_path / "large.png", (1, 8, 8))
        assert "\n" not in str(e.value)


def test_grey_images_are_as_they_always_were(tmp_path: Path) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    Image.fromarray(pixels.numpy()).save(tmp_path / "g.png")
    assert torch.equal(decode(tmp_path / "g.png", (1, 16, 16))[0], pixels)
