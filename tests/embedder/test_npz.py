from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedder.datasets import DATASETS, Dataset
from embedder.errors import DamagedDatasetError, DatasetError
from embedder.npz import NpzSource
from embedder.types import Split, Task
from tests.commands import PEAK

Arrays = dict[str, NDArray[Any]]
NpzMaker = Callable[..., Path]

COUNTS = (12, 4, 6)
TINY = Dataset("tiny", Task.MULTICLASS, 1, COUNTS, ("a", "b", "c"), "none")


def some_arrays(counts: tuple[int, int, int] = COUNTS, shape: tuple[int, ...] = (5, 5)) -> Arrays:
    rng = np.random.default_rng(3)
    arrays: Arrays = {}
    for split, count in zip(Split, counts, strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
    return arrays


def npy_bytes(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An npy member with any header text."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + data


def write_members(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def read_all(source: NpzSource, size: int = 4) -> Arrays:
    arrays: Arrays = {}
    for split in Split:
        arrays[f"{split}_images"] = np.concatenate(list(source.batches(split, size)))
        arrays[f"{split}_labels"] = source.labels(split)
    return arrays


def assert_same(found: Arrays, expected: Arrays) -> None:
    for name, array in expected.items():
        full = array.reshape(found[name].shape)
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], full, name)


def failure(call: Callable[[], object], path: Path) -> str:
    """The message of the DatasetError that ``call`` raises: one line that names the file."""
    with pytest.raises(DatasetError) as caught:
        call()
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def assert_noticed_or_harmless(path: Path, arrays: Arrays) -> bool:
    """That reading a damaged file fails, or gives the right values; whether it failed."""
    found: Arrays = {}
    try:
        found = read_all(NpzSource(path))
    except DatasetError as caught:
        message = str(caught)
    if found:
        assert_same(found, arrays)
        return False
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return True


def data_of(path: Path, name: str) -> range:
    """Where in the file the packed bytes of one member lie."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", stream.read(4))
    start = info.header_offset + 30 + name_length + extra_length
    return range(start, start + info.compress_size)


@pytest.fixture(
    scope="module", params=["grey stored", "grey deflated", "rgb stored", "rgb deflated"]
)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Arrays]:
    arrays = some_arrays(shape=(5, 5, 3) if "rgb" in request.param else (5, 5))
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    (np.savez_compressed if "deflated" in request.param else np.savez)(path, **arrays)
    return path, arrays


@given(split=st.sampled_from(Split), size=st.integers(1, 15), start=st.integers(0, 12))
def test_batches_are_numpys_rows(
    written: tuple[Path, Arrays], split: Split, size: int, start: int
) -> None:
    path, arrays = written
    images = arrays[f"{split}_images"]
    start = min(start, len(images))
    batches = list(NpzSource(path).batches(split, size, start))
    left = len(images) - start
    assert [len(batch) for batch in batches] == [size] * (left // size) + [left % size] * (
        left % size > 0
    )
    channels = images.shape[3] if images.ndim == 4 else 1
    assert all(batch.shape[1:] == (5, 5, channels) for batch in batches)
    joined = b"".join(batch.tobytes() for batch in batches)
    assert joined == images[start:].tobytes()


@given(rows=st.lists(st.integers(0, 11), max_size=20))
def test_pick_gives_rows_in_the_order_asked(written: tuple[Path, Arrays], rows: list[int]) -> None:
    path, arrays = written
    images = arrays["train_images"].reshape(12, 5, 5, -1)
    picked = NpzSource(path).pick(Split.TRAIN, rows)
    assert picked.dtype == np.uint8
    np.testing.assert_array_equal(picked, images[rows])


def test_pick_reaches_rows_beyond_one_block(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 3), np.uint8)
    labels = np.zeros((300, 1), np.uint8)
    rest = some_arrays(shape=(3, 3))
    np.savez(tmp_path / "a.npz", **{**rest, "train_images": images, "train_labels": labels})
    source = NpzSource(tmp_path / "a.npz")
    rows = [299, 0, 64, 63, 128, 64]
    np.testing.assert_array_equal(source.pick(Split.TRAIN, rows)[..., 0], images[rows])


def test_pick_refuses_a_row_that_is_not_there(make_npz: NpzMaker) -> None:
    with pytest.raises(IndexError):
        NpzSource(make_npz()).pick(Split.VAL, [4])


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 1), (5, 5, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_image_is_a_pick_of_one_whatever_the_shape(
    tmp_path: Path, save: Callable[..., None], shape: tuple[int, ...]
) -> None:
    save(tmp_path / "a.npz", **some_arrays(shape=shape))
    source = NpzSource(tmp_path / "a.npz")
    for split in Split:
        for row in range(source.dataset.count(split)):
            image = source.image(split, row)
            assert image.dtype == np.uint8
            assert image.flags.writeable
            np.testing.assert_array_equal(image, source.pick(split, [row])[0])


@settings(max_examples=10)
@given(rows=st.lists(st.tuples(st.sampled_from(Split), st.integers(0, 39)), max_size=9))
def test_images_in_any_order_are_numpys_rows(
    large_images: tuple[NpzSource, Arrays], rows: list[tuple[Split, int]]
) -> None:
    source, arrays = large_images
    for split, row in rows:
        np.testing.assert_array_equal(source.image(split, row), arrays[f"{split}_images"][row])


@pytest.fixture(scope="module", params=["stored", "deflated", "bzip2"])
def large_images(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NpzSource, Arrays]:
    """Of 3 MB a split, so that deflated ones are read from more than one place."""
    arrays = some_arrays((40, 40, 40), (160, 160, 3))
    for split in Split:
        arrays[f"{split}_images"] //= 32
    members = {name: npy_bytes(array) for name, array in arrays.items()}
    method = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
    path = tmp_path_factory.mktemp("npz") / "large.npz"
    write_members(path, members, method.get(request.param, zipfile.ZIP_BZIP2))
    return NpzSource(path), arrays


@pytest.mark.parametrize("row", [-1, 4, 10**9])
def test_image_refuses_a_row_that_is_not_there(make_npz: NpzMaker, row: int) -> None:
    with pytest.raises(DatasetError, match=f"no row {row} of val; its rows are 0 to 3"):
        NpzSource(make_npz()).image(Split.VAL, row)


@pytest.mark.parametrize("used", [False, True])
def test_image_notices_a_file_that_was_replaced(make_npz: NpzMaker, used: bool) -> None:
    path = make_npz()
    source = NpzSource(path)
    if used:
        source.image(Split.TRAIN, 2)
    make_npz(seed=1)
    message = failure(lambda: source.image(Split.TRAIN, 2), path)
    assert "changed while it was in use" in message


def test_image_of_a_damaged_array_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **some_arrays())
    source = NpzSource(path)
    whole, inside = bytearray(path.read_bytes()), data_of(path, "val_images")
    whole[inside[0]] |= 0b110  # a kind of block that does not exist
    path.write_bytes(whole)
    with pytest.raises(DamagedDatasetError):
        source.image(Split.VAL, 0)


def test_labels_and_facts(make_npz: NpzMaker) -> None:
    path = make_npz("moles_28.npz", channels=3, classes=4)
    source = NpzSource(path)
    assert source.size == 28
    assert source.dataset == Dataset(
        "moles", Task.MULTICLASS, 3, COUNTS, ("0", "1", "2", "3"), "unknown"
    )
    with np.load(path) as file:
        for split in Split:
            np.testing.assert_array_equal(source.labels(split), file[f"{split}_labels"])


def test_labels_of_one_dimension_become_a_column(make_npz: NpzMaker) -> None:
    path = make_npz(test_labels=np.array([0, 1, 2, 2, 1, 0], np.uint8))
    labels = NpzSource(path).labels(Split.TEST)
    assert labels.shape == (6, 1)
    assert labels[:, 0].tolist() == [0, 1, 2, 2, 1, 0]


def test_single_channel_axis_is_grey(make_npz: NpzMaker) -> None:
    images = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28, 1)
    source = NpzSource(make_npz(val_images=images))
    assert source.dataset.channels == 1
    np.testing.assert_array_equal(next(source.batches(Split.VAL, 4)), images)


def test_other_arrays_do_not_matter(make_npz: NpzMaker) -> None:
    plain = NpzSource(make_npz("a.npz"))
    more = NpzSource(make_npz("b.npz", ages=np.zeros(3), notes=np.array([{}], object)))
    assert more.checksum == plain.checksum
    assert_same(read_all(more), read_all(plain))


def test_real_file_reads_as_numpy_has_it(real_data: Path) -> None:
    path = real_data / "pneumoniamnist.npz"
    source = NpzSource(path, DATASETS["pneumoniamnist"])
    with np.load(path) as file:
        assert_same(read_all(source, 1000), dict(file))


# Task


@pytest.mark.parametrize(
    ("changes", "task", "expected", "classes"),
    [
        ({"classes": 2}, None, Task.BINARY, 2),
        ({"classes": 1}, None, Task.BINARY, 2),
        ({"classes": 3}, None, Task.MULTICLASS, 3),
        ({"classes": 2, "label_count": 3}, None, Task.MULTILABEL, 3),
        ({"classes": 2}, Task.MULTILABEL, Task.MULTILABEL, 1),
        ({"classes": 3}, Task.ORDINAL, Task.ORDINAL, 3),
        ({"classes": 2}, Task.MULTICLASS, Task.MULTICLASS, 2),
    ],
)
def test_task(
    make_npz: NpzMaker, changes: dict[str, int], task: Task | None, expected: Task, classes: int
) -> None:
    dataset = NpzSource(make_npz(**changes), task=task).dataset
    assert dataset.task is expected
    assert len(dataset.classes) == classes


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"classes": 3}, Task.BINARY, "a binary task has 2 classes, the labels have 3"),
        (
            {"classes": 2, "label_count": 3}, Task.MULTICLASS,
            "train_labels has 3 columns; a multi-class task with 3 classes has 1",
        ),
        ({"classes": 3}, Task.MULTILABEL, "holds 2; labels go from 0 to 1"),
        ({"classes": 3, "label_count": 3}, None, "holds 2; labels go from 0 to 1"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_the_task(
    make_npz: NpzMaker, changes: dict[str, int], task: Task | None, message: str
) -> None:
    path = make_npz(**changes)
    assert message in failure(lambda: NpzSource(path, task=task), path)


# A known dataset


def test_file_of_a_known_dataset(make_npz: NpzMaker) -> None:
    assert NpzSource(make_npz(), TINY).dataset == TINY


def test_label_out_of_range_names_the_row(make_npz: NpzMaker) -> None:
    labels = np.array([[0], [1], [3], [7]], np.uint8)
    path = make_npz(val_labels=labels)
    assert "val_labels row 2 holds 3; labels go from 0 to 2" in failure(
        lambda: NpzSource(path, TINY), path
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": (12, 4, 7)}, "test has 7 rows; tiny has 6"),
        ({"counts": (11, 4, 6)}, "train has 11 rows; tiny has 12"),
        ({"channels": 3}, "images have 3 channels; tiny has 1"),
        ({"label_count": 2}, "train_labels has 2 columns; a multi-class task with 3 classes has 1"),
    ],
)
def test_file_of_another_dataset(make_npz: NpzMaker, changes: dict[str, Any], message: str) -> None:
    path = make_npz(**changes)
    assert message in failure(lambda: NpzSource(path, TINY), path)


# Wrong arrays


@pytest.mark.parametrize("name", [f"{s}_{part}" for s in Split for part in ("images", "labels")])
def test_missing_array(make_npz: NpzMaker, name: str) -> None:
    path = make_npz(**{name: None})
    assert f"has no array {name};" in failure(lambda: NpzSource(path), path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("val_images", np.zeros((4, 28, 28), np.int64), "val_images is int64; expected uint8"),
        ("val_images", np.zeros((4, 28, 28), np.float32), "val_images is float32; expected uint8"),
        ("val_images", np.zeros((4, 28, 28), np.bool_), "val_images is bool; expected uint8"),
        ("val_labels", np.zeros((4, 1), np.int64), "val_labels is int64; expected uint8"),
        ("val_images", np.zeros((4, 28, 27), np.uint8), "val_images has shape (4, 28, 27)"),
        ("val_images", np.zeros((4, 28, 28, 2), np.uint8), "val_images has shape (4, 28, 28, 2)"),
        ("val_images", np.zeros((4, 28, 28, 28, 1), np.uint8), "has shape (4, 28, 28, 28, 1)"),
        ("val_images", np.zeros((4, 784), np.uint8), "val_images has shape (4, 784)"),
        ("val_images", np.zeros((), np.uint8), "val_images has shape ()"),
        ("val_images", np.zeros((0, 28, 28), np.uint8), "val is empty"),
        ("val_images", np.zeros((4, 0, 0), np.uint8), "val_images has shape (4, 0, 0)"),
        ("val_images", np.zeros((4, 32, 32), np.uint8), "differ in image or label shape"),
        ("val_images", np.zeros((4, 28, 28, 3), np.uint8), "differ in image or label shape"),
        ("val_labels", np.zeros((4, 2), np.uint8), "differ in image or label shape"),
        ("val_labels", np.zeros((5, 1), np.uint8), "has shape (5, 1); expected (4, 1) or (4, L)"),
        ("val_labels", np.zeros((4, 0), np.uint8), "has shape (4, 0); expected (4, 1) or (4, L)"),
        ("val_labels", np.zeros((4, 1, 1), np.uint8), "has shape (4, 1, 1); expected (4, 1)"),
        ("val_labels", np.zeros((), np.uint8), "has shape (); expected (4, 1)"),
        (
            "val_images", np.asfortranarray(np.zeros((4, 28, 28), np.uint8)),
            "val_images is no plain NumPy array (column-major order; "
            "save np.ascontiguousarray(array))",
        ),
    ],
)  # fmt: skip
def test_wrong_array(make_npz: NpzMaker, name: str, array: NDArray[Any], message: str) -> None:
    path = make_npz(**{name: array})
    assert message in failure(lambda: NpzSource(path), path)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(make_npz: NpzMaker, tmp_path: Path) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")] * 4, object)
    path = make_npz(val_labels=trap)
    assert "val_labels is object; expected uint8" in failure(lambda: NpzSource(path), path)
    assert not (tmp_path / "sprung").exists()
    with np.load(path, allow_pickle=True) as file:
        file["val_labels"]
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"", "is no plain NumPy array"),
        (b"not an array at all", "is no plain NumPy array"),
        (npy_bytes(np.zeros((4, 5, 5), np.uint8))[:40], "is no plain NumPy array"),
        (with_header("garbage("), "is no plain NumPy array"),
        (with_header("{1: 2, 'a': 3}"), "is no plain NumPy array"),
        (with_header("-" * 9000 + "1"), "is no plain NumPy array"),
        (with_header("{'descr': ',u1', 'fortran_order': False, 'shape': ()}"), "no plain NumPy"),
        (with_header("{'descr': '|u1'}"), "is no plain NumPy array"),
        (with_header("{}", version=(9, 0)), "is no plain NumPy array"),
        (
            with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 5, 5)}", bytes(99)),
            "holds 99 bytes, its shape (4, 5, 5) takes 100",
        ),
        (
            with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 5, 5)}", bytes(101)),
            "holds 101 bytes, its shape (4, 5, 5) takes 100",
        ),
        (
            with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (9**20, 5, 5)}"),
            "is no plain NumPy array",
        ),
        (
            with_header(
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 64, 64)}"
            ),
            "takes 4,096,000,000,000,000",
        ),
        (
            with_header(
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -5, 5)}", bytes(100)
            ),
            "has shape (-4, -5, 5)",
        ),
    ],
)  # fmt: skip
def test_member_with_a_false_header(tmp_path: Path, member: bytes, message: str) -> None:
    members = {name: npy_bytes(array) for name, array in some_arrays().items()}
    path = write_members(tmp_path / "a.npz", {**members, "val_images": member})
    assert message in failure(lambda: NpzSource(path), path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_packing(tmp_path: Path, method: int) -> None:
    arrays = some_arrays()
    members = {name: npy_bytes(array) for name, array in arrays.items()}
    path = write_members(tmp_path / "a.npz", members, method)
    assert_same(read_all(NpzSource(path)), arrays)
    whole, inside = path.read_bytes(), data_of(path, "train_images")
    noticed = 0
    for place in inside:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        noticed += assert_noticed_or_harmless(path, arrays)
    assert noticed > 0.9 * len(inside)


# Damaged files


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "none.npz"
    assert failure(lambda: NpzSource(path), path) == (
        f"no file {path}; check the path of the dataset"
    )


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert "Is a directory" in failure(lambda: NpzSource(tmp_path), tmp_path)


@pytest.mark.parametrize("block", [b"", b"PK\x03\x04", b"a web page", bytes(5000)])
def test_file_that_is_no_zip(tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(block)
    assert "truncated or damaged" in failure(lambda: NpzSource(path), path)


def test_file_cut_at_any_length(written: tuple[Path, Arrays], tmp_path: Path) -> None:
    whole = written[0].read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        failure(lambda: NpzSource(path), path)


def test_gap_in_the_file(written: tuple[Path, Arrays], tmp_path: Path) -> None:
    whole, inside = written[0].read_bytes(), data_of(written[0], "train_images")
    path = tmp_path / "gap.npz"
    path.write_bytes(whole[: inside[10]] + whole[inside[20] :])
    failure(lambda: read_all(NpzSource(path)), path)


def test_any_changed_byte_is_noticed_or_harmless(
    written: tuple[Path, Arrays], tmp_path: Path
) -> None:
    whole, arrays = bytearray(written[0].read_bytes()), written[1]
    path = tmp_path / "flipped.npz"
    for place in range(0, len(whole), max(1, len(whole) // 400)):
        damaged = whole.copy()
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        assert_noticed_or_harmless(path, arrays)


def damage_pixel(tmp_path: Path, row: int) -> Path:
    """Of a stored file, so that the damaged image can be read, but for the CRC."""
    path = tmp_path / "a.npz"
    np.savez(path, **some_arrays(shape=(40, 40)))
    damaged = bytearray(path.read_bytes())
    pixels = data_of(path, "train_images")[-12 * 1600 :]
    damaged[pixels[1600 * row]] ^= 1
    path.write_bytes(damaged)
    return path


@pytest.mark.parametrize("row", [0, 6, 11])
@pytest.mark.parametrize(
    "read",
    [
        lambda source: list(source.batches(Split.TRAIN, 5)),
        lambda source: list(source.batches(Split.TRAIN, 12)),
        lambda source: list(source.batches(Split.TRAIN, 5, start=11)),
        lambda source: source.pick(Split.TRAIN, [0]),
        lambda source: source.pick(Split.TRAIN, [11]),
    ],
    ids=["batches", "one batch", "resumed", "pick first", "pick last"],
)
def test_changed_pixel_is_noticed_by_every_way_of_reading(
    tmp_path: Path, row: int, read: Callable[[NpzSource], object]
) -> None:
    path = damage_pixel(tmp_path, row)
    source = NpzSource(path)
    message = failure(lambda: read(source), path)
    assert (
        "is truncated or damaged (Bad CRC-32 for file 'train_images.npy'); get an intact copy"
        in message
    )
    assert len(list(source.batches(Split.TEST, 5))) == 2


def damage_crc(tmp_path: Path) -> Path:
    """Of a deflated file that is else in order."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **some_arrays(shape=(40, 40)))
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.getinfo("train_images.npy").CRC)
    whole = path.read_bytes()
    assert whole.count(crc) == 2
    path.write_bytes(whole.replace(crc, b"oops"))
    return path


@pytest.mark.parametrize("damage", [lambda folder: damage_pixel(folder, 11), damage_crc])
def test_last_batch_of_a_damaged_array_is_not_given(
    tmp_path: Path, damage: Callable[[Path], Path]
) -> None:
    path = damage(tmp_path)
    batches = NpzSource(path).batches(Split.TRAIN, 6)
    assert len(next(batches)) == 6
    failure(lambda: next(batches), path)


def test_file_replaced_while_it_is_in_use(make_npz: NpzMaker) -> None:
    path = make_npz()
    source = NpzSource(path)
    make_npz(seed=1)
    message = failure(lambda: next(source.batches(Split.TRAIN, 2)), path)
    assert "changed while it was in use" in message


# Checksum


def test_checksum_is_of_the_content(tmp_path: Path) -> None:
    arrays = some_arrays()
    turned = dict(reversed(arrays.items()))
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "deflated.npz", **arrays)
    np.savez(tmp_path / "turned.npz", **turned)
    found = {NpzSource(path).checksum for path in tmp_path.iterdir()}
    assert len(found) == 1
    assert found.pop().startswith("npz-crc:sha256:")


@pytest.mark.parametrize("name", some_arrays())
def test_checksum_changes_with_one_value(tmp_path: Path, name: str) -> None:
    arrays = some_arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    arrays[name].flat[-1] ^= 1
    np.savez(tmp_path / "b.npz", **arrays)
    assert NpzSource(tmp_path / "a.npz").checksum != NpzSource(tmp_path / "b.npz").checksum


def test_checksum_changes_where_splits_change_places(tmp_path: Path) -> None:
    arrays = some_arrays((4, 4, 4))
    np.savez(tmp_path / "a.npz", **arrays)
    images = {"val_images": arrays["test_images"], "test_images": arrays["val_images"]}
    np.savez(tmp_path / "b.npz", **{**arrays, **images})
    assert NpzSource(tmp_path / "a.npz").checksum != NpzSource(tmp_path / "b.npz").checksum


# Memory

_MEASURE = """
import sys
from pathlib import Path
from embedder.npz import NpzSource
from embedder.types import Split

path = Path(sys.argv[1])
source = NpzSource(Path(sys.argv[2]))
source.pick(Split.TRAIN, [0]), list(source.batches(Split.TRAIN, 16))
before = peak()
source = NpzSource(path)
rows = 0
for batch in source.batches(Split.TRAIN, 16, start=5):
    assert batch[0, 0, 0, 0] == (5 + rows) % 251
    rows += len(batch)
assert rows == 4195
assert source.pick(Split.TRAIN, [4199])[0, 0, 0, 0] == 4199 % 251
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    count = 4200  # of 224 x 224: 211 MB, unpacked
    grey = (np.arange(count) % 251).astype(np.uint8)
    images = np.broadcast_to(grey[:, None, None], (count, 224, 224))
    few, labels = images[:2], np.zeros((count, 1), np.uint8)
    rest = dict.fromkeys(("val_images", "test_images"), few)
    rest |= dict.fromkeys(("val_labels", "test_labels"), labels[:2])
    large, small = tmp_path / "large.npz", tmp_path / "small.npz"
    np.savez_compressed(large, train_images=images, train_labels=labels, **rest)
    np.savez_compressed(small, train_images=few, train_labels=labels[:2], **rest)
    run = subprocess.run(
        [sys.executable, "-c", PEAK + _MEASURE, str(large), str(small)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 30  # MB


def test_batches_can_be_written_to(make_npz: NpzMaker) -> None:
    """torch.from_numpy warns of arrays that cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert next(NpzSource(make_npz()).batches(Split.VAL, 2)).flags.writeable
