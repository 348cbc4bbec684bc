"""What the decoding libraries would notice too late, or say where nobody should hear it.

Each check reads the structure of a file only. A file so damaged that its structure does not show
passes: the library that decodes it says so.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from service.errors import BadUploadError

_LIBRARIES = r"(PIL|pydicom)\."

_SCANS = 100
"""A progressive JPEG has about ten. Each costs a pass over the whole image, whatever its length."""

_PARTS = 10_000
"""Segments of a JPEG, chunks of a PNG or items of a DICOM: Python sees to each. Of 10 MB in the
usual pieces there are about a thousand."""

_VALUES = 200_000
"""Values of one TIFF tag; Pillow makes an object of each. Of strips there is one for a few rows."""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # but restarts and what stuffs the data
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = {0x01, 0xD8, _END_OF_IMAGE}
_FILLING = b"".join(bytes(range(255)) + bytes([0xFF, code]) for code in range(0xD0, 0xD8)) * 2

_BYTES_OR_TEXT = {1, 2, 6, 7}  # kinds of TIFF values that stay one object
_DIRECTORIES = {34665, 34853, 40965}  # tags of EXIF, GPS and interoperability, read by Pillow


def settle_warnings() -> None:
    """Silence the decoding libraries, but for Pillow's bomb warning, which becomes an error.

    What they warn of is either of no matter or followed by an exception, and may quote the file.
    ``warnings.catch_warnings`` is not for threads: it changes the filters of all. These filters
    are therefore set once, at the first call, and again only where something took them away.
    """
    if not _settled:
        for name in ("PIL", "pydicom"):  # they log what they warn of, and more
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False
    if not _settled or warnings.filters[: len(_settled)] != _settled:
        warnings.filterwarnings("ignore", module=_LIBRARIES)
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        _settled[:] = warnings.filters[:2]


_settled: list[object] = []


def refuse_long_jpeg(jpeg: bytes) -> None:
    """Raises BadUploadError for too many scans or segments, or for much that is neither."""
    scans = parts = end = 0
    for code, start, after in _markers(jpeg):
        parts += 1 if scans else 1 + start - end  # Pillow reads byte by byte what is no segment
        scans += code == _START_OF_SCAN
        end = after
        if scans > _SCANS or parts > _PARTS:
            raise BadUploadError(
                f"the JPEG has more than {_SCANS} scans or {_PARTS:,} segments; "
                "save it as a baseline JPEG without metadata"
            )
    if not scans:
        raise BadUploadError("the JPEG ends before its pixels; save it again, or send another")


def refuse_many_chunks(png: bytes) -> None:
    """Raises BadUploadError."""
    place = chunks = 8
    while place < len(png):
        place += 12 + int.from_bytes(png[place : place + 4])
        chunks += 1
        if chunks > _PARTS:
            raise BadUploadError(f"the PNG has more than {_PARTS:,} chunks; save it again")


def refuse_many_items(dicom: bytes) -> None:
    """Raises BadUploadError."""
    if max(dicom.count(b"\xfe\xff\x00\xe0"), dicom.count(b"\xff\xfe\xe0\x00")) > _PARTS:
        raise BadUploadError(f"the DICOM has more than {_PARTS:,} items; save its pixels alone")


def is_cut_short(jpeg: bytes, image: Image.Image) -> bool:
    """Whether the data of a JPEG end before the pixels do, though it has the mark of its end.

    The decoder, which says nothing, then fills up with grey. It does read on where more follow,
    and that changes nothing in an image that was complete.
    """
    corner = np.asarray(image.crop((image.width - 1, image.height - 1, *image.size)), np.int64)
    if np.abs(corner - 128).max() > 1:
        return False
    ends = [start for code, start, _ in _markers(jpeg) if code == _END_OF_IMAGE]
    if not ends:
        return True
    longer = b"".join([jpeg[: ends[0]], _FILLING, jpeg[ends[0] :]])
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as other:
        return ImageChops.difference(image, other).getbbox() is not None


def _markers(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Code, start and end of each segment that a marker begins, to the end of the first image."""
    place = 2
    while marker := _MARKER.search(jpeg, place):
        code, place = marker[1][0], marker.end()
        if code not in _WITHOUT_LENGTH:
            place += int.from_bytes(jpeg[place : place + 2])
        yield code, marker.start(), place
        if code == _END_OF_IMAGE:
            return


def refuse_long_tags(tiff: bytes) -> None:
    """Raises BadUploadError."""
    for entry in _entries(tiff):
        if entry.kind not in _BYTES_OR_TEXT and entry.values > _VALUES:
            raise BadUploadError(
                f"the TIFF has {entry.values} values of tag {entry.tag}, strips or tiles perhaps; "
                "save it with fewer"
            )


class _Entry(NamedTuple):
    tag: int
    kind: int
    values: int
    place: int


def _entries(tiff: bytes) -> Iterator[_Entry]:
    """Of the first directory and of those within it."""
    order = "<" if tiff.startswith(b"II") else ">"
    large = tiff[2] == 43  # BigTIFF, by the test that Pillow makes
    head, number = struct.Struct(order + "HQ"[large]), struct.Struct(order + "LQ"[large])
    form = struct.Struct(order + ("HHQQ" if large else "HHLL"))
    waiting, seen = [_number(tiff, 8 if large else 4, number)], set[int]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        start = place + head.size
        for at in range(start, start + _number(tiff, place, head) * form.size, form.size):
            if at + form.size > len(tiff):
                break
            entry = _Entry(*form.unpack_from(tiff, at))
            yield entry
            if entry.tag in _DIRECTORIES:
                waiting.append(entry.place)


def _number(block: bytes, place: int, form: struct.Struct) -> int:
    """0 past the end."""
    number: int = form.unpack_from(block, place)[0] if place + form.size <= len(block) else 0
    return number


def webp_size(block: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas, which Pillow has made by the time that it names its size."""
    kind, body = block[12:16], block[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(body) == 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None
