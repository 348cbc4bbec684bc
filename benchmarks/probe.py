"""The linear probe's heads trained together against a plain PyTorch loop for each, interleaved.

    python benchmarks/probe.py [--rows 20000] [--val 2858] [--width 768] [--classes 8] [--seeds 3]
        [--points 1] [--epochs 1] [--rounds 3] [--storage float32] [--alone]

Random embeddings in a mapped file. Prints the best seconds per epoch of each side, the ratio, what
100 epochs over 165,466 rows would take, and the most memory used. The heads of both sides are first
compared. ``--alone`` leaves the plain loop out, for runs of the full size.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from embedder.types import Labels, Task, Vectors
from evaluate.probe import SEEDS, Grid, ProbeProtocol, TrainedHead, train

TISSUE = 165466

Splits = tuple[Vectors, Labels, Vectors, Labels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("rows", 20000), ("val", 2858), ("width", 768), ("classes", 8), ("seeds", 3),
        ("points", 1), ("epochs", 1), ("rounds", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--storage", choices=("float32", "float16"), default="float32")
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    rates = tuple(1e-4 * (1 + point) for point in range(options.points))
    protocol = ProbeProtocol(
        SEEDS[: options.seeds], Grid(rates), epochs=options.epochs, patience=options.epochs + 1
    )
    with tempfile.TemporaryDirectory() as folder:
        known = _split(Path(folder) / "train", options.rows, options)
        splits = (*known, *_split(Path(folder) / "val", options.val, options))
        together, alone = [], []
        for _ in range(options.rounds):
            seconds, heads = _together(splits, options.classes, protocol)
            together.append(seconds)
            if not options.alone:
                began = time.perf_counter()
                found = [_plain(splits, options.classes, protocol, head) for head in heads]
                alone.append((time.perf_counter() - began) / options.epochs)
                print(f"weights differ by at most {max(found):.1e}")
    epoch = min(together)
    told = f"{len(heads)} heads together {epoch:.2f} s per epoch"
    if alone:
        told += f", one after another {min(alone):.2f} s, ratio {min(alone) / epoch:.1f}"
    whole = epoch * 100 * TISSUE / options.rows
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{told}; 100 epochs of {TISSUE:,} rows {whole:.0f} s; {most:.2f} GB at most")


def _split(path: Path, rows: int, options: argparse.Namespace) -> tuple[Vectors, Labels]:
    """Random rows, written in parts and mapped."""
    rng = np.random.default_rng(rows)
    with path.open("wb") as stream:
        for first in range(0, rows, 4096):
            part = rng.standard_normal((min(4096, rows - first), options.width), np.float32)
            stream.write(part.astype(options.storage).tobytes())
    labels = rng.integers(0, options.classes, (rows, 1)).astype(np.uint8)
    return np.memmap(path, options.storage, "r", shape=(rows, options.width)), labels


def _together(
    splits: Splits, classes: int, protocol: ProbeProtocol
) -> tuple[float, list[TrainedHead]]:
    """Seconds per epoch, all that happens before the first included."""
    began = time.perf_counter()
    heads = train(*splits, Task.MULTICLASS, classes, protocol)
    return (time.perf_counter() - began) / protocol.epochs, heads


def _plain(splits: Splits, classes: int, protocol: ProbeProtocol, head: TrainedHead) -> float:
    """Train one head as a plain loop would; by how much its best epoch differs from ``head``."""
    x, x_val = (torch.tensor(split).to(torch.float32) for split in splits[::2])
    y, y_val = (torch.tensor(split[:, 0].astype(np.int64)) for split in splits[1::2])
    generator = torch.Generator().manual_seed(head.seed)
    layer, bound = torch.nn.Linear(x.shape[1], classes), 1 / math.sqrt(x.shape[1])
    for part in layer.parameters():
        torch.nn.init.uniform_(part, -bound, bound, generator=generator)
    optimiser = torch.optim.AdamW(
        layer.parameters(), lr=head.learning_rate, weight_decay=head.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, protocol.epochs)
    with _one_thread():
        for epoch in range(1, protocol.epochs + 1):
            order = torch.randperm(len(x), generator=generator)
            for rows in torch.split(order, protocol.batch):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            with torch.no_grad():
                torch.nn.functional.cross_entropy(layer(x_val), y_val)
            if epoch == head.best_epoch:
                found = layer.weight.detach().numpy() - head.weight
                furthest = float(np.abs(found).max())
    return furthest


@contextmanager
def _one_thread() -> Iterator[None]:
    """As ``train`` does: with more, small steps wait for each other on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
