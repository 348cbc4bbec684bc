"""The HDF5 structure of a cell, laid out in memory without the bytes of its embeddings.

The HDF5 library cannot be trusted with a disk that fills: closing a file it could not write ends
the process. It is therefore given this file-like object, and casebook writes the few regions that
came of it, with the room for the embeddings reserved in one step.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from embedder.store import SCHEMA, SCHEMA_ERASED, Header
from embedder.types import Labels, Rows, Split

ALIGNMENT = 64
"""Arrays begin at a multiple of this many bytes, so that mapped rows suit vector units."""


class SparseImage(io.RawIOBase):
    """A file in memory that keeps only the regions that were written; the rest reads as zeros."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, bytes]] = []  # in the order of writing: the last one wins
        self.size = 0
        self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        self.regions = [(at, data[: self.size - at]) for at, data in self.regions if at < self.size]
        return self.size

    def write(self, block: object) -> int:
        data = bytes(memoryview(block))  # type: ignore[arg-type]
        if data:
            self.regions.append((self._position, data))
            self._position += len(data)
            self.size = max(self.size, self._position)
        return len(data)

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        count = max(0, min(len(view), self.size - self._position))
        found = bytearray(count)
        for offset, data in self.regions:
            first = max(offset, self._position)
            last = min(offset + len(data), self._position + count)
            if first < last:
                part = data[first - offset : last - offset]
                found[first - self._position : last - self._position] = part
        view[:count] = found
        self._position += count
        return count

    def save(self, path: Path) -> None:
        """Write the file, its whole size reserved first. Raises OSError, and leaves nothing."""
        try:
            with path.open("wb") as stream:
                _reserve(stream.fileno(), self.size)
                for offset, data in self.regions:
                    stream.seek(offset)
                    stream.write(data)
                stream.truncate(self.size)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _reserve(file: int, size: int) -> None:
    """Take the room now, on systems and file systems that can; elsewhere as it is written."""
    if not hasattr(os, "posix_fallocate") or not size:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def lay_out(
    header: Header, labels: dict[Split, Labels], erased: Mapping[Split, Rows] | None = None
) -> SparseImage:
    """The whole file but for the embeddings: attributes, groups, labels, and room.

    ``erased`` are row numbers, int64, ascending. What they list goes behind everything else, so
    that a file lies the same with and without it.
    """
    listed = {s: erased[s] for s in Split if erased and len(erased.get(s, ()))}
    image = SparseImage()
    with h5py.File(
        image, "w", libver=("v110", "v110"),
        alignment_threshold=1, alignment_interval=ALIGNMENT,
    ) as file:  # fmt: skip
        file.attrs.update(header.attributes(SCHEMA_ERASED if listed else SCHEMA))
        for split in Split:
            _lay_out_split(file, split, header, labels[split])
        for split, rows in listed.items():
            file[str(split)].create_dataset("erased", data=rows, dtype="<i8")
    return image


def _lay_out_split(file: h5py.File, split: Split, header: Header, labels: Labels) -> None:
    group = file.create_group(str(split))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    number = np.dtype(header.fingerprint.storage).newbyteorder("<")
    kind = h5py.h5t.py_create(number, logical=True)
    space = h5py.h5s.create_simple((len(labels), header.fingerprint.width))
    h5py.h5d.create(group.id, b"embeddings", kind, space, layout)
    group.create_dataset("labels", data=labels)
