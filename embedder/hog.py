"""Histograms of oriented gradients: the backbone that needs no weights and no download.

N. Dalal and B. Triggs, Histograms of oriented gradients for human detection, CVPR 2005, as
scikit-image implements it.
"""

from __future__ import annotations

import numpy as np
from skimage.feature import hog

from embedder.errors import EncodingError
from embedder.types import Pixels, Vectors

CELLS = 4
"""Cells per side: a cell is a quarter of the image, so the width is the same at every size."""


class HogBackbone:
    """Gradient histograms of each image at its own size; a colour image's strongest channel."""

    def embed(self, pixels: Pixels) -> Vectors:
        return np.stack([_describe(image) for image in pixels])


def _describe(image: Pixels) -> Vectors:
    """uint8 (H, W, C) to float32 (324,)."""
    side = min(image.shape[:2]) // CELLS
    if side < 2:
        raise EncodingError(
            f"images of {image.shape[0]} px are too small for hog; use 8 px or more"
        )
    colour = image.shape[2] == 3
    square = image[: CELLS * side, : CELLS * side]
    vector: Vectors = hog(
        (square if colour else square[..., 0]) / 255.0,
        orientations=9,
        pixels_per_cell=(side, side),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
        channel_axis=-1 if colour else None,
    ).astype(np.float32)
    return vector
