"""Uploads as nobody should send them, made anew from a seed; and some that are as they should be.

``NAMED`` are the cases with an answer of their own, ``uploads`` draws from them and from damage
done at random.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

# Building blocks


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, *before: bytes) -> bytes:
    """Grey, 8 bits; ``packed`` is its IDAT."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = [header, *before, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def black_png(width: int, height: int) -> bytes:
    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png(width, height, packed)


def bmp(width: int, height: int, data: bytes, compression: int = 0) -> bytes:
    form = "<IiiHHIIIIII"
    head = struct.pack(form, 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + head + data


def tiff(
    width: int, height: int, data: bytes = b"\x7f" * 64, *, following: int = 0,
    more: tuple[tuple[int, int, int, int], ...] = (),
) -> bytes:  # fmt: skip
    """Grey, 8 bits, one strip; ``more`` are entries: tag, kind, count, value."""
    entries = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        277: (3, 1, 1),
    }  # fmt: skip
    entries |= {tag: (kind, count, value) for tag, kind, count, value in more}
    if 324 not in entries:
        entries.setdefault(273, (4, 1, 8 + 2 + 12 * (len(entries) + 1) + 4))
    table = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + table + struct.pack("<I", following) + data


def webp_canvas(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    whole = body + saved(noise(8, 8), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def jpeg_of_size(width: int, height: int) -> bytes:
    whole = saved(noise(16, 16), "JPEG")
    place = whole.index(b"\xff\xc0")
    return whole[: place + 5] + struct.pack(">HH", height, width) + whole[place + 9 :]


def jpeg_with_scans(count: int) -> bytes:
    whole = saved(noise(16, 16), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def dicom(
    pixels: NDArray[Any], *, syntax: UID = ExplicitVRLittleEndian, frames: int | None = None,
    packed: bytes | None = None, **elements: Any,
) -> bytes:  # fmt: skip
    """A secondary capture; ``elements`` are added, or replace its own."""
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Somebody^Real"
    dataset.Rows, dataset.Columns = pixels.shape[:2] if frames is None else pixels.shape[1:3]
    colour = pixels.ndim == 3 and frames is None
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if frames is not None:
        dataset.NumberOfFrames = frames
    bits = 8 * pixels.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    plain = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset.PixelData = plain if packed is None else encapsulate([packed])
    dataset["PixelData"].VR = "OB" if packed is not None or bits == 8 else "OW"
    dataset.update(elements)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


# Cases with an answer of their own


def animated(kind: str) -> bytes:
    pages = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    return saved(pages[0], kind, save_all=True, append_images=pages[1:])


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "a" * 1000)
    return stream.getvalue()


def png_with_text(size: int) -> bytes:
    return png(
        8, 8, zlib.compress(bytes(72)), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(size)))
    )


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(noise(8, 12, 3), "JPEG", exif=exif)


def broken_exif(kind: str) -> bytes:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\0\0\0\xff\0\0"
    return saved(noise(8, 12, 3), kind, exif=exif)


def dicom_of_many_items() -> bytes:
    whole = dicom(noise(9, 7))
    place = whole.index(b"\x28\0\2\0")  # the first element of the image
    start = struct.pack("<HH2sHL", 0x28, 0x3000, b"SQ", 0, 0xFFFFFFFF)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 20_000
    return whole[:place] + start + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) + whole[place:]


def tiff_with_exif_bomb() -> bytes:
    exif = struct.pack("<HHHII", 1, 0x9000, 5, 300_000, 8) + bytes(4)
    place = len(tiff(8, 8, b"", more=((34665, 4, 1, 0),)))
    data = exif + bytes(64 + 2_400_000)
    strip = (273, 4, 1, place + len(exif))
    return tiff(8, 8, data, more=((34665, 4, 1, place), strip))


def tiff_tag_bomb() -> bytes:
    data = b"\x10\0" * 1_000_000
    tiles = ((322, 4, 1, 1), (323, 4, 1, 1), (324, 3, 1_000_000, 122))
    return tiff(1000, 1000, data, more=tiles)


def cut_jpeg_with_end() -> bytes:
    whole = saved(noise(64, 64), "JPEG")
    return whole[: len(whole) // 2].rstrip(b"\xff") + b"\xff\xd9"


NAMED: dict[str, tuple[int, Callable[[], bytes]]] = {
    "grey PNG": (200, lambda: saved(noise(28, 28), "PNG")),
    "colour PNG": (200, lambda: saved(noise(28, 28, 3), "PNG")),
    "PNG of 16 bits": (200, lambda: saved(noise(9, 9).astype(np.uint16) << 8, "PNG")),
    "PNG with alpha": (200, lambda: saved(noise(9, 9, 4), "PNG")),
    "PNG of a palette": (200, lambda: saved(Image.fromarray(noise(9, 9)).convert("P"), "PNG")),
    "PNG of 1 bit": (200, lambda: saved(Image.new("1", (9, 9), 1), "PNG")),
    "1 x 1": (200, lambda: saved(noise(1, 1), "PNG")),
    "1 x 60,000": (200, lambda: black_png(1, 60_000)),
    "JPEG": (200, lambda: saved(noise(30, 20, 3), "JPEG")),
    "grey JPEG": (200, lambda: saved(noise(30, 20), "JPEG")),
    "progressive JPEG": (200, lambda: saved(noise(30, 20, 3), "JPEG", progressive=True)),
    "CMYK JPEG": (200, lambda: saved(Image.new("CMYK", (9, 9)), "JPEG")),
    "turned JPEG": (200, lambda: with_orientation(6)),
    "JPEG with broken EXIF": (200, lambda: broken_exif("JPEG")),
    "PNG with broken EXIF": (200, lambda: broken_exif("PNG")),
    "WebP with broken EXIF": (200, lambda: broken_exif("WEBP")),
    "camera's JPEG": (200, lambda: animated("MPO")),
    "BMP": (200, lambda: saved(noise(9, 7, 3), "BMP")),
    "WebP": (200, lambda: saved(noise(9, 7, 3), "WEBP")),
    "TIFF": (200, lambda: saved(noise(9, 7, 3), "TIFF")),
    "deflated TIFF": (200, lambda: saved(noise(9, 7, 3), "TIFF", compression="tiff_adobe_deflate")),
    "LZW TIFF": (200, lambda: saved(noise(9, 7), "TIFF", compression="tiff_lzw")),
    "fax TIFF": (200, lambda: saved(Image.new("1", (9, 7)), "TIFF", compression="group4")),
    "looping TIFF": (200, lambda: tiff(8, 8, following=8)),
    "DICOM": (200, lambda: dicom(noise(9, 7))),
    "colour DICOM": (200, lambda: dicom(noise(9, 7, 3))),
    "DICOM of a JPEG": (200, lambda: dicom(
        noise(16, 16), syntax=JPEGBaseline8Bit, packed=saved(noise(16, 16), "JPEG"))),
    "PNG and zip": (200, lambda: saved(noise(9, 9), "PNG") + zipped()),
    "black PNG of 40 megapixels": (200, lambda: black_png(8000, 5000)),
    "nothing": (422, lambda: b""),
    "one byte": (415, lambda: b"\x89"),
    "zeros": (415, lambda: bytes(1000)),
    "text": (415, lambda: b"BMI 27, seen in March. Nothing of note.\n" * 9),
    "GIF": (415, lambda: saved(noise(9, 9), "GIF")),
    "SVG": (415, lambda: (
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">'
        b'<image href="http://198.51.100.1/a.png" width="9" height="9"/></svg>')),
    "HTML": (415, lambda: b"<!doctype html><img src='http://198.51.100.1/a.png'>"),
    "zip": (415, zipped),
    "PDF": (415, lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\n"),
    "ELF": (415, lambda: b"\x7fELF\x02\x01\x01" + noise(500).tobytes()),
    "ICO": (415, lambda: saved(noise(16, 16), "ICO")),
    "JPEG 2000": (415, lambda: saved(noise(16, 16), "JPEG2000")),
    "zip and PNG": (415, lambda: zipped() + saved(noise(9, 9), "PNG")),
    "deflated DICOM": (415, lambda: dicom(
        np.zeros((2000, 2000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)),
    "too many bytes": (413, lambda: saved(noise(8, 8), "PNG") + bytes(10_000_000)),
    "PNG of 60 megapixels": (413, lambda: png(10_000, 6_000, zlib.compress(bytes(9)))),
    "PNG of 150 megapixels": (413, lambda: png(15_000, 10_000, zlib.compress(bytes(9)))),
    "PNG of 10 gigapixels": (413, lambda: png(100_000, 100_000, zlib.compress(bytes(9)))),
    "1 x 50,000,000": (413, lambda: png(1, 50_000_000, zlib.compress(bytes(9)))),
    "BMP of 10 gigapixels": (413, lambda: bmp(100_000, 100_000, bytes(99))),
    "BMP of 1 x 50,000,000": (413, lambda: bmp(1, 50_000_000, bytes(99))),
    "TIFF of 10 gigapixels": (413, lambda: tiff(100_000, 100_000)),
    "TIFF of 150 megapixels": (413, lambda: tiff(15_000, 10_000)),
    "TIFF with a huge tile": (413, lambda: tiff(
        16, 16, more=((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8)))),
    "WebP of 200 megapixels": (413, lambda: webp_canvas(16_000, 12_500)),
    "WebP of 64 megapixels": (413, lambda: webp_canvas(8_000, 8_000)),
    "JPEG of 4 gigapixels": (413, lambda: jpeg_of_size(65_500, 65_500)),
    "DICOM of 4 gigapixels": (413, lambda: dicom(noise(9, 7), Rows=65_000, Columns=65_000)),
    "PNG without size": (422, lambda: png(0, 8, zlib.compress(bytes(9)))),
    "BMP without size": (422, lambda: bmp(0, 8, bytes(9))),
    "BMP of negative width": (413, lambda: bmp(-8, 8, bytes(999))),
    "compressed BMP": (422, lambda: bmp(8, 8, bytes(99), compression=1)),
    "PNG signature": (422, lambda: b"\x89PNG\r\n\x1a\n"),
    "PNG short of pixels": (422, lambda: png(8, 8, zlib.compress(bytes(20)))),
    "PNG with oversized text": (422, lambda: png_with_text(20_000_000)),
    "JPEG cut, with an end": (422, cut_jpeg_with_end),
    "JPEG of many scans": (422, lambda: jpeg_with_scans(2000)),
    "JPEG of many segments": (422, lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 20_000),
    "JPEG of ones": (422, lambda: b"\xff\xd8" + b"\xff" * 2_000_000),
    "JPEG after many ones": (422, lambda: (
        b"\xff\xd8" + b"\xff" * 20_000 + saved(noise(9, 9), "JPEG")[2:])),
    "PNG of many chunks": (422, lambda: png(
        8, 8, zlib.compress(bytes(72)), chunk(b"aaAa", b"") * 20_000)),
    "DICOM of many items": (422, dicom_of_many_items),
    "TIFF of many tiles": (422, tiff_tag_bomb),
    "TIFF with many values in its EXIF": (422, tiff_with_exif_bomb),
    "TIFF without all strips": (422, lambda: tiff(
        8, 8, more=((278, 4, 1, 4), (273, 4, 1, 8)))),
    "TIFF with a strip past its end": (422, lambda: tiff(8, 8, more=((273, 4, 1, 2**31),))),
    "TIFF with a huge strip": (422, lambda: tiff(
        8, 8, more=((279, 4, 1, 2**32 - 1), (259, 3, 1, 8)))),
    "TIFF of floats": (422, lambda: saved(noise(9, 9).astype(np.float32), "TIFF")),
    "TIFF of 32 bits": (422, lambda: saved(noise(9, 9).astype(np.int32), "TIFF")),
    "TIFF of three pages": (422, lambda: animated("TIFF")),
    "Zstandard TIFF": (422, lambda: saved(noise(9, 9), "TIFF", compression="zstd")),
    "animated PNG": (422, lambda: animated("PNG")),
    "animated WebP": (422, lambda: animated("WEBP")),
    "DICOM of two frames": (422, lambda: dicom(noise(2, 9, 7), frames=2)),
    "DICOM without end": (422, lambda: dicom(noise(90, 70))[:-500]),
    "DICOM without pixels": (422, lambda: dicom(noise(9, 7))[:400]),
    "DICOM of another size": (422, lambda: dicom(
        noise(16, 16), syntax=JPEGBaseline8Bit, packed=saved(noise(800, 800), "JPEG"))),
    "DICM alone": (422, lambda: bytes(128) + b"DICM"),
}  # fmt: skip
"""Name: HTTP status, or 200 for an image; and what makes the bytes."""


@cache
def case(name: str) -> bytes:
    return NAMED[name][1]()


# At random


def uploads(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes, the same for the same arguments: each named case once, then damaged ones."""
    names = sorted(NAMED)
    for number in range(count):
        luck = random.Random(f"{seed} {number}")
        if number < len(names):
            yield names[number], case(names[number])
        else:
            yield _damaged(luck)


def _damaged(luck: random.Random) -> tuple[str, bytes]:
    damage = luck.choice([_cut, _flipped, _spliced, _filled])
    if damage is _filled and luck.random() < 0.5:
        return "random bytes", luck.randbytes(luck.randrange(1, 3000))
    name = luck.choice([name for name in sorted(NAMED) if len(case(name)) < 100_000])
    other = case(luck.choice(["JPEG", "TIFF", "WebP", "DICOM", "animated PNG"]))
    return f"{name}, {damage.__name__[1:]}", damage(case(name), other, luck)


def _cut(block: bytes, _: bytes, luck: random.Random) -> bytes:
    return block[: luck.randrange(len(block) + 1)]


def _flipped(block: bytes, _: bytes, luck: random.Random) -> bytes:
    damaged = bytearray(block)
    for _ in range(luck.choice([1, 1, 2, 10, 100])):
        if damaged:
            place = luck.randrange(min(len(damaged), luck.choice([64, 512, 1 << 20])))
            damaged[place] ^= 1 << luck.randrange(8)
    return bytes(damaged)


def _spliced(block: bytes, other: bytes, luck: random.Random) -> bytes:
    return block[: luck.randrange(len(block) + 1)] + other[luck.randrange(len(other)) :]


def _filled(block: bytes, _: bytes, luck: random.Random) -> bytes:
    """A piece replaced by ones, zeros or noise."""
    place, length = luck.randrange(len(block) + 1), luck.choice([1, 2, 4, 8, 64])
    filling = luck.choice([bytes(length), b"\xff" * length, luck.randbytes(length)])
    return block[:place] + filling + block[place + length :]
