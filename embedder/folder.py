"""A dataset as a folder of image files: ``train|val|test/<class>/*.png|jpg|...``.

Rows are in the order of class name, then file name. An image is centre-cropped to a square and
resized with antialiasing; if any image has colour, all are read as RGB, else as grey.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from embedder.datasets import Dataset
from embedder.errors import DatasetError, UsageError
from embedder.types import Labels, Pixels, Split, Task

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_GREY = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"})


class FolderSource:
    """Every image file below ``root`` as one dataset at one size, in pixels.

    Raises DatasetError for a missing split, a class or file that cannot be used.
    """

    def __init__(self, root: Path, size: int, task: Task | None = None):
        self.root = root
        self.size = size
        classes = self._find_classes()
        self._files = {split: self._list(split, classes) for split in Split}
        self.checksum, grey = self._read_all()
        if task is Task.MULTILABEL:
            raise UsageError("a folder per class cannot be multi-label; use an .npz file")
        if task is Task.BINARY and len(classes) != 2:
            raise UsageError(f"{root} has {len(classes)} classes; a binary task has 2")
        counts = tuple(len(self._files[split]) for split in Split)
        self.dataset = Dataset(
            root.resolve().name,
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
        return np.stack([self._decode(files[row][0]) for row in rows])

    def _find_classes(self) -> tuple[str, ...]:
        missing = [str(split) for split in Split if not (self.root / split).is_dir()]
        if missing:
            raise DatasetError(
                f"{self.root} has no folder {', '.join(missing)}; "
                "a dataset folder holds train, val and test, each with a folder per class"
            )
        names = {p.name for split in Split for p in (self.root / split).iterdir() if p.is_dir()}
        if not 2 <= len(names) <= 256:
            raise DatasetError(f"{self.root} has {len(names)} class folders; expected 2 to 256")
        return tuple(sorted(names))

    def _list(self, split: Split, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((self.root / split / name).glob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise DatasetError(f"{self.root / split} holds no image; put some into every split")
        return files

    def _read_all(self) -> tuple[str, bool]:
        """The checksum over every file's place, name and bytes, and whether all are grey."""
        digest, grey = hashlib.sha256(), True
        for path, _ in (file for split in Split for file in self._files[split]):
            try:
                block = path.read_bytes()
                with _open(path) as image:
                    mode = image.mode
            except (OSError, ValueError, Image.DecompressionBombWarning) as error:
                raise DatasetError(f"cannot read the image {path}: {error}") from error
            if mode not in _GREY | _COLOUR:
                raise DatasetError(f"{path} has pixels of mode {mode}; convert it to 8 bits")
            grey = grey and mode in _GREY
            place = path.relative_to(self.root).as_posix()
            digest.update(f"{place} {hashlib.sha256(block).hexdigest()}\n".encode())
        return f"folder:sha256:{digest.hexdigest()}", grey

    def _decode(self, path: Path) -> Pixels:
        """uint8 (S, S, C)."""
        try:
            with _open(path) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I;16"):
                    upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                plain = upright.convert("L" if self.dataset.channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning) as error:
            raise DatasetError(f"cannot decode the image {path}: {error}") from error
        square = ImageOps.fit(plain, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(square, np.uint8).reshape(self.size, self.size, -1)


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)
