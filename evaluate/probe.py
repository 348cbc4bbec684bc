"""Linear probe: one linear layer on stored embeddings, many of them trained at once.

The published protocol is the default (Doerrich et al., Scientific Reports 15, 7669, 2025): AdamW
with learning rate 1e-4, batches of 64, at most 100 epochs, the learning rate annealed over one
cosine, early stopping on the validation loss, the best epoch's weights kept, three seeds. Weight
decay is torch's default, 0.01. Binary, multi-class and ordinal tasks have a logit per class and
cross-entropy; the multi-label task a logit per label and binary cross-entropy, mean over labels.

Every head is what a plain loop of PyTorch would train alone: a seed's ``torch.Generator`` (CPU)
draws the weights (C, D), then the bias (C,), both uniform within 1/sqrt(D) as ``torch.nn.Linear``
has it, then at each epoch ``torch.randperm`` of the training rows. The heads of one seed, one for
each point of the grid, see the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Task, Vectors
from evaluate.batched import Examples, Heads

SEEDS = (9930641, 115149041, 252139603)
"""Of the published benchmark."""


@dataclass(frozen=True)
class Grid:
    """The learning rates and weight decays tried, each with each."""

    learning_rates: tuple[float, ...] = (1e-4,)
    weight_decays: tuple[float, ...] = (0.01,)

    def __post_init__(self) -> None:
        rates, decays = self.learning_rates, self.weight_decays
        if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise UsageError(f"learning rates {rates} are not all above 0; give one or more")
        if not decays or not all(math.isfinite(decay) and decay >= 0 for decay in decays):
            raise UsageError(f"weight decays {decays} are not all 0 or more; give one or more")
        if len(set(rates)) < len(rates) or len(set(decays)) < len(decays):
            raise UsageError("a learning rate or weight decay is given twice; give each once")

    def points(self) -> list[tuple[float, float]]:
        """Pairs of learning rate and weight decay."""
        return list(product(self.learning_rates, self.weight_decays))


@dataclass(frozen=True)
class ProbeProtocol:
    """How heads are trained; a head stops after ``patience`` epochs without a lower loss.

    Five is the patience of the published code, ten that of the thesis that followed it.
    """

    seeds: tuple[int, ...] = SEEDS
    grid: Grid = field(default_factory=Grid)
    batch: int = 64
    epochs: int = 100
    patience: int = 5

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"seeds {self.seeds}: give one or more, each once")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise UsageError(f"seeds {self.seeds}: each must lie between 0 and 2**63 - 1")
        for name in ("batch", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not 1 or more")

    def describe(self) -> dict[str, object]:
        """As it stands in records and saved heads; plain JSON values."""
        return {
            "solver": "adamw",
            "seeds": list(self.seeds),
            "learning_rates": list(self.grid.learning_rates),
            "weight_decays": list(self.grid.weight_decays),
            "batch": self.batch,
            "epochs": self.epochs,
            "patience": self.patience,
            "schedule": "cosine",
        }


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A linear layer, float32 (C, D) and (C,), with the weights of its best epoch.

    ``losses`` are the validation losses after each of its epochs, ``best_epoch`` the first of the
    lowest, counted from 1. Where no loss was finite ``best_epoch`` is 0, ``loss`` infinite, and
    the weights are those it began with.
    """

    seed: int
    learning_rate: float
    weight_decay: float
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    best_epoch: int
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return self.losses[self.best_epoch - 1] if self.best_epoch else math.inf


Watch = Callable[[int, int], object]
"""Told after each epoch its number, from 1, and how many heads go on."""


def train(
    train: Vectors,
    train_labels: Labels,
    val: Vectors,
    val_labels: Labels,
    task: Task,
    classes: int,
    protocol: ProbeProtocol | None = None,
    *,
    device: str = "cpu",
    watch: Watch | None = None,
) -> list[TrainedHead]:
    """Train a head for each seed and each point of the grid, all over one pass of the data.

    Embeddings, float32 or float16 (N, D), may be mapped files: on the CPU they are read in place,
    on another device, as ``torch.device`` names it, there is one copy. Labels are uint8 (N, 1), or
    (N, L) for the multi-label task; ``classes`` is C, or L. The heads come seed by seed, within one
    in the order of ``Grid.points``. The validation loss is the mean over all rows, whatever the
    batch.

    Raises EvaluationError where a split is empty, a shape does not fit, a label is out of range or
    an embedding is not finite.
    """
    protocol = protocol or ProbeProtocol()
    known = Examples(train, train_labels, "train", task, classes, device)
    held = Examples(val, val_labels, "val", task, classes, device)
    width = train.shape[1]
    if val.shape[1] != width:
        raise EvaluationError(f"train has width {width}, val {val.shape[1]}; give one cell's")
    generators = [torch.Generator().manual_seed(seed) for seed in protocol.seeds]
    starts = [_start(generator, classes, width) for generator in generators]
    heads = Heads(starts, protocol.grid.points(), task, device)
    for epoch in range(1, protocol.epochs + 1):
        heads.anneal((1 + math.cos(math.pi * (epoch - 1) / protocol.epochs)) / 2)
        orders = [torch.randperm(len(known), generator=generators[s]) for s in heads.seeds]
        with _one_thread():
            for features, targets in known.batches(orders, protocol.batch):
                heads.step(features, targets)
        heads.judge(held, protocol.patience)
        if watch:
            watch(epoch, len(heads.active))
        if not heads.active:
            break
    return _trained(heads, protocol)


def choose(heads: list[TrainedHead]) -> list[TrainedHead]:
    """The heads, one per seed, of the grid point with the lowest mean validation loss.

    The mean is over seeds; of equal points the first. Raises EvaluationError where at every point
    some head has no finite loss.
    """
    points: dict[tuple[float, float], list[TrainedHead]] = {}
    for head in heads:
        points.setdefault((head.learning_rate, head.weight_decay), []).append(head)
    best = min(points.values(), key=lambda found: math.fsum(h.loss for h in found))
    if not all(math.isfinite(head.loss) for head in best):
        raise EvaluationError("no head has a finite validation loss; try lower learning rates")
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step is too small to share: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start(generator: torch.Generator, classes: int, width: int) -> Tensor:
    """Float32 (C, D + 1): the weights, and in the last column the bias."""
    bound = 1 / math.sqrt(width)
    weight = torch.empty(classes, width).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(classes).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, bias[:, None]], dim=1)


def _trained(heads: Heads, protocol: ProbeProtocol) -> list[TrainedHead]:
    best = heads.best.cpu().numpy()
    points = list(product(protocol.seeds, protocol.grid.points()))
    return [
        TrainedHead(
            seed, rate, decay, array[:, :-1].copy(), array[:, -1].copy(), epoch, tuple(losses)
        )
        for (seed, (rate, decay)), array, epoch, losses in zip(
            points, best, heads.best_epochs, heads.losses, strict=True
        )
    ]
