"""A dataset in MedMNIST's ``.npz`` layout, read as a stream.

The members are deflated, so NumPy can only inflate them whole (pathmnist at 224 px: 16 GB). Here
a batch of rows is inflated at a time, and nothing in the file is ever unpickled.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from embedder.datasets import Dataset
from embedder.errors import DatasetError
from embedder.types import Labels, Pixels, Split, Task


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class NpzSource:
    """The six arrays ``{train,val,test}_{images,labels}`` of one file, checked when opened.

    Images are uint8 (N, S, S) or (N, S, S, 3), labels uint8 (N, 1) or (N, L). ``dataset`` is what
    the file must hold; without one it is inferred, with ``task`` where that cannot be told from
    the labels. Raises DatasetError, naming the array, where the file is not of this form.
    """

    def __init__(self, path: Path, dataset: Dataset | None = None, task: Task | None = None):
        self.path = path
        with self._reading(), zipfile.ZipFile(path) as archive:
            self.checksum = _checksum(archive)
            self._shapes = {split: self._image_shape(archive, split) for split in Split}
            self._labels = {split: self._read_labels(archive, split) for split in Split}
        self.size, channels = self._common_form()
        self.dataset = dataset or self._infer(channels, task)
        self._check_against(self.dataset, channels)

    def labels(self, split: Split) -> Labels:
        return self._labels[split]

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        shape = self._shapes[split]
        row = int(np.prod(shape[1:]))
        with (
            self._reading(),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{split}_images.npy") as stream,
        ):
            _read_header(stream)
            stream.seek(start * row, 1)
            for first in range(start, shape[0], batch_size):
                count = min(batch_size, shape[0] - first)
                block = _read_exactly(stream, count * row)
                yield np.frombuffer(block, np.uint8).reshape(count, self.size, self.size, -1)
            stream.read(1)  # at the end of a member zipfile compares its CRC

    def pick(self, split: Split, rows: Sequence[int]) -> Pixels:
        wanted = set(rows)
        found: dict[int, Pixels] = {}
        first = 0
        for batch in self.batches(split, 1024):
            here = [row for row in wanted if first <= row < first + len(batch)]
            found.update((row, batch[row - first].copy()) for row in here)
            if len(found) == len(wanted):
                break
            first += len(batch)
        return np.stack([found[row] for row in rows])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DatasetError(f"no file {self.path}; check the path of the dataset") from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DatasetError(
                f"{self.path} is truncated or damaged ({error}); delete it and fetch it again"
            ) from error
        except OSError as error:
            raise DatasetError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _image_shape(self, archive: zipfile.ZipFile, split: Split) -> tuple[int, ...]:
        with self._member(archive, f"{split}_images") as stream:
            header = self._header(stream, f"{split}_images")
        shape = header.shape
        square = len(shape) in (3, 4) and shape[1] == shape[2] and shape[3:] in ((), (1,), (3,))
        if not square or shape[0] == 0:
            raise DatasetError(
                f"{self.path}: {split}_images has shape {shape}; expected (N, S, S) or (N, S, S, 3)"
            )
        return shape

    def _read_labels(self, archive: zipfile.ZipFile, split: Split) -> Labels:
        name = f"{split}_labels"
        with self._member(archive, name) as stream:
            shape = self._header(stream, name).shape
            shape = (*shape, 1) if len(shape) == 1 else shape
            if len(shape) != 2 or shape[0] != self._shapes[split][0]:
                raise DatasetError(
                    f"{self.path}: {name} has shape {shape}; expected "
                    f"({self._shapes[split][0]}, 1) or ({self._shapes[split][0]}, L), "
                    f"a row for each of {split}_images"
                )
            block = _read_exactly(stream, int(np.prod(shape)))
            stream.read(1)
        return np.frombuffer(block, np.uint8).reshape(shape)

    @contextmanager
    def _member(self, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
        if f"{name}.npy" not in archive.namelist():
            raise DatasetError(
                f"{self.path} has no array {name}; a dataset file holds "
                "train, val and test images and labels"
            )
        with archive.open(f"{name}.npy") as stream:
            yield stream

    def _header(self, stream: IO[bytes], name: str) -> _Header:
        try:
            header = _read_header(stream)
        except ValueError as error:
            raise DatasetError(f"{self.path}: {name} is no plain NumPy array ({error})") from error
        if header.dtype != np.uint8:
            raise DatasetError(f"{self.path}: {name} is {header.dtype}; expected uint8")
        return header

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
        name = self.path.stem.removesuffix(f"_{self.size}")
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


def _read_header(stream: IO[bytes]) -> _Header:
    """Raises ValueError where the stream is no ``.npy`` array in C order."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = readers[version](stream)
    if fortran:
        raise ValueError("column-major order; save np.ascontiguousarray(array)")
    return _Header(shape, dtype)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    block = stream.read(size)
    if len(block) != size:
        raise EOFError("an array ends early")
    return block


def _checksum(archive: zipfile.ZipFile) -> str:
    """SHA-256 over name, size and CRC-32 of the six arrays, as the archive's directory has them.

    zipfile compares each CRC with the bytes as they are read.
    """
    wanted = {f"{split}_{part}.npy" for split in Split for part in ("images", "labels")}
    lines = sorted(
        f"{info.filename} {info.file_size} {info.CRC:08x}\n"
        for info in archive.infolist()
        if info.filename in wanted
    )
    return f"npz-crc:sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
