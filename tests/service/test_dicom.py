from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from service import dicom as module
from service.errors import BadUploadError, UnsupportedTypeError
from service.uploads import Limits, decode
from tests.service.hostile import dicom, jpeg_with_scans, noise, saved


def shades(block: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(block, Limits()))


def refusal(block: bytes) -> str:
    with pytest.raises(BadUploadError) as caught:
        decode(block, Limits())
    return str(caught.value)


def ct(**elements: Any) -> tuple[NDArray[np.int16], bytes]:
    """A CT in 12 bits, signed, of -1000 to 1000 HU, stored with an offset of 1024."""
    units = np.linspace(-1000, 1000, 63 * 47).reshape(63, 47).round()
    stored = (units + 1024).astype(np.int16)
    rescaled = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "BitsStored": 12, "HighBit": 11}
    return units.astype(np.int16), dicom(stored, **rescaled | elements)


# The window


def test_ct_window() -> None:
    units, block = ct(WindowCenter="40", WindowWidth="400")
    # PS3.3 C.11.2.1.2.1
    expected = np.clip((units - 39.5) / 399 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(shades(block), expected.round())
    assert shades(block).min() == 0
    assert shades(block).max() == 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@given(center=st.integers(-1200, 1200), width=st.integers(2, 3000))
def test_window_is_that_of_pydicom(function: str, center: int, width: int) -> None:
    _, block = ct(WindowCenter=f"{center}", WindowWidth=f"{width}", VOILUTFunction=function)
    dataset = dcmread(io.BytesIO(block))
    with np.errstate(over="ignore"):
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = -2048 - 1024, 2047 - 1024  # what pydicom makes of black and white
    expected = (values - low) / (high - low) * 255
    assert np.abs(shades(block) - expected).max() <= 0.5 + 1e-6


def test_first_of_several_windows() -> None:
    _, several = ct(WindowCenter=["40", "-600"], WindowWidth=["400", "1500"])
    _, one = ct(WindowCenter="40", WindowWidth="400")
    np.testing.assert_array_equal(shades(several), shades(one))


def test_narrowest_window_is_a_step() -> None:
    units, block = ct(WindowCenter="40", WindowWidth="1")
    np.testing.assert_array_equal(shades(block), np.where(units > 39.5, 255, 0))


def test_monochrome_1_is_inverted() -> None:
    _, block = ct(WindowCenter="40", WindowWidth="400")
    window = {"WindowCenter": "40", "WindowWidth": "400"}
    _, inverted = ct(PhotometricInterpretation="MONOCHROME1", **window)
    difference = 255 - shades(block).astype(int) - shades(inverted)
    assert np.abs(difference).max() <= 1  # a half may be rounded either way


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": None, "WindowWidth": None}])
def test_without_a_window_the_values_fill_the_range(elements: dict[str, None]) -> None:
    units, block = ct(**elements)
    expected = (units + 1000.0) / 2000 * 255
    np.testing.assert_array_equal(shades(block), expected.round())


def test_one_value_is_black() -> None:
    assert np.unique(shades(dicom(np.full((5, 4), 900, np.uint16)))).tolist() == [0]


def test_8_bits_of_full_range_come_out_as_they_are() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(shades(dicom(pixels)), pixels)


# LUTs


def lut(entries: NDArray[Any], first: int, bits: int, vr: str = "US") -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries.tolist() if vr == "US" else entries.astype("<u2").tobytes()
    item["LUTData"].VR = vr
    return [item]


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_comes_before_the_window(vr: str) -> None:
    pixels = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    entries = np.linspace(0, 255, 600).round().astype(np.uint16)[::-1]
    window = {"WindowCenter": "9", "WindowWidth": "9"}
    block = dicom(pixels, VOILUTSequence=lut(entries, 100, 8, vr), **window)
    expected = entries[np.clip(pixels.astype(int) - 100, 0, 599)]
    np.testing.assert_array_equal(shades(block), expected)


def test_modality_lut_comes_first() -> None:
    pixels = np.array([[0, 1], [2, 3]], np.uint16)
    table = lut(np.array([10, 40, 20, 30]), 0, 16)
    table[0].ModalityLUTType = "US"
    assert shades(dicom(pixels, ModalityLUTSequence=table)).tolist() == [[0, 255], [85, 170]]


# Colour


def test_rgb_comes_out_as_it_is() -> None:
    pixels = noise(9, 7, 3)
    assert shades(dicom(pixels)).tolist() == pixels.tolist()
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes() + b"\0"
    apart = dicom(pixels, PlanarConfiguration=1, PixelData=planes)
    assert shades(apart).tolist() == pixels.tolist()


def test_ybr_becomes_rgb() -> None:
    pixels = np.full((4, 4, 3), (128, 128, 255), np.uint8)
    found = shades(dicom(pixels, PhotometricInterpretation="YBR_FULL"))
    assert found[0, 0].tolist() == [255, 37, 128]  # 128 + 1.402 * 127 is too much; - 0.714 * 127


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 256)])
def test_palette(bits: int, scale: int) -> None:
    pixels = np.array([[5, 6], [7, 200]], np.uint8)
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for number, colour in enumerate(("Red", "Green", "Blue")):
        entries = np.array([10, 20, 30, 40]) + number
        name = f"{colour}PaletteColorLookupTable"
        elements[f"{name}Descriptor"] = [4, 5, bits]
        elements[f"{name}Data"] = (entries * scale).astype(f"<u{bits // 8}").tobytes()
    found = shades(dicom(pixels, **elements)).tolist()
    assert found == [[[10, 11, 12], [20, 21, 22]], [[30, 31, 32], [40, 41, 42]]]


# Transfer syntaxes


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed(syntax: UID) -> None:
    pixels = noise(8, 8).astype(np.uint16) * 256
    pixels[0, :2] = 0, 65280
    raw = pixels.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    block = dicom(pixels, syntax=syntax, PixelData=raw)
    np.testing.assert_array_equal(shades(block), pixels // 256)


@pytest.mark.parametrize("syntax", [JPEG2000, JPEG2000Lossless])
def test_jpeg_2000(syntax: UID) -> None:
    pixels = noise(40, 30).astype(np.uint16) * 256
    pixels[0, :2] = 0, 65280
    packed = saved(pixels, "JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(
        shades(dicom(pixels, syntax=syntax, packed=packed)), pixels // 256
    )


def test_jpeg() -> None:
    pixels = noise(16, 16, 3)
    packed = saved(pixels, "JPEG", subsampling=0)
    elements = {"PhotometricInterpretation": "YBR_FULL"}
    found = shades(dicom(pixels, syntax=JPEGBaseline8Bit, packed=packed, **elements))
    expected = np.asarray(Image.open(io.BytesIO(packed)))
    assert np.abs(found.astype(int) - expected).max() <= 2


def run_lengths(pixels: NDArray[np.uint8]) -> bytes:
    """Each byte a run of its own."""
    segment = b"".join(bytes([0, value]) for value in pixels.ravel())
    return struct.pack("<16L", 1, 64, *[0] * 14) + segment


def test_run_lengths() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    block = dicom(pixels, syntax=RLELossless, packed=run_lengths(pixels))
    np.testing.assert_array_equal(shades(block), pixels)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (DeflatedExplicitVRLittleEndian, "Deflated Explicit VR Little Endian"),
        ("1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.8.1"),  # deflated frame by frame
        (JPEGLSLossless, "JPEG-LS Lossless Image Compression"),
        ("1.2.3.4", "1.2.3.4"),
        ("Somebody\nReal", "unknown"),
    ],
)
def test_other_transfer_syntaxes_are_refused_unread(syntax: str, name: str) -> None:
    element = b"UI\x14\0" + ExplicitVRLittleEndian.encode() + b"\0"
    padded = syntax.encode() + b"\0" * (len(syntax) % 2)
    whole = dicom(noise(8, 8))
    assert whole.count(element) == 1
    block = whole.replace(element, b"UI" + struct.pack("<H", len(padded)) + padded)
    with pytest.raises(UnsupportedTypeError) as caught:
        decode(block[:-60], Limits())
    expected = f"DICOM of transfer syntax {name} is not read; save it uncompressed"
    assert str(caught.value) == expected


def test_deflated_dataset_is_refused_before_it_is_inflated() -> None:
    pixels = np.zeros((6000, 6000), np.uint8)
    block = dicom(pixels, syntax=DeflatedExplicitVRLittleEndian)
    assert len(block) < 50_000
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedTypeError):
            decode(block, Limits())
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Refused


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 0}, "the image is 7 x 0 pixels; send one that has some"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0},
         "the DICOM has not as many samples as MONOCHROME2 has; save it again"),
        ({"NumberOfFrames": 3}, "the DICOM has 3 frames; send one"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"},
         "the DICOM is neither grey, RGB, YBR nor of a palette; convert it"),
        ({"WindowCenter": "1", "WindowWidth": "-3"},
         "the DICOM has a window without width; save it with another"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"},
         "the DICOM maps its pixels to no number; save it again"),
        ({"BitsAllocated": 32, "BitsStored": 32},
         "the DICOM has pixels of 32 bits; convert it to 16 or 8"),
        ({"Columns": 70}, "the DICOM is damaged or cut short; save it again, or send another"),
    ],
)  # fmt: skip
def test_message(elements: dict[str, Any], message: str) -> None:
    assert refusal(dicom(noise(9, 7), **elements)) == message


def test_more_data_than_the_one_frame_are_left_out() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    block = dicom(pixels, PixelData=pixels.tobytes() * 3)
    np.testing.assert_array_equal(shades(block), pixels)


def test_floats_are_refused() -> None:
    whole = dicom(noise(9, 7), FloatPixelData=np.zeros(63, np.float32).tobytes())
    dataset = dcmread(io.BytesIO(whole))
    del dataset.PixelData
    stream = io.BytesIO()
    dataset.save_as(stream)
    assert "holds no pixels of up to 16 bits" in refusal(stream.getvalue())


@pytest.mark.parametrize(("syntax", "kind"), [(JPEGBaseline8Bit, "JPEG"), (JPEG2000, "JPEG2000")])
def test_frame_of_another_size_or_cut_is_refused(syntax: UID, kind: str) -> None:
    pixels = noise(16, 16)
    options = {"no_jp2": True} if kind == "JPEG2000" else {}
    packed = saved(pixels, kind, **options)
    shades(dicom(pixels, syntax=syntax, packed=packed))
    larger = saved(noise(32, 32), kind, **options)
    expected = "the image in the DICOM is not as large as it says; save it again"
    assert refusal(dicom(pixels, syntax=syntax, packed=larger)) == expected
    assert refusal(dicom(pixels, syntax=syntax, packed=packed[:-40])) == expected


def test_jpeg_of_many_scans_is_refused() -> None:
    block = dicom(noise(16, 16), syntax=JPEGBaseline8Bit, packed=jpeg_with_scans(200))
    assert "more than 100 scans" in refusal(block)


def test_run_lengths_of_far_more_than_the_image_are_refused() -> None:
    packed = run_lengths(np.zeros((64, 64), np.uint8))
    block = dicom(noise(8, 8), syntax=RLELossless, packed=packed)
    assert "not as large as it says" in refusal(block)


# Patients


def test_what_names_a_patient_is_not_read() -> None:
    block = dicom(noise(9, 7), PatientID="4711", PatientComments="Somebody Real")
    assert b"Somebody^Real" in block
    dataset = module._read(block)
    assert {element.keyword for element in dataset} == {
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    }  # fmt: skip
    assert decode(block, Limits()).info == {}


PLAIN = {"RescaleIntercept": None, "WindowCenter": None, "WindowWidth": None}


def test_padding_is_no_part_of_the_contrast() -> None:
    """PS3.3 C.7.5.1.1.2: outside of the scanner's circle, say."""
    pixels = np.array([[-2000, 0], [100, 200]], np.int16)
    assert shades(dicom(pixels, **PLAIN)).tolist() == [[0, 232], [243, 255]]
    padded = dicom(pixels, **PLAIN, PixelPaddingValue=-2000)
    assert shades(padded).tolist() == [[0, 0], [128, 255]]
    wider = dicom(pixels, **PLAIN, PixelPaddingValue=-2000, PixelPaddingRangeLimit=0)
    assert shades(wider).tolist() == [[0, 0], [0, 255]]
    nothing = dicom(np.full((2, 2), -2000, np.int16), **PLAIN, PixelPaddingValue=-2000)
    assert "nothing but padding" in refusal(nothing)


def test_an_unknown_window_function() -> None:
    pixels = np.array([[0, 100], [200, 300]], np.int16)
    block = dicom(pixels, WindowCenter=100, WindowWidth=100, VOILUTFunction="CUBIC")
    assert "unknown VOI function, 'CUBIC'" in refusal(block)
