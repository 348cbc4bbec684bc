"""From an image that Pillow has opened to pixels: folder datasets and uploads are read alike.

Grey, colour or neither is told by Pillow's mode. Of 16 bits the upper eight are kept; of
transparency nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

from embedder.types import Pixels

GREY = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N"})
COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "RGBX"})
"""Modes of pixels that eight bits can hold."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def channels_of(image: Image.Image) -> int:
    """1 for grey, 3 for colour; reads no pixel.

    Raises ValueError for pixels that eight bits cannot hold.
    """
    if image.mode not in GREY | COLOUR:
        raise ValueError(f"pixels of mode {image.mode}; convert it to 8 bits, grey or RGB")
    return 1 if image.mode in GREY else 3


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; itself where there is nothing to turn."""
    image.load()  # what follows the pixels in a file may hold the orientation
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def plain(image: Image.Image, channels: int) -> Image.Image:
    """In mode L where ``channels`` is 1, else RGB; itself where it is. Raises ValueError."""
    mode = "L" if channels == 1 else "RGB"
    channels_of(image)
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # straight to RGB, Pillow warns of transparency
        image = image.convert("RGBA")
    return image.convert(mode)


def square(image: Image.Image, size: int, channels: int) -> Pixels:
    """The middle of the image, resized with antialiasing: uint8 (S, S, C).

    An image that already is S x S comes out as it is. Raises ValueError.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.width != image.height:  # first of all, so that a large image is converted in part
        image = image.crop((left, top, left + side, top + side))
    resized = plain(image, channels).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized, np.uint8).reshape(size, size, channels)
