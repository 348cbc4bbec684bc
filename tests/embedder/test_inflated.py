from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedder.errors import DamagedDatasetError
from embedder.inflated import Stream, open_member
from embedder.seekable import read_exactly, zip_errors

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def write(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED, level: int = 6) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as archive:
        archive.writestr("before", b"another member")
        archive.writestr("a", data)
        archive.writestr("after", b"and one more")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    with zipfile.ZipFile(path) as archive, open_member(archive, archive.getinfo("a")) as stream:
        yield stream


def read_whole(path: Path, size: int = 1000) -> bytes:
    """As many bytes as the directory says, in steps."""
    with zipfile.ZipFile(path) as archive:
        left = archive.getinfo("a").file_size
    with zip_errors(path), opened(path) as stream:
        sizes = [size] * (left // size) + [left % size]
        return b"".join(read_exactly(stream, each) for each in sizes)


def some_bytes(seed: int, length: int, kinds: int) -> bytes:
    """Of few kinds they are packed small, of 256 not at all."""
    return bytes(random.Random(seed).choices(range(kinds), k=length))


@settings(deadline=None)
@given(
    seed=st.integers(0, 99),
    length=st.integers(0, 700_000),
    kinds=st.sampled_from([1, 3, 40, 256]),
    level=st.integers(0, 9),
    sizes=st.lists(st.integers(1, 400_000), max_size=9),
)
@example(seed=0, length=65_532, kinds=256, level=0, sizes=[65_531, 1])  # needs more for no byte yet
def test_any_bytes_in_any_steps(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int, kinds: int, level: int,
    sizes: list[int],
) -> None:  # fmt: skip
    data = some_bytes(seed, length, kinds)
    path = write(tmp_path_factory.mktemp("zip") / "a.zip", data, level=level)
    with opened(path) as stream:
        place = 0
        for size in (*sizes, *[400_000] * 2):
            space = bytearray(size)
            assert stream.tell() == place
            count = stream.readinto(space)
            assert count == min(len(space), length - place)
            assert space[:count] == data[place : place + count]
            place += count
        assert stream.read(10) == b""


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_packing(tmp_path: Path, method: int) -> None:
    data = some_bytes(1, 20_000, 30)
    assert read_whole(write(tmp_path / "a.zip", data, method)) == data


def test_member_written_to_a_pipe_has_its_sizes_behind_it(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise io.UnsupportedOperation

    pipe, data = Pipe(), some_bytes(2, 5000, 9)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    assert read_whole(tmp_path / "a.zip") == data


def span(path: Path) -> tuple[int, int]:
    """Where the packed bytes of the member lie."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a")
    start = info.header_offset + 30 + len("a")
    return start, start + info.compress_size


def test_every_changed_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    data = some_bytes(3, 1500, 5)
    path = write(tmp_path / "a.zip", data)
    whole, (start, end) = path.read_bytes(), span(path)
    noticed = 0
    for bit in range(8 * start, 8 * end):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read_whole(path) == data
        except DamagedDatasetError:
            noticed += 1
    assert noticed >= 8 * (end - start) - 16  # what pads the last byte says nothing


def test_noise_is_noticed(tmp_path: Path) -> None:
    """Noise where a deflated stream should be; of some it can be inflated for a while."""
    data = some_bytes(4, 3000, 256)
    path = write(tmp_path / "a.zip", data)
    whole, (start, end) = path.read_bytes(), span(path)
    for seed in range(300):
        noise = random.Random(seed).randbytes(end - start)
        path.write_bytes(whole[:start] + noise + whole[end:])
        with pytest.raises(DamagedDatasetError):
            read_whole(path)


def false_sizes(path: Path, **sizes: int) -> None:
    """Change what the archive's directory says of the member: ``packed`` or ``inflated`` bytes."""
    whole = bytearray(path.read_bytes())
    place = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    for name, size in sizes.items():
        struct.pack_into("<I", whole, place + {"packed": 20, "inflated": 24}[name], size)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"packed": 2**31}, "a ends early|Overlapped entries"),
        ({"packed": 200}, "an array ends early"),
        ({"inflated": 2**31}, "a ends early"),
        ({"inflated": 20_001}, "an array ends early"),
        ({"inflated": 19_999}, "Bad CRC-32 for file 'a'"),
        ({"inflated": 0}, "Bad CRC-32 for file 'a'"),
    ],
)  # fmt: skip
def test_directory_that_lies(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    path = write(tmp_path / "a.zip", some_bytes(5, 20_000, 7))
    false_sizes(path, **sizes)
    with pytest.raises(DamagedDatasetError) as caught:
        read_whole(path)
    assert re.search(message, str(caught.value))


def test_zeros_are_packed_as_small_as_can_be(tmp_path: Path) -> None:
    data = bytes(50_000_000)
    path = write(tmp_path / "a.zip", data, level=9)
    start, end = span(path)
    assert len(data) / (end - start) > 1000
    assert zlib.crc32(read_whole(path, 1 << 20)) == zlib.crc32(data)


def test_archive_behind_other_bytes(tmp_path: Path) -> None:
    data = some_bytes(7, 20_000, 40)
    path = write(tmp_path / "a.zip", data)
    path.write_bytes(b"#!/bin/sh\n" * 99 + path.read_bytes())
    assert read_whole(path) == data


def test_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", some_bytes(8, 500_000, 256))
    with zip_errors(path), opened(path) as stream:
        assert len(stream.read(1000)) == 1000
        with path.open("r+b") as other:
            other.truncate(300_000)
        assert 200_000 < len(stream.read(499_000)) < 300_000


def test_file_replaced_while_it_is_read(tmp_path: Path) -> None:
    data = some_bytes(9, 500_000, 256)
    path = write(tmp_path / "a.zip", data)
    with zipfile.ZipFile(path) as archive:
        write(tmp_path / "b.zip", some_bytes(10, 500_000, 256)).replace(path)
        with open_member(archive, archive.getinfo("a")) as stream:
            assert read_exactly(stream, len(data)) == data
