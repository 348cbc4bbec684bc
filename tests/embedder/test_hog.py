from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import hog

from embedder.backbones import BACKBONES
from embedder.errors import EncodingError
from embedder.hog import HogBackbone
from embedder.types import Pixels


def images(size: int, channels: int) -> Pixels:
    return np.random.default_rng(size).integers(0, 256, (3, size, size, channels), np.uint8)


@pytest.mark.parametrize("size", [16, 28, 30, 64, 128, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_width_is_the_same_at_every_size(size: int, channels: int) -> None:
    vectors = HogBackbone().embed(images(size, channels))
    assert vectors.shape == (3, BACKBONES["hog"].width)
    assert vectors.dtype == np.float32


def test_a_grey_image_is_described_as_scikit_image_does() -> None:
    pixels = images(28, 1)
    expected = hog(pixels[1, :, :, 0], 9, (7, 7), (2, 2), "L2-Hys")
    np.testing.assert_allclose(HogBackbone().embed(pixels)[1], expected, rtol=1e-5, atol=1e-7)


def test_equal_channels_are_as_good_as_grey() -> None:
    grey = images(28, 1)
    colour = np.repeat(grey, 3, axis=3)
    np.testing.assert_allclose(
        HogBackbone().embed(colour), HogBackbone().embed(grey), rtol=1e-6, atol=1e-8
    )


def test_each_image_stands_for_itself() -> None:
    pixels = images(28, 1)
    alone = [HogBackbone().embed(pixels[i : i + 1])[0] for i in range(3)]
    np.testing.assert_array_equal(HogBackbone().embed(pixels), alone)


def test_an_image_too_small_for_its_cells_is_an_error() -> None:
    with pytest.raises(EncodingError, match="images of 7 px are too small for hog"):
        HogBackbone().embed(images(7, 1))
