"""A member of a zip file, read once from its start, its CRC compared.

ISA-L inflates what zipfile would leave to zlib, which takes longer.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol, cast

from isal import igzip_lib, isal_zlib

from embedder.seekable import Readable, start_of_data

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PACKED = 64 << 10
"""Bytes read at a time."""

_INFLATED = 256 << 10
"""Bytes inflated at a time, at most: they stay in the second-level cache."""

_MOST_INFLATED = 1032
"""No packed byte becomes more: 258 bytes come of two bits at least (RFC 1951)."""

_IsalError = cast(type[Exception], igzip_lib.IsalError)
"""Of which isal's stub says that it is an instance."""


class Stream(Readable, Protocol):
    """What is read of a member's bytes."""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None: ...

    def tell(self) -> int: ...


@contextmanager
def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Stream]:
    """The uncompressed bytes of a member; until they are left the archive is for nothing else.

    zipfile checks the member's own header, and reads what was not deflated. Raises what it raises,
    and EOFError where the file, or what can come of the packed bytes, ends before the member;
    other damage shows as zipfile.BadZipFile, with the last byte at latest.
    """
    with archive.open(info) as stream:
        if info.compress_type != zipfile.ZIP_DEFLATED:
            yield cast(Stream, stream)
            return
    packed = archive.fp
    assert packed is not None
    start = start_of_data(packed, info)
    there = packed.seek(0, io.SEEK_END) - start
    if info.compress_size > there or info.file_size > _MOST_INFLATED * info.compress_size:
        raise EOFError(f"{info.filename} ends early")
    packed.seek(start)
    yield _Inflated(packed, info)


class _Inflated(io.RawIOBase):
    """A deflated member, whose packed bytes follow in ``packed``; ends early where they do."""

    def __init__(self, packed: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._packed = packed
        self._packed_left = info.compress_size
        self._info = info
        self._inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
        self._crc = self._place = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer. Raises zipfile.BadZipFile once all is read and the CRC does not fit."""
        space = memoryview(buffer).cast("B")
        wanted = min(len(space), self._info.file_size - self._place)
        filled = 0
        while filled < wanted and (block := self._inflate(min(wanted - filled, _INFLATED))):
            space[filled : filled + len(block)] = block
            filled += len(block)
            self._crc = isal_zlib.crc32(block, self._crc)
        self._place += filled
        if self._place == self._info.file_size and self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._info.filename!r}")
        return filled

    def _inflate(self, most: int) -> bytes:
        """The next bytes, or none at the end."""
        inflater = self._inflater
        while not inflater.eof:
            hungry = inflater.needs_input
            packed = self._read_packed() if hungry else b""
            try:
                block: bytes = inflater.decompress(packed, most)
            except _IsalError as error:
                raise zipfile.BadZipFile(str(error)) from error
            goes_on = packed or (inflater.needs_input and not hungry)
            if block or not goes_on:
                return block
        return b""

    def _read_packed(self) -> bytes:
        found = self._packed.read(min(_PACKED, self._packed_left))
        self._packed_left -= len(found)
        return found
