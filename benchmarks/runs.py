"""The embedding of one dataset file, three ways: as ``embed`` does it, bare, by the common script.

All three embed the same images in batches of the same size, in this process. ``embed``'s time is
that of its engine from opening the dataset to the finished cell, on disk: reading, preprocessing,
the network, writing. Loading the backbone, which does not grow with the dataset, is left out on
every side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medmnist
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import transforms

from benchmarks import material
from benchmarks.rounds import Spent, watch
from embedder.backbones import CANVAS
from embedder.engine import Engine
from embedder.plan import plan
from embedder.preprocess import prepare
from embedder.recipe import Precision, Recipe
from embedder.sources import Library
from embedder.store import Store
from embedder.types import Pixels, Split, Vectors
from embedder.weights import build
from index.threads import cores

_SCRIPTED = "bloodmnist"
"""The class of medmnist that reads the file: its images are in colour."""


@dataclass(frozen=True)
class Images:
    """A dataset file: ``count`` train images, and one each of val and test, which it must have."""

    folder: Path
    size: int
    count: int
    batch: int

    @property
    def path(self) -> Path:
        return self.folder / f"tiles_{self.size}.npz"

    @property
    def total(self) -> int:
        return self.count + 2

    def split(self) -> dict[Split, Pixels]:
        images = material.tiles(self.size, self.total)
        parts = np.split(images, (self.count, self.count + 1))
        return dict(zip(Split, parts, strict=True))

    def write(self) -> None:
        """Under its own name, and under that of the medmnist class."""
        self.folder.mkdir(parents=True, exist_ok=True)
        material.write_npz(self.path, self.split())
        mark = "" if self.size == 28 else f"_{self.size}"
        (self.folder / f"{_SCRIPTED}{mark}.npz").symlink_to(self.path.name)

    def describe(self) -> str:
        return f"{self.total:,} colour images, batches of {self.batch}"


class Embed:
    """What the command ``embed``, or ``embed --plain``, runs, with its backbone loaded once."""

    def __init__(
        self, images: Images, recipe: Recipe, device: str = "cpu", *, plain: bool = False
    ) -> None:
        self._images = images
        self._recipe = recipe
        self._engine = Engine(Library(images.folder), device, images.batch, plain=plain)
        self._store = Store(images.folder / f"store-{device}-{plain}")

    def __call__(self) -> Spent:
        for path in self._store.paths():
            path.unlink()
        library, source = Library(self._images.folder), str(self._images.path)
        (cell,) = plan(self._store, library, [source], None, [self._recipe]).cells
        with closing(self._engine.embed(cell)) as steps, watch() as spent:
            for _ in steps:
                pass
        return spent

    def vectors(self) -> Vectors:
        """What the last run stored, all splits."""
        (path,) = self._store.paths()
        cell = self._store.read(path)
        return np.concatenate([cell.embeddings(split) for split in Split])


class Bare:
    """The network alone, its weights in memory as ``embed`` has them: batches are normalised,
    padded and in place before the clock starts.
    """

    def __init__(self, images: Images, recipe: Recipe, device: str = "cpu") -> None:
        self.module: Any = build(recipe).requires_grad_(False).eval().to(device)
        self.module.to(memory_format=torch.channels_last)
        self._half = recipe.precision is Precision.BF16
        self._device = device
        self._row = recipe.backbone
        self._batches = [
            self.prepare(part)
            for array in images.split().values()
            for part in _parts(array, images.batch)
        ]
        self.found: list[Vectors] = []

    def __call__(self) -> Spent:
        with watch() as spent:
            self.found = [self._forward(batch) for batch in self._batches]
        return spent

    def prepare(self, pixels: Pixels) -> torch.Tensor:
        """Uint8 (B, S, S, 3) to what the network takes."""
        row = self._row
        return prepare(torch.from_numpy(pixels), row.mean, row.std).to(self._device)

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        return _features(self.module, batch)

    @torch.inference_mode()
    def _forward(self, batch: torch.Tensor) -> Vectors:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._half):
            features = self.features(batch)
        return np.asarray(features.float().cpu().numpy())

    def vectors(self) -> Vectors:
        return np.concatenate(self.found)


def _features(module: Any, batch: torch.Tensor) -> torch.Tensor:
    """``model(x)`` without its last layer, which no embedding needs."""
    found: torch.Tensor = module.forward_head(module.forward_features(batch), pre_logits=True)
    return found


class _Tiles(medmnist.BloodMNIST):  # type: ignore[misc]
    """As medmnist has it, but for the number of images, which its ``len`` insists on."""

    def __len__(self) -> int:
        return len(self.imgs)


class Script:
    """What is commonly written: medmnist's Dataset, torchvision's transforms, a DataLoader.

    The pad follows the normalisation, as the published protocol has it. The three splits are one
    dataset, so that workers are started once.
    """

    def __init__(self, images: Images, recipe: Recipe) -> None:
        before = (CANVAS - images.size) // 2
        after = CANVAS - images.size - before
        row = recipe.backbone
        self._images = images
        self._module = build(recipe).requires_grad_(False).eval()
        self._transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Normalize(row.mean, row.std),
                transforms.Pad([before, before, after, after]),
            ]
        )
        self._found = np.empty((0, 0), np.float32)

    def __call__(self) -> Spent:
        folder, size = self._images.folder, self._images.size
        with watch() as spent, torch.no_grad():
            parts = [
                _Tiles(split=str(s), root=folder, size=size, transform=self._transform, as_rgb=True)
                for s in Split
            ]
            loader: DataLoader[Any] = DataLoader(
                ConcatDataset(parts), self._images.batch, num_workers=workers()
            )
            found = [_features(self._module, batch).numpy() for batch, _ in loader]
            self._found = np.concatenate(found)
            np.save(folder / "features.npy", self._found)
        return spent

    def vectors(self) -> Vectors:
        return self._found


def workers() -> int:
    """Of the DataLoader: as many as there are cores, four at most."""
    return min(4, cores())


def _parts(array: Pixels, batch: int) -> Iterator[Pixels]:
    for first in range(0, len(array), batch):
        yield array[first : first + batch]
