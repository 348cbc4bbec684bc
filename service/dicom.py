"""One frame of DICOM to an image, by the extra ``[dicom]``.

Only the elements that describe pixels are taken from a file, none that names a patient. Grey goes
through the modality LUT or rescaling, then the first VOI LUT or window; without either the
darkest value is black and the brightest white.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from service import hazards
from service.errors import BadUploadError, UnsupportedTypeError

_JPEG = {JPEGBaseline8Bit, JPEG2000, JPEG2000Lossless}

_SYNTAXES = {
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, *_JPEG,
}  # fmt: skip
"""None of them is inflated whole before its size is known, as the deflated ones are."""

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}  # all made RGB by pydicom
_PALETTE = "PALETTE COLOR"

_PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
_VALUES = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
_PALETTES = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for part in ("Descriptor", "Data")  # segmented ones may grow without bounds
)
_WANTED: list[BaseTag | int] = [Tag(name) for name in (*_PIXELS, *_VALUES, *_PALETTES)]

_RLE_HEADER = 64

Numbers = NDArray[Any]
Shades = NDArray[np.float64]
"""Values, or shades from 0, black, to 1, white."""


def decode(block: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """In mode L or RGB.

    ``check_size`` is called with width and height before a pixel is decoded, and raises where
    they are too large. Raises BadUploadError, UnsupportedTypeError, and what pydicom raises.
    """
    hazards.refuse_many_items(block)
    dataset = _read(block)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise BadUploadError(f"the DICOM has {frames} frames; send one")
    if "PixelData" not in dataset:
        raise BadUploadError("the DICOM holds no pixels of up to 16 bits; send one that does")
    size = (int(dataset.Columns), int(dataset.Rows))
    check_size(*size)
    if dataset.BitsAllocated > 16:
        raise BadUploadError("the DICOM has pixels of 32 bits; convert it to 16 or 8")
    _check_frame(dataset, size)
    return Image.fromarray(_pixels(dataset))


def _read(block: bytes) -> Dataset:
    """What ``dcmread`` would read, but for deflated data, which that inflates unasked."""
    stream = io.BytesIO(block)
    stream.seek(132)
    meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=_after_meta))
    syntax = UID(meta.TransferSyntaxUID)
    if syntax not in _SYNTAXES or not get_decoder(syntax).is_available:
        name = syntax.name if syntax.is_valid else "unknown"
        raise UnsupportedTypeError(
            f"DICOM of transfer syntax {name} is not read; save it uncompressed"
        )
    dataset = read_dataset(
        stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=_WANTED
    )
    dataset.file_meta = meta
    return dataset


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _check_frame(dataset: Dataset, size: tuple[int, int]) -> None:
    """That what is compressed is as large as the DICOM says, and whole."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        plain = size[0] * size[1] * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        good = len(frame) <= 2 * plain + _RLE_HEADER
    else:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            good = image.size == size and frame.rstrip(b"\0").endswith(b"\xff\xd9")
        if syntax == JPEGBaseline8Bit:
            hazards.refuse_long_jpeg(frame)
    if not good:
        raise BadUploadError("the image in the DICOM is not as large as it says; save it again")


def _pixels(dataset: Dataset) -> NDArray[np.uint8]:
    """uint8 (H, W) or (H, W, 3)."""
    kind = dataset.PhotometricInterpretation
    if kind not in {*_GREY, *_COLOUR, _PALETTE}:
        raise BadUploadError("the DICOM is neither grey, RGB, YBR nor of a palette; convert it")
    if dataset.SamplesPerPixel != (3 if kind in _COLOUR else 1):
        raise BadUploadError(f"the DICOM has not as many samples as {kind} has; save it again")
    stored = pixel_array(dataset, allow_excess_frames=False)
    if kind in _GREY:
        with np.errstate(all="ignore"):
            return _grey(stored, dataset)
    if kind in _COLOUR:
        return _upper_bits(stored, dataset.BitsStored)
    count, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    colours = apply_color_lut(stored.clip(first, first + (count or 2**16) - 1), dataset)
    return _upper_bits(colours, 8 * colours.itemsize)


def _upper_bits(colours: Numbers, bits: int) -> NDArray[np.uint8]:
    return (colours >> max(bits - 8, 0)).astype(np.uint8)


def _grey(stored: Numbers, dataset: Dataset) -> NDArray[np.uint8]:
    """There are far fewer values than pixels: each is computed once, then looked up."""
    low, high = int(stored.min()), int(stored.max())
    places = np.subtract(stored, low, dtype=np.int32)
    values = apply_modality_lut(np.arange(low, high + 1), dataset).astype(np.float64)
    if dataset.get("VOILUTSequence"):
        shades = _look_up(values, dataset)
    elif None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        shades = _window(values, dataset)
    else:
        present = np.zeros(values.shape, np.bool_)
        present[places] = True
        present &= ~_is_padding(np.arange(low, high + 1), dataset)
        if not present.any():
            raise BadUploadError("the DICOM is nothing but padding; send another")
        shades = _stretch(values, values[present])
    if not np.isfinite(shades).all():
        raise BadUploadError("the DICOM maps its pixels to no number; save it again")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shades = 1 - shades
    return np.rint(255 * shades).astype(np.uint8)[places]


def _is_padding(stored: Numbers, dataset: Dataset) -> NDArray[np.bool_]:
    """Values that are no part of the picture; PS3.3 C.7.5.1.1.2."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    padding: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padding


def _look_up(values: Shades, dataset: Dataset) -> Shades:
    """The VOI LUT; PS3.3 C.11.2.1.1."""
    item = dataset.VOILUTSequence[0]
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        data = np.frombuffer(data, "<u2" if little else ">u2")
    entries = np.array(data, np.float64)[: count or 2**16]
    places = (values - first).clip(0, len(entries) - 1).astype(np.int64)
    shades: Shades = (entries[places] / (2**bits - 1)).clip(0, 1)
    return shades


def _window(values: Shades, dataset: Dataset) -> Shades:
    """The window; PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise BadUploadError(f"the DICOM has an unknown VOI function, {str(function)[:20]!r}")
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    if width < 0:
        raise BadUploadError("the DICOM has a window without width; save it with another")
    return ((values - center) / width + 0.5).clip(0, 1)


def _first(value: Any) -> float:
    """Of one number or several."""
    return float(value[0] if isinstance(value, MultiValue) else value)


def _stretch(values: Shades, present: Shades) -> Shades:
    low, high = present.min(), present.max()
    shades: Shades = (values - low).clip(0, high - low) / ((high - low) or 1)
    return shades
