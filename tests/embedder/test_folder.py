from __future__ import annotations

import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from embedder.datasets import Dataset
from embedder.errors import DatasetError, UsageError
from embedder.folder import SUFFIXES, FolderSource
from embedder.types import Split, Task


def save(path: Path, pixels: NDArray[Any] | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def grey(value: int, height: int = 4, width: int = 4) -> NDArray[np.uint8]:
    return np.full((height, width), value, np.uint8)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def minimal(root: Path) -> Path:
    """Two classes, ``cat`` and ``dog``, with one grey image each in every split."""
    for split in Split:
        save(root / split / "cat" / "0.png", grey(10))
        save(root / split / "dog" / "0.png", grey(20))
    return root


def first_image(root: Path, pixels: NDArray[Any] | Image.Image, name: str, **options: Any) -> Path:
    """A folder whose first training row is the given image."""
    return save(minimal(root) / "train" / "cat" / f"+{name}", pixels, **options)


def row_0(root: Path, size: int) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = FolderSource(root, size).pick(Split.TRAIN, [0])[0]
    return image


def failure(call: Callable[[], object], named: Path) -> str:
    """The message of the DatasetError that ``call`` raises: one line that names the culprit."""
    with pytest.raises(DatasetError) as caught:
        call()
    message = str(caught.value)
    assert str(named) in message
    assert len(message.splitlines()) == 1
    return message


# What the rows are


def test_rows_are_in_order_of_class_then_file(tmp_path: Path) -> None:
    minimal(tmp_path)
    for value, place in enumerate(
        ["dog/10.png", "dog/2.png", "Zebra/b.png", "Zebra/a.png", "cat/Z.png", "cat/a.png"]
    ):
        save(tmp_path / "train" / place, grey(value))
    source = FolderSource(tmp_path, 4)
    assert source.dataset.classes == ("Zebra", "cat", "dog")
    values = np.concatenate(list(source.batches(Split.TRAIN, 3)))[:, 0, 0, 0]
    assert values.tolist() == [3, 2, 10, 4, 5, 20, 0, 1]
    assert source.labels(Split.TRAIN)[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert source.labels(Split.TRAIN).dtype == np.uint8


def test_class_that_a_split_lacks_keeps_its_number(tmp_path: Path) -> None:
    minimal(tmp_path)
    shutil.rmtree(tmp_path / "val" / "cat")
    source = FolderSource(tmp_path, 4)
    assert source.labels(Split.VAL).tolist() == [[1]]
    assert source.dataset.counts == (2, 1, 2)


@pytest.mark.parametrize(
    ("more", "task", "expected"),
    [
        ([], None, Task.BINARY),
        (["owl"], None, Task.MULTICLASS),
        (["owl"], Task.ORDINAL, Task.ORDINAL),
        ([], Task.BINARY, Task.BINARY),
    ],
)
def test_dataset(tmp_path: Path, more: list[str], task: Task | None, expected: Task) -> None:
    root = minimal(tmp_path / "pets")
    for name in more:
        save(root / "test" / name / "0.png", grey(0))
    source = FolderSource(root, 6, task)
    classes = ("cat", "dog", *more)
    counts = (2, 2, 2 + len(more))
    assert source.dataset == Dataset("pets", expected, 1, counts, classes, "unknown")
    assert source.size == 6


@given(size=st.integers(1, 8), start=st.integers(0, 7))
def test_batches_are_the_rows_from_start_on(
    seven: tuple[Path, NDArray[np.uint8]], size: int, start: int
) -> None:
    root, images = seven
    source = FolderSource(root, 5)
    batches = list(source.batches(Split.TRAIN, size, start))
    assert all(len(batch) == size for batch in batches[:-1])
    assert b"".join(batch.tobytes() for batch in batches) == images[start:].tobytes()


@given(rows=st.lists(st.integers(0, 6), max_size=9))
def test_pick_gives_rows_in_the_order_asked(
    seven: tuple[Path, NDArray[np.uint8]], rows: list[int]
) -> None:
    root, images = seven
    picked = FolderSource(root, 5).pick(Split.TRAIN, rows)
    assert picked.dtype == np.uint8
    np.testing.assert_array_equal(picked, images[rows])


def test_image_is_a_pick_of_one(seven: tuple[Path, NDArray[np.uint8]]) -> None:
    root, images = seven
    source = FolderSource(root, 5)
    for row in (6, 0, 3, 3):
        image = source.image(Split.TRAIN, row)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, images[row])


@pytest.mark.parametrize("row", [-1, 7])
def test_image_refuses_a_row_that_is_not_there(
    seven: tuple[Path, NDArray[np.uint8]], row: int
) -> None:
    with pytest.raises(DatasetError, match=f"no row {row} of train; its rows are 0 to 6"):
        FolderSource(seven[0], 5).image(Split.TRAIN, row)


def test_image_reads_no_other_file(tmp_path: Path) -> None:
    source = FolderSource(minimal(tmp_path), 4)
    (tmp_path / "train" / "dog" / "0.png").unlink()
    assert source.image(Split.TRAIN, 0).shape == (4, 4, 1)
    with pytest.raises(DatasetError, match="cannot read the image"):
        source.image(Split.TRAIN, 1)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8]]:
    root, images = tmp_path_factory.mktemp("seven"), noise(7, 5, 5, 3)
    for number, image in enumerate(images):
        save(root / "train" / "ab"[number // 4] / f"{number}.png", image)
    for split in (Split.VAL, Split.TEST):
        save(root / split / "a" / "0.png", images[0])
    save(root / "test" / "b" / "0.png", images[0])
    return root, images


# Which files count


def test_other_files_are_left_out(tmp_path: Path) -> None:
    plain = FolderSource(minimal(tmp_path / "pets"), 4)
    root = minimal(tmp_path / "more" / "pets")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"\0")
    (root / "train" / "cat" / "._0.png").write_bytes(b"\0\5\x16\7 of macOS")
    (root / "train" / "list.csv").write_text("a,b")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    save(root / "train" / ".ipynb_checkpoints" / "0.png", grey(1))
    save(root / "extra" / "cat" / "0.png", grey(1))
    source = FolderSource(root, 4)
    assert source.dataset == plain.dataset
    assert source.checksum == plain.checksum


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".PNG", ".Jpg"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    first_image(tmp_path, np.full((8, 8, 3), (200, 100, 50), np.uint8), f"x{suffix}")
    assert np.abs(row_0(tmp_path, 4).astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("split", Split)
def test_missing_split(tmp_path: Path, split: Split) -> None:
    shutil.rmtree(minimal(tmp_path) / split)
    assert f"has no folder {split};" in failure(lambda: FolderSource(tmp_path, 4), tmp_path)


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    none = tmp_path / "none"
    expected = "has no folder train, val, test;"
    assert expected in failure(lambda: FolderSource(tmp_path, 4), tmp_path)
    assert expected in failure(lambda: FolderSource(none, 4), none)


def test_split_without_images(tmp_path: Path) -> None:
    for path in (minimal(tmp_path) / "val").glob("*/*"):
        path.rename(path.with_suffix(".dcm"))
    failure(lambda: FolderSource(tmp_path, 4), tmp_path / "val")


@pytest.mark.parametrize(("count", "fits"), [(0, False), (1, False), (256, True), (257, False)])
def test_number_of_classes(tmp_path: Path, count: int, fits: bool) -> None:
    for split in Split:
        (tmp_path / split).mkdir()
    for number in range(count):
        (tmp_path / "train" / f"{number:03}").mkdir()
    if fits:
        for split in Split:
            save(tmp_path / split / "255" / "0.png", grey(1))
        assert FolderSource(tmp_path, 4).labels(Split.TEST).tolist() == [[255]]
    else:
        message = failure(lambda: FolderSource(tmp_path, 4), tmp_path)
        assert f"has {count} class folders; expected 2 to 256" in message


def test_task_that_a_folder_cannot_have(tmp_path: Path) -> None:
    minimal(tmp_path)
    with pytest.raises(UsageError, match="cannot be multi-label"):
        FolderSource(tmp_path, 4, Task.MULTILABEL)
    save(tmp_path / "train" / "owl" / "0.png", grey(1))
    with pytest.raises(UsageError, match="has 3 classes; a binary task has 2"):
        FolderSource(tmp_path, 4, Task.BINARY)


def test_folder_that_the_system_refuses(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 300)
    assert "File name too long" in failure(lambda: FolderSource(root, 4), root)


# Pixels


def test_grey_files_make_a_grey_dataset(tmp_path: Path) -> None:
    source = FolderSource(minimal(tmp_path), 4)
    assert source.dataset.channels == 1
    assert next(source.batches(Split.TRAIN, 2)).shape == (2, 4, 4, 1)


def test_one_image_in_colour_makes_all_rgb(tmp_path: Path) -> None:
    minimal(tmp_path)
    save(tmp_path / "test" / "dog" / "1.png", np.full((4, 4, 3), (1, 2, 3), np.uint8))
    source = FolderSource(tmp_path, 4)
    assert source.dataset.channels == 3
    assert source.pick(Split.TRAIN, [1])[0, 0, 0].tolist() == [20, 20, 20]
    assert source.pick(Split.TEST, [2])[0, 3, 3].tolist() == [1, 2, 3]


def test_wide_image_is_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    first_image(tmp_path, pixels, "x.png")
    assert row_0(tmp_path, 4)[..., 0].tolist() == pixels[:, 1:5].tolist()


def test_tall_image_is_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(7, 5)
    first_image(tmp_path, pixels, "x.png")
    assert row_0(tmp_path, 5)[..., 0].tolist() == pixels[1:6].tolist()


def test_odd_margin_does_not_blur(tmp_path: Path) -> None:
    pixels = noise(4, 5)
    first_image(tmp_path, pixels, "x.png")
    assert row_0(tmp_path, 4)[..., 0].tolist() == pixels[:, :4].tolist()


def test_what_is_cropped_does_not_show_in_what_is_resized(tmp_path: Path) -> None:
    pixels = np.full((8, 16), 255, np.uint8)
    pixels[:, 4:12] = 10
    first_image(tmp_path, pixels, "x.png")
    assert np.unique(row_0(tmp_path, 4)).tolist() == [10]
    assert np.unique(row_0(tmp_path, 11)).tolist() == [10]


def test_resizing_down_averages(tmp_path: Path) -> None:
    board = np.indices((32, 32)).sum(axis=0).astype(np.uint8) % 2 * 255
    first_image(tmp_path, board, "x.png")
    inner = row_0(tmp_path, 8)[2:-2, 2:-2].astype(int)
    assert np.abs(inner - 128).max() <= 2


def test_resizing_up_keeps_corners(tmp_path: Path) -> None:
    first_image(tmp_path, np.array([[0, 255], [255, 0]], np.uint8), "x.png")
    found = row_0(tmp_path, 8)[..., 0]
    assert [found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]] == [0, 255, 255, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 255, 256], [4095, 32768, 40000], [65279, 65280, 65535]], np.uint16)
    first_image(tmp_path, deep, f"x.{suffix}")
    source = FolderSource(tmp_path, 3)
    assert source.dataset.channels == 1
    expected = [[0, 0, 1], [15, 128, 156], [254, 255, 255]]
    assert source.pick(Split.TRAIN, [0])[0, :, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("image", "channels", "expected"),
    [
        (Image.fromarray(np.array([[0, 1], [1, 0]], np.bool_)), 1, [[0], [255], [255], [0]]),
        (Image.new("LA", (2, 2), (7, 0)), 1, [[7]] * 4),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), 3, [[10, 20, 30]] * 4),
        (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), 3, [[0, 255, 255]] * 4),
    ],
    ids=["1 bit", "grey and alpha", "RGBA", "CMYK"],
)
def test_other_pixel_modes(
    tmp_path: Path, image: Image.Image, channels: int, expected: list[list[int]]
) -> None:
    first_image(tmp_path, image, "x.tif")
    source = FolderSource(tmp_path, 2)
    assert source.dataset.channels == channels
    assert source.pick(Split.TRAIN, [0]).reshape(4, channels).tolist() == expected


@pytest.mark.parametrize("options", [{}, {"transparency": b"\x00\x80"}, {"transparency": 1}])
def test_palette_image(tmp_path: Path, options: dict[str, Any]) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([200, 30, 40, 5, 60, 250])
    image.putdata([0, 1, 1, 0])
    first_image(tmp_path, image, "x.png", **options)
    found = row_0(tmp_path, 2).reshape(4, 3).tolist()
    assert found == [[200, 30, 40], [5, 60, 250], [5, 60, 250], [200, 30, 40]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2], [3, 4]]),
        (2, [[2, 1], [4, 3]]),
        (3, [[4, 3], [2, 1]]),
        (6, [[3, 1], [4, 2]]),
        (8, [[2, 4], [1, 3]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, expected: list[list[int]], dtype: type[np.generic]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    scale = 256 if dtype is np.uint16 else 1
    stored = (np.array([[1, 2], [3, 4]]) * scale).astype(dtype)
    first_image(tmp_path, stored, "x.png", exif=exif)
    assert row_0(tmp_path, 2)[..., 0].tolist() == expected


def test_equal_folders_give_equal_pixels(tmp_path: Path) -> None:
    first_image(tmp_path, noise(61, 47, 3), "x.jpg")
    np.testing.assert_array_equal(row_0(tmp_path, 28), row_0(tmp_path, 28))


# Damaged images


@pytest.mark.parametrize("block", [b"", b"hello\n", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_file_that_is_no_image(tmp_path: Path, block: bytes) -> None:
    path = minimal(tmp_path) / "val" / "dog" / "broken.png"
    path.write_bytes(block)
    failure(lambda: FolderSource(tmp_path, 4), path)


def test_folder_called_as_an_image(tmp_path: Path) -> None:
    path = minimal(tmp_path) / "val" / "dog" / "x.png"
    path.mkdir()
    assert "Is a directory" in failure(lambda: FolderSource(tmp_path, 4), path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_image_cut_at_any_length(tmp_path: Path, suffix: str) -> None:
    path = first_image(tmp_path, noise(20, 20, 3), f"x.{suffix}")
    whole, right = path.read_bytes(), row_0(tmp_path, 20)
    for length in range(0, len(whole) - 32, len(whole) // 60):  # the very end holds no pixels
        path.write_bytes(whole[:length])
        failure(lambda: row_0(tmp_path, 20), path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(row_0(tmp_path, 20), right)


def test_truncated_image_is_named_when_it_is_reached(tmp_path: Path) -> None:
    minimal(tmp_path)
    path = save(tmp_path / "train" / "dog" / "1.png", noise(64, 64))
    path.write_bytes(path.read_bytes()[:2000])
    source = FolderSource(tmp_path, 4)
    batches = source.batches(Split.TRAIN, 1)
    assert [next(batches)[0, 0, 0, 0], next(batches)[0, 0, 0, 0]] == [10, 20]
    failure(lambda: next(batches), path)


@given(place=st.integers(0, 2000), bit=st.integers(0, 7))
def test_png_with_a_changed_bit_never_shows_other_pixels(
    noisy: tuple[Path, Path, bytes], place: int, bit: int
) -> None:
    """A PNG has checksums of its own; the few bits outside them are of no matter."""
    root, path, whole = noisy
    pixels = slice(41, len(whole) - 16)  # between the header and the end
    place = pixels.start + place % (pixels.stop - pixels.start)
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        found = row_0(root, 20)
    except DatasetError as error:
        message = str(error)
    else:
        np.testing.assert_array_equal(found[..., 0], noise(20, 20))
        return
    assert str(path) in message


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    root = tmp_path_factory.mktemp("noisy")
    path = first_image(root, noise(20, 20), "x.png")
    return root, path, path.read_bytes()


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be a grey image of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_huge_image_is_refused_unread(tmp_path: Path, side: int) -> None:
    path = minimal(tmp_path) / "train" / "cat" / "bomb.png"
    path.write_bytes(png_of_size(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the commands do: Pillow only warns of the first
        message = failure(lambda: FolderSource(tmp_path, 4), path)
    assert "pixels" in message


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_32_bits_are_refused(tmp_path: Path, mode: str) -> None:
    path = first_image(tmp_path, Image.new(mode, (4, 4)), "x.tif")
    message = failure(lambda: FolderSource(tmp_path, 4), path)
    assert f"has pixels of mode {mode}; convert it to 8 bits, grey or RGB" in message


# Checksum


def renamed_file(root: Path) -> None:
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "1.png")


def renamed_class(root: Path) -> None:
    for split in Split:
        (root / split / "dog").rename(root / split / "wolf")


def one_more_class(root: Path) -> None:
    (root / "train" / "bear").mkdir()


def one_more_file(root: Path) -> None:
    save(root / "train" / "cat" / "9.png", grey(10))


def one_pixel(root: Path) -> None:
    pixels = grey(10)
    pixels[3, 3] = 11
    save(root / "test" / "cat" / "0.png", pixels)


def one_byte_of_metadata(root: Path) -> None:
    path = root / "test" / "cat" / "0.png"
    path.write_bytes(path.read_bytes() + b"\0")


def moved_to_other_class(root: Path) -> None:
    (root / "val" / "cat" / "0.png").rename(root / "val" / "dog" / "1.png")


def swapped_splits(root: Path) -> None:
    save(root / "val" / "cat" / "0.png", grey(30))


@pytest.mark.parametrize(
    "change",
    [
        renamed_file, renamed_class, one_more_class, one_more_file, one_pixel,
        one_byte_of_metadata, moved_to_other_class, swapped_splits,
    ],
)  # fmt: skip
def test_checksum_changes_with(tmp_path: Path, change: Callable[[Path], None]) -> None:
    before = FolderSource(minimal(tmp_path), 4).checksum
    change(tmp_path)
    assert FolderSource(tmp_path, 4).checksum != before


def test_checksum_is_that_of_the_content(tmp_path: Path) -> None:
    here, there = minimal(tmp_path / "a"), tmp_path / "b" / "c"
    shutil.copytree(here, there)
    os.utime(there / "train" / "cat" / "0.png", (0, 0))
    assert FolderSource(here, 4).checksum == FolderSource(there, 9).checksum
    assert FolderSource(here, 4).checksum.startswith("folder-1:sha256:")


def test_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"+caf\xe9.png")
    try:
        save(minimal(tmp_path) / "train" / "cat" / "a.png", grey(77)).rename(
            tmp_path / "train" / "cat" / name
        )
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    assert np.unique(row_0(tmp_path, 4)).tolist() == [77]
