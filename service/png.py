"""Pictures as the service keeps and sends them: PNG, which loses nothing."""

from __future__ import annotations

import io

from PIL import Image

from embedder.pictures import square
from embedder.types import Pixels


def encode(pixels: Pixels) -> bytes:
    """uint8 (H, W, C), C = 1 or 3, to a PNG without metadata."""
    grey = pixels.shape[2] == 1
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(stream, "PNG")
    return stream.getvalue()


def decode(block: bytes, size: int, channels: int) -> Pixels:
    """A PNG of ours to uint8 (S, S, C)."""
    with Image.open(io.BytesIO(block), formats=("PNG",)) as image:
        return square(image, size, channels)
