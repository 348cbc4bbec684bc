"""Random access to a member of a zip file: the right bytes, few of them inflated, little memory."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.errors import DamagedDatasetError, DatasetError
from embedder.seekable import SeekableMember
from tests.commands import PEAK

MIB = 1 << 20
SIZE = 4 * MIB + 12_345

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def mixed(size: int = SIZE) -> bytes:
    """Noise, text-like and constant stretches of uneven length."""
    rng, parts = np.random.default_rng(4), []
    while sum(map(len, parts)) < size:
        length = int(rng.integers(1, 200_000))
        high = int(rng.choice((1, 4, 256)))
        parts.append(rng.integers(0, high, length, np.uint8).tobytes())
    return b"".join(parts)[:size]


def write(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("before", b"something else" * 100)
        archive.writestr("data", data)
        archive.writestr("after", bytes(100))
    return path


@pytest.fixture(scope="module")
def data() -> bytes:
    return mixed()


@pytest.fixture(scope="module", params=METHODS, ids=["stored", "deflated", "bzip2", "lzma"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> Path:
    return write(tmp_path_factory.mktemp("zip") / "a.zip", data, request.param)


def opened(path: Path) -> SeekableMember:
    return SeekableMember(path, "data")


def data_offset(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo("data").header_offset + 30 + len("data")


place = st.one_of(
    st.integers(0, SIZE),
    st.builds(lambda k, by: k * MIB + by, st.integers(0, 4), st.integers(-2, 2)),
    st.integers(SIZE - 3, SIZE),
)
length = st.one_of(st.integers(0, 5), st.integers(0, 200_000), st.just(2 * MIB))


@settings(max_examples=10)
@given(asked=st.lists(st.tuples(place, length), min_size=1, max_size=5))
def test_any_reads_in_any_order_give_the_bytes(
    written: Path, data: bytes, asked: list[tuple[int, int]]
) -> None:
    member = opened(written)
    assert member.size == SIZE
    for offset, length in asked:
        start = max(0, offset)
        end = min(SIZE, start + length)
        assert member.read(start, end - start) == data[start:end]


@pytest.mark.parametrize("level", [1, 6, 9])
def test_every_piece_backwards_at_every_level(tmp_path: Path, data: bytes, level: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.writestr("data", data)
    member = opened(path)
    for start in reversed(range(0, SIZE, 99_991)):
        assert member.read(start, min(99_991, SIZE - start)) == data[start : start + 99_991]


def test_only_the_first_read_of_a_place_inflates_what_lies_before(
    tmp_path: Path, data: bytes
) -> None:
    member = opened(write(tmp_path / "a.zip", data))
    assert member.spacing == MIB
    member.read(SIZE - 10, 10)
    assert member.inflated == SIZE
    rng = random.Random(1)
    for _ in range(50):
        offset, before = rng.randrange(SIZE - 1000), member.inflated
        assert member.read(offset, 1000) == data[offset : offset + 1000]
        assert member.inflated - before == offset % MIB + 1000
    before = member.inflated
    member.read(3 * MIB, 7)
    assert member.inflated - before == 7


def test_reading_forward_begins_where_the_last_copy_was_made(tmp_path: Path, data: bytes) -> None:
    member = opened(write(tmp_path / "a.zip", data))
    member.read(2 * MIB + 5, 1)
    assert member.inflated == 2 * MIB + 6
    member.read(3 * MIB + 5, 1)
    assert member.inflated == 2 * MIB + 6 + MIB + 6


def test_nothing_of_a_stored_member_is_inflated(tmp_path: Path, data: bytes) -> None:
    member = opened(write(tmp_path / "a.zip", data, zipfile.ZIP_STORED))
    member.read(SIZE - 10, 10)
    assert member.inflated == 0


def test_an_empty_member(tmp_path: Path) -> None:
    for method in METHODS:
        member = opened(write(tmp_path / "a.zip", b"", method))
        assert (member.size, member.read(0, 0)) == (0, b"")


def test_a_zip_behind_other_bytes(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.zip", data[:1000])
    path.write_bytes(b"a program that unpacks itself" + path.read_bytes())
    assert opened(path).read(400, 300) == data[400:700]


def test_threads_do_not_disturb_each_other(written: Path, data: bytes) -> None:
    member = opened(written)
    places = random.Random(2).sample(range(SIZE - 5000), 16)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda offset: member.read(offset, 5000), places))
    assert found == [data[offset : offset + 5000] for offset in places]


# What cannot be read


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (101, 0), (100, 1), (-1, 1), (5, -1)])
def test_beyond_the_end(tmp_path: Path, offset: int, length: int) -> None:
    for method in METHODS:
        path = write(tmp_path / "a.zip", bytes(100), method)
        with pytest.raises(DatasetError, match="data has 100 bytes"):
            opened(path).read(offset, length)
        assert opened(path).read(100, 0) == b""


def test_no_member_no_file_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no member other"):
        SeekableMember(write(tmp_path / "a.zip", b""), "other")
    with pytest.raises(DatasetError, match="no file"):
        opened(tmp_path / "none.zip")
    (tmp_path / "b.zip").write_bytes(bytes(1000))
    with pytest.raises(DamagedDatasetError, match="truncated or damaged"):
        opened(tmp_path / "b.zip")


def change_in_place(path: Path) -> None:
    state = path.stat()
    with path.open("r+b") as stream:
        stream.seek(data_offset(path))
        stream.write(b"x")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def replace_by_longer(path: Path) -> None:
    state = path.stat()
    write(path, bytes(2000), zipfile.ZIP_STORED)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("change", [change_in_place, replace_by_longer])
@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_changed_is_noticed(tmp_path: Path, change: object, method: int) -> None:
    path = write(tmp_path / "a.zip", mixed(1000), method)
    member = opened(path)
    assert member.read(10, 5) == mixed(1000)[10:15]
    assert callable(change)
    change(path)
    with pytest.raises(DatasetError, match="changed while it was in use"):
        member.read(10, 5)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", bytes(100))
    member = opened(path)
    path.unlink()
    with pytest.raises(DatasetError, match="no file"):
        member.read(0, 1)


def test_a_block_type_that_does_not_exist_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", mixed(1000))
    whole = bytearray(path.read_bytes())
    whole[data_offset(path)] = 0b111
    path.write_bytes(whole)
    with pytest.raises(DamagedDatasetError, match="invalid block type"):
        opened(path).read(0, 1)


def test_any_changed_byte_is_noticed_or_gives_as_many_bytes(tmp_path: Path) -> None:
    data = b"".join(b"row %d of many; " % row for row in range(300))
    path = write(tmp_path / "a.zip", data)
    whole, messages = path.read_bytes(), []
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            member = opened(path)
            assert len(member.read(0, member.size)) == member.size
        except DatasetError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_member_shorter_than_the_directory_says(tmp_path: Path, method: int) -> None:
    path = write(tmp_path / "a.zip", bytes(1000), method)
    sizes = struct.pack("<II", len(deflated(bytes(1000))), 1000)
    if method == zipfile.ZIP_STORED:
        sizes = struct.pack("<II", 1000, 1000)
    whole = path.read_bytes()
    assert whole.count(sizes) == 2
    path.write_bytes(whole.replace(sizes, sizes[:4] + struct.pack("<I", 1001)))
    with pytest.raises(DamagedDatasetError, match="data"):
        opened(path).read(999, 2)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", bytes(1000))
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        directory = whole.index(b"data", archive.start_dir) - 46
    whole[directory + 8] |= 1
    whole[data_offset(path) - 34 + 6] |= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedDatasetError, match="encrypted"):
        opened(path).read(0, 1)


# Memory

_MEASURE = """
import sys
from pathlib import Path
from embedder.seekable import SeekableMember

path = Path(sys.argv[1])
SeekableMember(path, "small").read(0, 1)
before = peak()
member = SeekableMember(path, "data")
for place in range(member.size - 1000, 0, -member.size // 37):
    member.read(place, 1000)
assert member.inflated < member.size + 37 * (member.spacing + 1000)
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    """1.2 GB: as many copies of the inflater as there may be."""
    path, rng = tmp_path / "large.zip", np.random.default_rng(0)
    noise = [rng.bytes(MIB // 8) + bytes(MIB * 7 // 8) for _ in range(4)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("small", bytes(1000))
        with archive.open("data", "w", force_zip64=True) as stream:
            for number in range(1200):
                stream.write(noise[number % 4])
    run = subprocess.run(
        [sys.executable, "-c", PEAK + _MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 60  # MB
