"""The bytes of an upload to an image: what they are is told by them alone.

Nothing of a file but its pixels is kept. Whatever the bytes are, the answer is an image or a
BadUploadError, UnsupportedTypeError or TooLargeError.

A JPEG has no checksums. Where some of its bytes are wrong and what they say is still a JPEG, that
cannot be noticed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import PLANAR_CONFIGURATION, TILELENGTH, TILEWIDTH, TiffImageFile

from embedder.pictures import channels_of, plain, upright
from service import hazards
from service.errors import BadUploadError, ServiceError, TooLargeError, UnsupportedTypeError

LONGEST_SIDE = 65_535
"""Pixels; JPEG and DICOM have no longer ones. Rows cost memory of their own, however short."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}

_TIFF_COMPRESSIONS = {
    "raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "group3",
    "group4", "tiff_ccitt",
}  # fmt: skip

_RUN_LENGTHS = {1, 2}  # BMP compressions that Pillow undoes pixel by pixel, in Python

_MOST_FRAMES = 100


@dataclass(frozen=True)
class Limits:
    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000

    def check_bytes(self, count: int) -> None:
        """Raises TooLargeError."""
        if count > self.max_bytes:
            raise TooLargeError(
                f"{count:,} bytes; at most {self.max_bytes:,} are read: send a smaller image"
            )

    def check_size(self, width: int, height: int) -> None:
        """Raises TooLargeError, or BadUploadError for an image without a pixel."""
        if width <= 0 or height <= 0:
            raise BadUploadError(f"the image is {width} x {height} pixels; send one that has some")
        if width * height > self.max_pixels or max(width, height) > LONGEST_SIDE:
            raise TooLargeError(
                f"{width} x {height} pixels; at most {self.max_pixels:,} are read, "
                f"and {LONGEST_SIDE:,} on a side: send a smaller image"
            )


def decode(block: bytes, limits: Limits) -> Image.Image:
    """Upright, in mode L or RGB, loaded and without metadata.

    Takes up to about 16 bytes of memory for each pixel, apart from the upload.
    Raises BadUploadError, UnsupportedTypeError or TooLargeError.
    """
    limits.check_bytes(len(block))
    if not block:
        raise BadUploadError("the file is empty; send an image")
    kind = _kind(block)
    hazards.settle_warnings()
    try:
        if kind == "DICOM":
            return _decode_dicom(block, limits)
        return _decode(block, kind, limits)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(
            f"the {kind} has far more than {limits.max_pixels:,} pixels; send a smaller image"
        ) from error
    except Exception as error:  # of a damaged file decoders raise almost anything
        raise BadUploadError(
            f"the {kind} is damaged or cut short; save it again, or send another"
        ) from error


def _kind(block: bytes) -> str:
    if block[128:132] == b"DICM":
        return "DICOM"
    for signature, kind in _SIGNATURES.items():
        if block.startswith(signature):
            return kind
    if block.startswith(b"RIFF") and block[8:12] == b"WEBP":
        return "WebP"
    if block.startswith(b"BM") and block[15:18] == bytes(3):  # a header of up to 255 bytes
        return "BMP"
    raise UnsupportedTypeError(f"a file of an unknown kind; {kinds('and')} are read")


def reads_dicom() -> bool:
    """Whether pydicom is installed."""
    return find_spec("pydicom") is not None


def kinds(conjunction: str) -> str:
    """The kinds of files that are read here: ``PNG, JPEG, BMP, TIFF and WebP``, say."""
    *others, last = ["PNG", "JPEG", "BMP", "TIFF", "WebP"] + ["DICOM"] * reads_dicom()
    return f"{', '.join(others)} {conjunction} {last}"


def _decode_dicom(block: bytes, limits: Limits) -> Image.Image:
    if not reads_dicom():
        raise UnsupportedTypeError(
            "DICOM is not read here; send a PNG, or pip install pydicom and restart"
        )
    from service import dicom

    return dicom.decode(block, limits.check_size)


def _decode(block: bytes, kind: str, limits: Limits) -> Image.Image:
    _check_structure(block, kind, limits)
    with _open(block, kind, limits) as image:
        _refuse_frames(image, kind)
        if isinstance(image, TiffImageFile):
            _refuse_odd_tiff(image, limits)
        if kind == "BMP" and image.info["compression"] in _RUN_LENGTHS:
            raise BadUploadError("the BMP is compressed; save it without, or as a PNG")
        channels = _channels(image, kind)
        turned = upright(image)
        if kind == "JPEG" and hazards.is_cut_short(block, image):
            raise BadUploadError("the JPEG is cut short; save it again, or send another")
        picture = plain(turned, channels)
        if picture is image:
            picture = image.copy()  # without the file, and whatever its decoder still holds
    picture.info = {}
    return picture


def _check_structure(block: bytes, kind: str, limits: Limits) -> None:
    if kind == "JPEG":
        hazards.refuse_long_jpeg(block)
    elif kind == "TIFF":
        hazards.refuse_long_tags(block)
    elif kind == "WebP" and (size := hazards.webp_size(block)):
        limits.check_size(*size)
    elif kind == "PNG":
        hazards.refuse_many_chunks(block)
        with _open(block, kind, limits) as image:  # whose decoder compares no checksum of pixels
            image.verify()


def _open(block: bytes, kind: str, limits: Limits) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(block), formats=(kind,))
    limits.check_size(*image.size)
    return image


def _refuse_frames(image: ImageFile.ImageFile, kind: str) -> None:
    """A camera's JPEG with a preview at its end (MPO) is one picture."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if isinstance(image, TiffImageFile):
        frames = _count_pages(image)
    else:
        frames = f"{getattr(image, 'n_frames', 2)}"
    raise BadUploadError(f"the {kind} has {frames} frames; send one")


def _count_pages(image: TiffImageFile) -> str:
    """Not all of them: a small file may claim a great many."""
    for page in range(1, _MOST_FRAMES):
        try:
            image.seek(page)
        except EOFError:
            return f"{page}"
    return f"{_MOST_FRAMES} or more"


def _refuse_odd_tiff(image: TiffImageFile, limits: Limits) -> None:
    """Of a compression that few programs write, with too large a tile, or with pixels missing."""
    compression = image.info["compression"]
    if compression not in _TIFF_COMPRESSIONS:
        raise BadUploadError(
            f"the TIFF has compression {compression}; save it without, or with deflate"
        )
    tags = image.tag_v2
    limits.check_size(tags.get(TILEWIDTH, 1), tags.get(TILELENGTH, 1))
    planes = len(image.getbands()) if tags.get(PLANAR_CONFIGURATION) == 2 else 1
    places = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in places)
    if compression == "raw" and covered < image.width * image.height * planes:
        raise BadUploadError("the TIFF lacks some of its strips or tiles; save it again")


def _channels(image: Image.Image, kind: str) -> int:
    try:
        return channels_of(image)
    except ValueError as error:
        raise BadUploadError(f"the {kind} has {error}") from error
