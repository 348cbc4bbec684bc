"""Random access to a member of a zip file, in bounded memory.

A deflated member can only be inflated from its start. While that goes on, the state of the
inflater is copied now and then; a later read begins at the copy before its place. No CRC is
compared, since that of a part is not known.
"""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from embedder.errors import DamagedDatasetError, DatasetError

if TYPE_CHECKING:
    from zlib import _Decompress

_POINTS = 1000
"""At most so many copies of an inflater are kept of a member: each takes about 40 KB."""

_SPACING = 1 << 20
"""Bytes between two copies, at least; more where the member is large."""

_PACKED = 4 << 10
"""Bytes read at a time; each copy may hold on to so many."""

_INFLATED = 64 << 10
"""Bytes inflated at a time, at most."""

_ENCRYPTED = 1

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, UnicodeDecodeError, EOFError,
    RuntimeError,
)  # fmt: skip
"""What zipfile raises on bytes that are not as NumPy wrote them; RuntimeError where a member is
encrypted or packed by an unknown method."""


@contextmanager
def zip_errors(path: Path) -> Iterator[None]:
    """Say in words what reading the zip file at ``path`` raises: a DatasetError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"no file {path}; check the path of the dataset") from error
    except _DAMAGED as error:
        raise DamagedDatasetError(
            f"{path} is truncated or damaged ({error}); get an intact copy"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error


class _Point(NamedTuple):
    """An inflater, to be copied before use, and where in the file its next packed byte lies."""

    inflater: _Decompress
    position: int


class SeekableMember:
    """The uncompressed bytes of one member, ``size`` in number; safe to read from several threads.

    Memory stays below about 45 MB. ``inflated`` counts the bytes that were inflated so far. A
    member packed neither by deflation nor plainly is read from its start each time. Raises
    DatasetError where there is no such member, and DamagedDatasetError.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.inflated = 0
        self._lock = Lock()
        with zip_errors(path), path.open("rb") as stream:
            self._stamp = _stamp(stream)
            with zipfile.ZipFile(stream) as archive:
                if name not in archive.namelist():
                    raise DatasetError(f"{path} has no member {name}; get an intact copy")
                info = archive.getinfo(name)
            self._start = start_of_data(stream, info)
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                raise zipfile.BadZipFile(f"{name} has two sizes")
        self.size = info.file_size
        self.spacing = max(_SPACING, -(-self.size // _POINTS))
        self._end = self._start + info.compress_size
        self._method = -1 if info.flag_bits & _ENCRYPTED else info.compress_type
        self._points = [_Point(zlib.decompressobj(-zlib.MAX_WBITS), self._start)]

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on.

        Of a deflated member the first read of a place inflates all before it, a later one at most
        ``spacing`` bytes and its own. Raises DatasetError beyond the end or where the file
        changed, and DamagedDatasetError where it cannot be inflated.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DatasetError(
                f"{self.path}: {self.name} has {self.size:,} bytes, none at {offset:,} to "
                f"{offset + length:,}; ask for less"
            )
        with self._lock, zip_errors(self.path), self.path.open("rb") as stream:
            self._refuse_change(stream)
            if self._method == zipfile.ZIP_STORED:
                found = self._read_stored(stream, offset, length)
            elif self._method == zipfile.ZIP_DEFLATED:
                found = self._read_deflated(stream, offset, length)
            else:
                found = self._read_from_start(stream, offset, length)
            self._refuse_change(stream)
        return found

    def _refuse_change(self, stream: IO[bytes]) -> None:
        if _stamp(stream) != self._stamp:
            raise DatasetError(f"{self.path} changed while it was in use; run again")

    def _read_stored(self, stream: IO[bytes], offset: int, length: int) -> bytes:
        stream.seek(self._start + offset)
        return read_exactly(stream, length)

    def _read_deflated(self, stream: IO[bytes], offset: int, length: int) -> bytes:
        number = min(offset // self.spacing, len(self._points) - 1)
        inflater = self._points[number].inflater.copy()
        stream.seek(self._points[number].position)
        place, end, found = number * self.spacing, offset + length, bytearray()
        while place < end:
            border = (place // self.spacing + 1) * self.spacing
            stop = min(border, offset if place < offset else end)
            block = self._inflate(stream, inflater, min(stop - place, _INFLATED))
            if place >= offset:
                found += block
            place += len(block)
            if place == len(self._points) * self.spacing:
                self._points.append(_Point(inflater.copy(), stream.tell()))
        return bytes(found)

    def _inflate(self, stream: IO[bytes], inflater: _Decompress, most: int) -> bytes:
        """The next bytes, one at least."""
        while not inflater.eof:
            packed = inflater.unconsumed_tail or self._read_packed(stream)
            block = inflater.decompress(packed, most)
            self.inflated += len(block)
            if block:
                return block
            if not packed:
                break
        raise EOFError(f"{self.name} ends early")

    def _read_packed(self, stream: IO[bytes]) -> bytes:
        return stream.read(min(_PACKED, self._end - stream.tell()))

    def _read_from_start(self, stream: IO[bytes], offset: int, length: int) -> bytes:
        with zipfile.ZipFile(stream) as archive, archive.open(self.name) as member:
            skip(member, offset)
            return read_exactly(member, length)


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def read_exactly(stream: Readable, size: int) -> bytes:
    """Raises EOFError. With the last byte of a member its CRC is compared."""
    block = stream.read(size)
    if len(block) != size:
        raise EOFError("an array ends early")
    return block


def skip(stream: Readable, size: int) -> None:
    """Reads, since after a seek zipfile may no longer compare the CRC. Raises EOFError."""
    while size:
        size -= len(read_exactly(stream, min(size, 1 << 20)))


def _stamp(stream: IO[bytes]) -> tuple[int, int]:
    """Tells one state of a file from another."""
    state = os.fstat(stream.fileno())
    return state.st_size, state.st_mtime_ns


def start_of_data(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's packed bytes begin: behind its own header, which repeats its name."""
    stream.seek(max(0, info.header_offset))
    magic, name_length, extra_length = struct.unpack("<4s22xHH", stream.read(30))
    if magic != b"PK\x03\x04" or info.header_offset < 0:
        raise zipfile.BadZipFile(f"{info.filename} is not where the directory says")
    return info.header_offset + 30 + int(name_length) + int(extra_length)
