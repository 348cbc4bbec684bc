"""Only what an image can reach is computed of a convolutional network, where that is less work.

Images smaller than the canvas lie on zeros, so that most of what the layers put out is the same for
every image. Which way is taken depends on the network and the size of the images alone.
"""

from __future__ import annotations

import logging
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from embedder import layers, preprocess
from embedder.backbones import CANVAS
from embedder.window import Axis, Windowed

log = logging.getLogger("casebook")

Size = tuple[int, int]

MOST_COMPUTED = 0.8
"""The largest share, of all numbers that the layers put out, that is worth computing by windows:
of densenet121 at 128 px it is 0.79, and the gain is small (docs/performance.md).
"""

TOLERANCE = 1e-5
"""How far, relative to its length, a feature vector may be from that of the whole canvas."""


class Reach:
    """From normalised images to features, by whichever way is less work for images of their size.

    ``features`` maps float32 (B, 3, 224, 224) to (B, D). The first images of a size decide for all
    of that size, by two images of noise: how much of them is computed, and whether both ways give
    the same features. Where the memory is too small for that, the next ones decide. Not to be made
    while another thread computes; see layers.trace().
    """

    def __init__(self, features: nn.Module) -> None:
        self._features = features
        graph = layers.trace(features)
        self._run = None if graph is None else layers.Run(features, graph)
        self._frames: tuple[Size, layers.LayerFrames] = ((0, 0), {})
        self._pays: dict[Size, bool] = {}

    def __call__(self, planes: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, H, W), normalised, to (B, D)."""
        return self.windowed(planes)[0] if self.pays(planes) else self.plain(planes)

    def pays(self, planes: torch.Tensor) -> bool:
        """Whether images of this size are embedded by their windows."""
        size = (planes.shape[2], planes.shape[3])
        if size not in self._pays:
            possible = self._run is not None and size != (CANVAS, CANVAS)
            self._pays[size] = possible and self._try(planes.new_tensor(_noise(size)))
            if not self._pays[size]:
                self._frames = ((0, 0), {})
        return self._pays[size]

    def plain(self, planes: torch.Tensor) -> torch.Tensor:
        """The features of the whole canvas."""
        found: torch.Tensor = self._features(preprocess.pad(planes))
        return found

    def windowed(self, planes: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The same features by windows, and what share of all numbers was computed for each image.

        Raises ValueError where the network cannot be traced, and whatever its own code raises.
        """
        if self._run is None:
            raise ValueError("the network cannot be traced")
        rows, columns = (
            Axis(CANVAS, preprocess.place(length), (0, CANVAS)) for length in planes.shape[2:]
        )
        empty = planes.new_zeros(1, planes.shape[1], 1, 1)
        run = copy(self._run)  # of its own, should threads compute at once
        run.frames = self._frames_for((planes.shape[2], planes.shape[3]))
        image = Windowed(rows, columns, empty, planes, True, run.frames.setdefault(None, {}))
        found: torch.Tensor = run.run(image)
        return found, run.computed / run.total

    def _frames_for(self, size: Size) -> layers.LayerFrames:
        """Only of one size at a time: they take as much memory as all layers of an image do."""
        known, frames = self._frames
        if size != known:
            frames = {}
            self._frames = (size, frames)
        return frames

    def _try(self, noise: torch.Tensor) -> bool:
        try:
            found, share = self.windowed(noise)
        except Exception as error:  # whatever a network's own code meets with in another shape
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            log.debug("no windows: %s: %s", type(error).__name__, error)
            return False
        if share > MOST_COMPUTED:
            return False
        expected = self.plain(noise)
        errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
        log.debug("windows: %.2f is computed, relative error %.0e", share, errors.max().item())
        return bool((errors < TOLERANCE).all())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory; for the CPU's allocator and cuBLAS it has no class."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "allocate" in text or "alloc_fail" in text


def _noise(size: Size) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
