from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service import hazards
from service.errors import BadUploadError
from tests.service.hostile import noise, saved


@given(width=st.integers(1, 300), height=st.integers(1, 300), lossless=st.booleans())
def test_webp_size(width: int, height: int, lossless: bool) -> None:
    image = Image.new("RGB", (width, height))
    plain, extended = (
        saved(image, "WEBP", lossless=lossless, exif=exif) for exif in (b"", b"Exif\0\0II*\0")
    )
    assert (plain[12:15], extended[12:16]) == (b"VP8", b"VP8X")
    assert hazards.webp_size(plain) == hazards.webp_size(extended) == (width, height)


def test_webp_without_a_size() -> None:
    whole = saved(noise(9, 9), "WEBP")
    assert hazards.webp_size(whole[:29]) is None
    assert hazards.webp_size(whole[:12] + b"ICCP" + whole[16:]) is None


@pytest.mark.parametrize(
    ("scans", "refused"), [(100, False), (101, True)]
)  # of which ten are those of the image
def test_scans_of_a_jpeg(scans: int, refused: bool) -> None:
    whole = saved(noise(16, 16, 3), "JPEG", progressive=True)
    assert whole.count(b"\xff\xda") == 10
    last = whole[whole.rindex(b"\xff\xda") : -2]
    block = whole[:-2] + last * (scans - 10) + whole[-2:]
    if refused:
        with pytest.raises(BadUploadError, match="more than 100 scans"):
            hazards.refuse_long_jpeg(block)
    else:
        hazards.refuse_long_jpeg(block)
        Image.open(io.BytesIO(block)).load()


def test_what_looks_like_scans_within_a_segment_or_past_the_end_is_none() -> None:
    many = b"\xff\xda" * 200
    whole = saved(noise(16, 16), "JPEG", comment=many)
    hazards.refuse_long_jpeg(whole + many)


@pytest.mark.parametrize(
    "check",
    [hazards.refuse_long_jpeg, hazards.refuse_many_chunks, hazards.refuse_long_tags,
     hazards.refuse_many_items],
)  # fmt: skip
@given(block=st.binary(min_size=4, max_size=300), start=st.sampled_from([b"II*\0", b"II+\0", b""]))
def test_checks_take_any_bytes(check: Callable[[bytes], None], block: bytes, start: bytes) -> None:
    try:
        check(start + block)
    except BadUploadError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "filling", [b"\xff", b"\0", b"\xff\xe5\0\2", b"\xff\x01", b"\xff\xd0", b"I"]
)
def test_checks_take_no_more_than_a_moment(filling: bytes) -> None:
    block = (b"\xff\xd8\xff" + filling * 5_000_000)[:5_000_000]
    begun = time.perf_counter()
    for check in (hazards.refuse_long_jpeg, hazards.refuse_many_chunks, hazards.refuse_long_tags):
        for kind in (block, b"II*\0" + block, b"II+\0" + block):
            try:
                check(kind)
            except BadUploadError:
                continue
    assert time.perf_counter() - begun < 5


def test_warnings_are_settled_anew_where_they_were_taken_away() -> None:
    hazards.settle_warnings()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        hazards.settle_warnings()
        first, second = warnings.filters[:2]
        assert (first[0], first[2]) == ("error", Image.DecompressionBombWarning)
        assert second[0] == "ignore"
        count = len(warnings.filters)
        hazards.settle_warnings()
        assert len(warnings.filters) == count
