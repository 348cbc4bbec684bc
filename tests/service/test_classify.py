"""Decoding for the classifier; predictions are tested through the routes."""

from __future__ import annotations

import asyncio
import weakref

import numpy as np
import pytest
from PIL import Image

from service import classify, uploads
from service.classify import Classifier
from service.uploads import Limits
from tests.service.hostile import saved


def test_what_a_great_image_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = uploads.decode
    images: list[weakref.ref[Image.Image]] = []
    given: list[bool] = []

    def watched(block: bytes, limits: Limits) -> Image.Image:
        image = decode(block, limits)
        images.append(weakref.ref(image))
        return image

    monkeypatch.setattr(uploads, "decode", watched)
    monkeypatch.setattr(classify, "give_back", lambda: given.append(images[-1]() is None))
    classifier = Classifier(Limits(), lambda stage, seconds: None)
    try:
        for width, expected in ((4000, []), (4001, [True])):
            block = saved(np.zeros((4000, width), np.uint8), "PNG")
            (pixels,) = asyncio.run(classifier.decode_as(block, [(28, 1)]))
            assert pixels.shape == (28, 28, 1)
            assert given == expected
    finally:
        classifier.close()
