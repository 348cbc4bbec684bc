"""A dataset in MedMNIST's ``.npz`` layout, read as a stream.

The members are deflated, so NumPy can only inflate them whole (pathmnist at 224 px: 16 GB). Here
a batch of rows is inflated at a time, and nothing in the file is ever unpickled.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

from embedder.datasets import Dataset, name_of_path
from embedder.errors import DatasetError
from embedder.inflated import Stream, open_member
from embedder.seekable import SeekableMember, read_exactly, skip, zip_errors
from embedder.types import Labels, Pixels, Split, Task

_NO_HEADER = (ValueError, TypeError, SyntaxError, TokenError, MemoryError)
"""What NumPy raises on the header of an array that it did not write."""

_PICK = 64
"""Rows read at a time where single ones are looked for."""


class NpzSource:
    """The six arrays ``{train,val,test}_{images,labels}`` of one file, checked when opened.

    Images are uint8 (N, S, S) or (N, S, S, 3), labels uint8 (N, 1) or (N, L). ``dataset`` is what
    the file must hold; without one it is inferred, with ``task`` where that cannot be told from
    the labels. Raises DatasetError, naming the array, where the file is not of this form.
    """

    def __init__(self, path: Path, dataset: Dataset | None = None, task: Task | None = None):
        self.path = path
        self._members: dict[Split, SeekableMember] = {}
        with zip_errors(path), zipfile.ZipFile(path) as archive:
            self.checksum = _checksum(archive)
            self._shapes = {split: self._image_shape(archive, split) for split in Split}
            self._labels = {split: self._read_labels(archive, split) for split in Split}
        self.size, channels = self._common_form()
        self.dataset = dataset or self._infer(channels, task)
        self._check_against(self.dataset, channels)

    def labels(self, split: Split) -> Labels:
        return self._labels[split]

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        """As ImageSource has it; the last batch comes only if the CRC of the whole array fits."""
        total, *image = self._shapes[split]
        row = prod(image)
        with (
            zip_errors(self.path),
            zipfile.ZipFile(self.path) as archive,
            self._array(archive, f"{split}_images") as (stream, _),
        ):
            self._refuse_change(archive)
            skip(stream, start * row)
            for first in range(start, total, batch_size):
                count = min(batch_size, total - first)
                block = np.empty((count, self.size, self.size, row // self.size**2), np.uint8)
                if stream.readinto(block.data) != block.nbytes:
                    raise EOFError("an array ends early")
                yield block

    def pick(self, split: Split, rows: Sequence[int]) -> Pixels:
        """As ImageSource has it; reads the whole array, so that its CRC is compared."""
        known = range(self._shapes[split][0])
        wanted = np.array([known[row] for row in rows], np.int64)
        picked = np.empty((len(rows), self.size, self.size, self.dataset.channels), np.uint8)
        first = 0
        for batch in self.batches(split, _PICK):
            here = (wanted >= first) & (wanted < first + len(batch))
            picked[here] = batch[wanted[here] - first]
            first += len(batch)
        return picked

    def image(self, split: Split, row: int) -> Pixels:
        """As ImageSource has it; safe to call from several threads."""
        total, *image = self._shapes[split]
        member, size = self._member(split), prod(image)
        place = member.size - (total - self.dataset.known_row(split, row)) * size
        block = bytearray(member.read(place, size))
        return np.frombuffer(block, np.uint8).reshape(self.size, self.size, -1)

    def _member(self, split: Split) -> SeekableMember:
        if split not in self._members:
            member = SeekableMember(self.path, f"{split}_images.npy")
            with zip_errors(self.path), zipfile.ZipFile(self.path) as archive:
                self._refuse_change(archive)
            self._members.setdefault(split, member)
        return self._members[split]

    def _refuse_change(self, archive: zipfile.ZipFile) -> None:
        if _checksum(archive) != self.checksum:
            raise DatasetError(f"{self.path} changed while it was in use; run again")

    def _image_shape(self, archive: zipfile.ZipFile, split: Split) -> tuple[int, ...]:
        with self._array(archive, f"{split}_images") as (_, shape):
            square = len(shape) in (3, 4) and shape[1] == shape[2] and shape[3:] in ((), (1,), (3,))
            if square and shape[0] == 0:
                raise DatasetError(f"{self.path}: {split} is empty; every split needs an image")
            if not square or min(shape) < 1:
                raise DatasetError(
                    f"{self.path}: {split}_images has shape {shape}; "
                    "expected (N, S, S) or (N, S, S, 3)"
                )
            return shape

    def _read_labels(self, archive: zipfile.ZipFile, split: Split) -> Labels:
        name, rows = f"{split}_labels", self._shapes[split][0]
        with self._array(archive, name) as (stream, shape):
            shape = (*shape, 1) if len(shape) == 1 else shape
            if len(shape) != 2 or shape[0] != rows or shape[1] < 1:
                raise DatasetError(
                    f"{self.path}: {name} has shape {shape}; expected ({rows}, 1) or ({rows}, L), "
                    f"a row for each of {split}_images"
                )
            block = read_exactly(stream, prod(shape))
        return np.frombuffer(block, np.uint8).reshape(shape)

    @contextmanager
    def _array(
        self, archive: zipfile.ZipFile, name: str
    ) -> Iterator[tuple[Stream, tuple[int, ...]]]:
        """One uint8 array: its bytes from the first value on, and its shape."""
        if f"{name}.npy" not in archive.namelist():
            raise DatasetError(
                f"{self.path} has no array {name}; a dataset file holds "
                "train, val and test images and labels"
            )
        info = archive.getinfo(f"{name}.npy")
        with open_member(archive, info) as stream:
            try:
                shape, dtype = _read_header(stream)
            except _NO_HEADER as error:
                raise DatasetError(
                    f"{self.path}: {name} is no plain NumPy array ({error})"
                ) from error
            if dtype != np.uint8:
                raise DatasetError(f"{self.path}: {name} is {dtype}; expected uint8")
            held = info.file_size - stream.tell()
            if held != prod(shape):
                raise DatasetError(
                    f"{self.path}: {name} holds {held:,} bytes, its shape {shape} takes "
                    f"{prod(shape):,}; get an intact copy"
                )
            yield stream, shape

    def _common_form(self) -> tuple[int, int]:
        forms = {(s[1], s[3] if len(s) == 4 else 1) for s in self._shapes.values()}
        widths = {labels.shape[1] for labels in self._labels.values()}
        if len(forms) > 1 or len(widths) > 1:
            raise DatasetError(
                f"{self.path}: train, val and test differ in image or label shape; make them equal"
            )
        return forms.pop()

    def _infer(self, channels: int, task: Task | None) -> Dataset:
        highest = max(int(labels.max()) for labels in self._labels.values())
        label_count = self._labels[Split.TRAIN].shape[1]
        classes = label_count if label_count > 1 else max(highest + 1, 2)
        if task is None:
            task = Task.BINARY if classes == 2 else Task.MULTICLASS
            task = Task.MULTILABEL if label_count > 1 else task
        if task is Task.MULTILABEL and label_count == 1:
            classes = 1
        name = name_of_path(self.path, self.size)
        counts = tuple(len(self._labels[split]) for split in Split)
        names = tuple(str(number) for number in range(classes))
        return Dataset(name, task, channels, (counts[0], counts[1], counts[2]), names, "unknown")

    def _check_against(self, dataset: Dataset, channels: int) -> None:
        if channels != dataset.channels:
            raise DatasetError(
                f"{self.path}: images have {channels} channels; {dataset.name} has "
                f"{dataset.channels}"
            )
        multilabel = dataset.task is Task.MULTILABEL
        width, highest = (len(dataset.classes), 1) if multilabel else (1, len(dataset.classes) - 1)
        if dataset.task is Task.BINARY and len(dataset.classes) != 2:
            raise DatasetError(
                f"{self.path}: a binary task has 2 classes, the labels have {len(dataset.classes)}"
            )
        for split in Split:
            labels = self._labels[split]
            if len(labels) != dataset.count(split):
                raise DatasetError(
                    f"{self.path}: {split} has {len(labels)} rows; {dataset.name} has "
                    f"{dataset.count(split)}"
                )
            if labels.shape[1] != width:
                raise DatasetError(
                    f"{self.path}: {split}_labels has {labels.shape[1]} columns; a "
                    f"{dataset.task} task with {len(dataset.classes)} classes has {width}"
                )
            wrong = np.flatnonzero((labels > highest).any(axis=1))
            if len(wrong):
                raise DatasetError(
                    f"{self.path}: {split}_labels row {wrong[0]} holds "
                    f"{labels[wrong[0]].max()}; labels go from 0 to {highest}"
                )


def _read_header(stream: Stream) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype. Raises ValueError where the stream is no ``.npy`` array in C order."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = readers[version](stream)
    if fortran:
        raise ValueError("column-major order; save np.ascontiguousarray(array)")
    return shape, dtype


def _checksum(archive: zipfile.ZipFile) -> str:
    """SHA-256 over name, size and CRC-32 of the six arrays, as the archive's directory has them.

    Each CRC is compared with the bytes once they are read to the end.
    """
    wanted = {f"{split}_{part}.npy" for split in Split for part in ("images", "labels")}
    lines = sorted(
        f"{info.filename} {info.file_size} {info.CRC:08x}\n"
        for info in archive.infolist()
        if info.filename in wanted
    )
    return f"npz-crc:sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
