"""The linear probe's heads, trained together, against a plain PyTorch loop for one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import Spent, check_equal, interleave, timed, typical, watch
from embedder.types import Labels, Task, Vectors
from evaluate.probe import SEEDS, ProbeProtocol, TrainedHead, train

WIDTH = 768
CLASSES = 8


@dataclass(frozen=True)
class Shape:
    rows: int
    val: int
    epochs: int


SHAPE = Shape(20_000, 2_857, 2)


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    protocol = ProbeProtocol(epochs=SHAPE.epochs, patience=SHAPE.epochs + 1)
    known, held = _split(SHAPE.rows, 0), _split(SHAPE.val, 1)

    def together() -> list[TrainedHead]:
        return train(*known, *held, Task.MULTICLASS, CLASSES, protocol)

    for head in together():
        weight, _ = _plain(known, held, head.seed, protocol, head.best_epoch)
        check_equal(weight, head.weight, 1e-3, f"the head of seed {head.seed}")
    alone = lambda: _plain(known, held, SEEDS[0], protocol, SHAPE.epochs)[1]  # noqa: E731
    spent = interleave([alone, timed(together)], plan.rounds)
    detail = (
        f"plain loop {typical(spent[0]):.2f} s for one head, "
        f"three together {typical(spent[1]):.2f} s"
    )
    told = f"{SHAPE.rows:,} x {WIDTH}, {CLASSES} classes, {SHAPE.epochs} epochs"
    yield compare("probe", told, spent, detail, len(SEEDS))


def _split(rows: int, part: int) -> tuple[Vectors, Labels]:
    labels = np.random.default_rng(part).integers(0, CLASSES, (rows, 1)).astype(np.uint8)
    return material.vectors(rows, WIDTH, part), labels


def _plain(
    known: tuple[Vectors, Labels],
    held: tuple[Vectors, Labels],
    seed: int,
    protocol: ProbeProtocol,
    keep: int,
) -> tuple[Vectors, Spent]:
    """Train one head as a plain loop would; its weights after the epoch ``keep``.

    With one thread, as ``train`` does: with more, small steps wait for each other.
    """
    with watch() as spent, _one_thread():
        (x, y), (x_val, y_val) = (_tensors(*split) for split in (known, held))
        generator = torch.Generator().manual_seed(seed)
        layer, bound = torch.nn.Linear(WIDTH, CLASSES), 1 / math.sqrt(WIDTH)
        for part in layer.parameters():
            torch.nn.init.uniform_(part, -bound, bound, generator=generator)
        rate, decay = protocol.grid.points()[0]
        optimiser = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, protocol.epochs)
        for epoch in range(1, protocol.epochs + 1):
            for rows in torch.split(torch.randperm(len(x), generator=generator), protocol.batch):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            with torch.no_grad():
                torch.nn.functional.cross_entropy(layer(x_val), y_val)
            if epoch == keep:
                weight = layer.weight.detach().numpy().copy()
    return weight, spent


def _tensors(vectors: Vectors, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(vectors), torch.from_numpy(labels[:, 0].astype(np.int64))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
