"""A dataset as a folder of image files: ``train|val|test/<class>/*.png|jpg|...``.

Rows are in the order of class name, then file name; hidden files and folders are left out. An image
is centre-cropped to a square and resized with antialiasing; if any image has colour, all are read
as RGB, else as grey. Of 16 bits the upper eight are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from embedder.datasets import Dataset, name_of_path
from embedder.errors import DatasetError, UsageError
from embedder.pictures import COLOUR, GREY, square, upright
from embedder.types import Labels, Pixels, Split, Task

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class FolderSource:
    """Every image file below ``root`` as one dataset at one size, in pixels.

    Raises DatasetError for a missing split, a class or file that cannot be used.
    """

    def __init__(self, root: Path, size: int, task: Task | None = None):
        self.root = root
        self.size = size
        try:
            classes = self._find_classes()
            self._files = {split: self._list(split, classes) for split in Split}
        except OSError as error:
            raise DatasetError(f"cannot read {error.filename}: {error.strerror}") from error
        if task is Task.MULTILABEL:
            raise UsageError("a folder per class cannot be multi-label; use an .npz file")
        if task is Task.BINARY and len(classes) != 2:
            raise UsageError(f"{root} has {len(classes)} classes; a binary task has 2")
        self.checksum, grey = self._read_all(classes)
        counts = tuple(len(self._files[split]) for split in Split)
        self.dataset = Dataset(
            name_of_path(root, None),
            task or (Task.BINARY if len(classes) == 2 else Task.MULTICLASS),
            1 if grey else 3,
            (counts[0], counts[1], counts[2]),
            classes,
            "unknown",
        )

    def labels(self, split: Split) -> Labels:
        return np.array([[label] for _, label in self._files[split]], np.uint8)

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        for first in range(start, len(self._files[split]), batch_size):
            last = min(first + batch_size, len(self._files[split]))
            yield self.pick(split, range(first, last))

    def pick(self, split: Split, rows: Sequence[int]) -> Pixels:
        files = self._files[split]
        images = [self._decode(files[row][0]) for row in rows]
        return np.array(images, np.uint8).reshape(-1, self.size, self.size, self.dataset.channels)

    def image(self, split: Split, row: int) -> Pixels:
        """As ImageSource has it; reads its file only."""
        return self.pick(split, [self.dataset.known_row(split, row)]).squeeze(0)

    def _find_classes(self) -> tuple[str, ...]:
        missing = [str(split) for split in Split if not (self.root / split).is_dir()]
        if missing:
            raise DatasetError(
                f"{self.root} has no folder {', '.join(missing)}; "
                "a dataset folder holds train, val and test, each with a folder per class"
            )
        inside = [path for split in Split for path in (self.root / split).iterdir()]
        names = {path.name for path in inside if path.is_dir() and not _is_hidden(path)}
        if not 2 <= len(names) <= 256:
            raise DatasetError(f"{self.root} has {len(names)} class folders; expected 2 to 256")
        return tuple(sorted(names))

    def _list(self, split: Split, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
        files = [
            (path, label)
            for label, name in enumerate(classes)
            if (self.root / split / name).is_dir()
            for path in sorted((self.root / split / name).iterdir())
            if path.suffix.lower() in SUFFIXES and not _is_hidden(path)
        ]
        if not files:
            raise DatasetError(f"{self.root / split} holds no image; put some into every split")
        return files

    def _read_all(self, classes: tuple[str, ...]) -> tuple[str, bool]:
        """The checksum over classes and every file's place and bytes; whether all are grey."""
        digest, grey = hashlib.sha256(), True
        for name in classes:
            digest.update(os.fsencode(f"{name}\n"))
        for path, _ in (file for split in Split for file in self._files[split]):
            with _naming(path):
                block = path.read_bytes()
                with _open(path) as image:
                    mode = image.mode
            if mode not in GREY | COLOUR:
                raise DatasetError(
                    f"the image {path} has pixels of mode {mode}; convert it to 8 bits, grey or RGB"
                )
            grey = grey and mode in GREY
            place = path.relative_to(self.root).as_posix()
            digest.update(os.fsencode(f"{place} {hashlib.sha256(block).hexdigest()}\n"))
        return f"folder-1:sha256:{digest.hexdigest()}", grey

    def _decode(self, path: Path) -> Pixels:
        """uint8 (S, S, C)."""
        with _naming(path), _open(path) as image:
            return square(upright(image), self.size, self.dataset.channels)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _open(path: Path) -> Image.Image:
    """Raises ValueError where the image is so large that Pillow would warn of it."""
    image = Image.open(path)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels; make it smaller")
    return image


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a damaged file decoders raise almost anything
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read the image {path}: {reason}") from error
