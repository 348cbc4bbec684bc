from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from embedder.pictures import channels_of, plain, square, upright


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# square


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_image_of_the_size_asked_comes_out_as_it_is(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    found = square(Image.fromarray(pixels), 28, 3 if len(shape) == 3 else 1)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, pixels.reshape(28, 28, -1))


def test_grey_is_repeated_where_colour_is_asked() -> None:
    pixels = noise(9, 9)
    found = square(Image.fromarray(pixels), 9, 3)
    np.testing.assert_array_equal(found, np.repeat(pixels[..., None], 3, axis=2))


def test_colour_becomes_its_luma_where_grey_is_asked() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [77, 77, 77]]], np.uint8)
    found = square(Image.fromarray(pixels), 2, 1)
    assert found[..., 0].tolist() == [[76, 150], [29, 77]]  # 0.299, 0.587, 0.114


def test_image_of_3_to_2_is_cropped_in_the_middle_then_resized() -> None:
    pixels = noise(40, 60, 3)
    middle = Image.fromarray(pixels[:, 10:50])
    expected = np.asarray(middle.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(square(Image.fromarray(pixels), 16, 3), expected)
    tall = square(Image.fromarray(pixels.transpose(1, 0, 2)), 16, 3)
    middle = Image.fromarray(pixels.transpose(1, 0, 2)[10:50])
    np.testing.assert_array_equal(tall, middle.resize((16, 16), Image.Resampling.BICUBIC))


@given(
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    size=st.integers(1, 20),
    mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "CMYK", "P", "1", "I;16", "YCbCr"]),
    channels=st.sampled_from([1, 3]),
)
def test_cropping_before_converting_changes_nothing(
    width: int, height: int, size: int, mode: str, channels: int
) -> None:
    image = Image.fromarray(noise(height, width, 3)).convert("L" if mode in "LA1I;16" else "RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    found = square(image, size, channels)
    assert found.shape == (size, size, channels)
    np.testing.assert_array_equal(found, square(plain(image, channels), size, channels))


def test_16_bits_keep_the_upper_eight() -> None:
    deep = np.array([[0, 255], [256, 65535]], np.uint16)
    assert square(Image.fromarray(deep), 2, 1)[..., 0].tolist() == [[0, 0], [1, 255]]
    big = Image.frombytes("I;16B", (2, 2), deep.astype(">u2").tobytes())
    assert square(big, 2, 1)[..., 0].tolist() == [[0, 0], [1, 255]]


def test_one_pixel_fills_the_square() -> None:
    assert np.unique(square(Image.new("L", (1, 500), 93), 8, 1)).tolist() == [93]


# plain


@pytest.mark.parametrize("mode", ["F", "I", "LAB", "La"])
def test_pixels_that_eight_bits_cannot_hold_are_refused(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    for call in (lambda: channels_of(image), lambda: plain(image, 1), lambda: square(image, 2, 3)):
        with pytest.raises(ValueError, match=f"pixels of mode {mode}; convert it to 8 bits"):
            call()


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_channels(mode: str, channels: int) -> None:
    assert channels_of(Image.new(mode, (2, 2))) == channels


def test_what_is_plain_is_not_copied() -> None:
    grey, colour = Image.new("L", (2, 2)), Image.new("RGB", (2, 2))
    assert plain(grey, 1) is grey
    assert plain(colour, 3) is colour
    assert upright(grey) is grey


@pytest.mark.parametrize("transparency", [b"\0\x80", 0])
def test_transparent_palette_keeps_its_colours(transparency: bytes | int) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 30, 40, 5, 60, 250])
    image.putdata([0, 1])
    image.info["transparency"] = transparency
    assert np.asarray(plain(image, 3)).tolist() == [[[200, 30, 40], [5, 60, 250]]]


# upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_as_pillow_does(orientation: int) -> None:
    image = Image.fromarray(noise(3, 5, 3))
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(upright(image), ImageOps.exif_transpose(image))


def test_unknown_orientation_is_none() -> None:
    image = Image.new("L", (3, 5))
    image.getexif()[0x0112] = 9
    assert upright(image) is image
