"""Decoding for the classifier; predictions are tested through the routes."""

from __future__ import annotations

import asyncio

import pytest

from service import classify
from service.classify import Classifier
from service.uploads import Limits
from tests.service.hostile import noise, saved


def test_what_a_great_image_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(classify, "give_back", lambda: given.append(None))
    classifier = Classifier(Limits(), lambda stage, seconds: None)
    try:
        for width, expected in ((2000, 0), (2001, 1)):
            block = saved(noise(2000, width), "PNG")
            (pixels,) = asyncio.run(classifier.decode_as(block, [(28, 1)]))
            assert pixels.shape == (28, 28, 1)
            assert len(given) == expected
    finally:
        classifier.close()
