from __future__ import annotations

import io
import logging
import struct
import sys
import threading
import tracemalloc
import warnings
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from embedder.pictures import square
from service.errors import (
    BadUploadError,
    ServiceError,
    TooLargeError,
    UnsupportedTypeError,
)
from service.uploads import Limits, decode
from tests.service.hostile import NAMED, black_png, case, dicom, noise, png, saved, tiff, uploads

LIMITS = Limits()


def status(block: bytes) -> int:
    """Of the answer to an upload; what is no ServiceError is raised."""
    try:
        image = decode(block, LIMITS)
    except ServiceError as error:
        found, message = error.status, str(error)
    else:
        assert image.mode in ("L", "RGB")
        assert len(image.tobytes()) == image.width * image.height * len(image.mode)
        return 200
    assert found in (413, 415, 422)
    assert len(message.splitlines()) == 1
    return found


def refusal(block: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(ServiceError) as caught:
        decode(block, limits)
    return str(caught.value)


# Hostile uploads


@pytest.mark.parametrize("name", NAMED)
def test_named_case(name: str) -> None:
    assert status(case(name)) == NAMED[name][0]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_is_answered(seed: int) -> None:
    found = {status(block) for _, block in uploads(300, seed)}
    assert found == {200, 413, 415, 422}


def test_hostile_uploads_are_the_same_each_time() -> None:
    first, second = list(uploads(150, 5)), list(uploads(150, 5))
    assert first == second
    assert first != list(uploads(150, 6))
    assert max(len(block) for _, block in first) <= 10_500_000


@given(block=st.binary(max_size=200))
def test_bytes_of_no_kind(block: bytes) -> None:
    assert status(block) in (415, 422)


@given(place=st.integers(0, 3000), bit=st.integers(0, 7))
def test_png_with_a_changed_bit_never_shows_other_pixels(place: int, bit: int) -> None:
    whole = saved(noise(40, 40), "PNG")
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= 1 << bit
    with pytest.raises((BadUploadError, UnsupportedTypeError, TooLargeError)):
        decode(bytes(damaged), LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "DICOM"])
def test_file_cut_at_any_length_is_refused(kind: str) -> None:
    pixels = noise(20, 20, 3)
    whole = dicom(pixels) if kind == "DICOM" else saved(pixels, kind)
    assert status(whole) == 200
    for length in range(1, len(whole) - 16, 7):
        assert status(whole[:length]) in (415, 422), length


@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_cut_and_given_an_end_is_refused(colour: bool) -> None:
    whole = saved(noise(64, 64, 3) if colour else noise(64, 64), "JPEG", restart_marker_rows=2)
    for length in range(700, len(whole) - 400, 3):
        block = whole[:length].rstrip(b"\xff") + b"\xff\xd9"
        assert refusal(block) == "the JPEG is cut short; save it again, or send another"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_jpeg_is_not_taken_for_a_cut_one(options: dict[str, bool], mode: str) -> None:
    image = Image.new(mode, (61, 53), (128,) * len(mode))
    found = decode(saved(image, "JPEG", **options), LIMITS)
    assert np.unique(found).tolist() == [128]


# Messages


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "the file is empty; send an image"),
        ("GIF", "a file of an unknown kind; PNG, JPEG, BMP, TIFF, WebP and DICOM are read"),
        ("JPEG 2000", "a file of an unknown kind; PNG, JPEG, BMP, TIFF, WebP and DICOM are read"),
        ("PNG short of pixels", "the PNG is damaged or cut short; save it again, or send another"),
        ("animated PNG", "the PNG has 3 frames; send one"),
        ("animated WebP", "the WebP has 3 frames; send one"),
        ("TIFF of three pages", "the TIFF has 3 frames; send one"),
        ("TIFF of floats", "the TIFF has pixels of mode F; convert it to 8 bits, grey or RGB"),
        ("PNG of 60 megapixels", "10000 x 6000 pixels; at most 50,000,000 are read, "
         "and 65,535 on a side: send a smaller image"),
        ("PNG of 10 gigapixels", "the PNG has far more than 50,000,000 pixels; "
         "send a smaller image"),
        ("compressed BMP", "the BMP is compressed; save it without, or as a PNG"),
        ("Zstandard TIFF", "the TIFF has compression zstd; save it without, or with deflate"),
        ("TIFF without all strips", "the TIFF lacks some of its strips or tiles; save it again"),
        ("TIFF of many tiles", "the TIFF has 1000000 values of tag 324, strips or tiles perhaps; "
         "save it with fewer"),
        ("JPEG of many scans", "the JPEG has more than 100 scans or 10,000 segments; "
         "save it as a baseline JPEG without metadata"),
    ],
)  # fmt: skip
def test_message(name: str, message: str) -> None:
    assert refusal(case(name)) == message


def test_tiff_of_very_many_pages_is_not_read_through() -> None:
    pages = [Image.new("L", (1, 1))] * 150
    block = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert refusal(block) == "the TIFF has 100 or more frames; send one"


# Limits


def test_limits_are_inclusive() -> None:
    block = saved(noise(5, 4), "PNG")
    assert decode(block, Limits(len(block), 20)).size == (4, 5)
    few_bytes, few_pixels = Limits(len(block) - 1, 20), Limits(len(block), 19)
    with pytest.raises(TooLargeError, match=f"{len(block)} bytes; at most {len(block) - 1} are"):
        decode(block, few_bytes)
    with pytest.raises(TooLargeError, match="4 x 5 pixels; at most 19 are read"):
        decode(block, few_pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "DICOM"])
def test_size_is_checked_before_the_pixels_are_read(kind: str) -> None:
    pixels = noise(300, 300)
    whole = dicom(pixels) if kind == "DICOM" else saved(pixels, kind)
    with pytest.raises(TooLargeError, match="300 x 300 pixels; at most 89,999"):
        decode(whole, Limits(max_pixels=89_999))


def test_side_that_no_jpeg_has() -> None:
    assert decode(black_png(65_535, 1), LIMITS).size == (65_535, 1)
    assert status(black_png(65_536, 1)) == 413


def test_limits_of_pillow_stay_as_they_are() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for name in ("black PNG of 40 megapixels", "PNG of 10 gigapixels", "PNG short of pixels"):
        status(case(name))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before == (89478485, False)


def test_refusing_a_bomb_takes_no_memory() -> None:
    blocks = [png(60_000, 60_000, b""), tiff(60_000, 60_000), case("TIFF of many tiles")]
    tracemalloc.start()
    try:
        assert [status(block) for block in blocks] == [413, 413, 422]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


# Pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_what_is_lossless_comes_out_as_it_was(kind: str, shape: tuple[int, ...]) -> None:
    pixels, channels = noise(*shape), 3 if len(shape) == 3 else 1
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(saved(pixels, kind, **options), LIMITS)
    if kind != "WEBP":  # which knows no grey
        assert image.mode == ("L" if channels == 1 else "RGB")
    expected = pixels.reshape(28, 28, channels)
    np.testing.assert_array_equal(square(image, 28, channels), expected)


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_tiff_of_separate_planes(planes: int) -> None:
    pixels = noise(8, 8, 3)

    def built(place: int) -> bytes:
        """With 8, 8, 8 bits and the offsets of the planes at ``place``."""
        offsets = [place + 18 + 64 * plane for plane in range(planes)] + [0] * (3 - planes)
        data = struct.pack("<HHHLLL", 8, 8, 8, *offsets) + pixels.transpose(2, 0, 1).tobytes()
        strips = (273, 4, planes, place + 6 if planes > 1 else offsets[0])
        colour = ((258, 3, 3, place), (262, 3, 1, 2), (277, 3, 1, 3), (284, 3, 1, 2))
        return tiff(8, 8, data, more=(*colour, strips))

    block = built(len(built(0)) - 18 - 192)
    if planes == 3:
        np.testing.assert_array_equal(decode(block, LIMITS), pixels)
    else:
        assert refusal(block) == "the TIFF lacks some of its strips or tiles; save it again"


def test_big_tiff() -> None:
    pixels = noise(9, 7, 3)
    np.testing.assert_array_equal(decode(saved(pixels, "TIFF", big_tiff=True), LIMITS), pixels)


@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_any_shape(width: int, height: int) -> None:
    pixels = noise(height, width)
    np.testing.assert_array_equal(decode(saved(pixels, "PNG"), LIMITS), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_keep_the_upper_eight(order: str) -> None:
    deep = np.array([[0, 255, 256], [4095, 32768, 65535]], f"{order}u2")
    for kind in ("PNG", "TIFF"):
        image = decode(saved(Image.fromarray(deep), kind), LIMITS)
        assert np.asarray(image).tolist() == [[0, 0, 1], [15, 128, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = (250, 20, 20)  # left: after a turn to the right, above
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(saved(pixels, kind, exif=exif), LIMITS)
    assert image.size == (16, 32)
    assert np.asarray(image)[4, 8, 0] > 200
    assert np.asarray(image)[28, 8, 0] < 50


def test_camera_jpeg_shows_its_first_picture() -> None:
    pages = [Image.new("L", (16, 16), value) for value in (200, 10)]
    block = saved(pages[0], "MPO", save_all=True, append_images=pages[1:])
    assert np.unique(decode(block, LIMITS)).tolist() == [200]


def test_polyglot_is_what_it_begins_as() -> None:
    np.testing.assert_array_equal(decode(case("PNG and zip"), LIMITS), noise(9, 9))


def test_transparency_is_dropped() -> None:
    image = decode(saved(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG"), LIMITS)
    assert np.asarray(image).reshape(-1, 3).tolist() == [[10, 20, 30]] * 4


def test_nothing_of_the_file_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "Somebody Real"
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        image = decode(saved(noise(9, 9, 3), kind, exif=exif), LIMITS)
        assert type(image) is Image.Image
        assert image.info == {}
        assert not image.getexif()


# Silence


BROKEN = ["JPEG with broken EXIF", "PNG with broken EXIF", "WebP with broken EXIF"]


def test_pillow_does_warn_of_these() -> None:
    """Else the test below would say nothing."""
    for name in BROKEN:
        with pytest.warns(UserWarning, match="EXIF|Tag data"):
            Image.open(io.BytesIO(case(name))).getexif()
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(case("PNG of 150 megapixels")))


class Records(logging.Handler):
    """Of the root logger, where a service's own handlers are."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> Records:
        self.level_before = logging.getLogger().level
        logging.getLogger().addHandler(self)
        logging.getLogger().setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self.level_before)


@pytest.mark.parametrize("action", ["always", "error"])
def test_no_warning_is_heard_or_raised(
    action: Literal["always", "error"], capsys: pytest.CaptureFixture[str]
) -> None:
    odd = dicom(noise(9, 9), BitsStored=8, PixelData=noise(9, 9).tobytes() + bytes(40))
    with warnings.catch_warnings(record=True) as caught, Records() as records:
        warnings.simplefilter(action)
        assert [status(case(name)) for name in BROKEN] == [200, 200, 200]
        assert status(case("PNG of 150 megapixels")) == 413
        assert status(odd) == 200
    assert caught == []
    assert records.messages == []
    assert capsys.readouterr() == ("", "")


def test_threads_are_answered_alike() -> None:
    names = [
        *BROKEN,
        "PNG of 150 megapixels",
        "grey PNG",
        "DICOM",
        "TIFF with a strip past its end",
    ] * 5
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        found[number] = [status(case(name)) for name in names]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [[NAMED[name][0] for name in names]] * 8


def test_without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnsupportedTypeError, match="pip install pydicom"):
        decode(case("DICOM"), LIMITS)
    assert status(case("grey PNG")) == 200
    assert refusal(b"GIF89a") == (
        "a file of an unknown kind; PNG, JPEG, BMP, TIFF and WebP are read"
    )
