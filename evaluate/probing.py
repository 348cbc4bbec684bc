"""Linear probes of a stored cell: heads trained on train, chosen on val, measured on another split.

Every head is kept in the store with what it was made of (docs/store-format.md), so that a figure
can be traced to the weights it is of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.datasets import Dataset
from embedder.fingerprint import library_versions
from embedder.store import Cell
from embedder.types import Labels, Split, Task, Vectors
from evaluate import logistic, probe
from evaluate.classes import confusion
from evaluate.intervals import intervals
from evaluate.knn import pick
from evaluate.logistic import LogisticProtocol
from evaluate.metrics import measure
from evaluate.probe import ProbeProtocol, choose
from evaluate.results import Record
from index import heads
from index.heads import Head, Provenance

Watch = Callable[[], object]
"""Told of each epoch; or of each C that is tried, of several labels for each of them."""


@dataclass(frozen=True)
class Probing:
    """How heads are trained, and what they are measured on.

    ``resamples`` is how often the bootstrap draws for intervals; 0 for none. ``device`` is cpu or
    cuda, for AdamW.
    """

    solver: ProbeProtocol | LogisticProtocol = field(default_factory=ProbeProtocol)
    split: Split = Split.TEST
    resamples: int = 0
    device: str = "cpu"

    def steps(self, dataset: Dataset) -> int:
        """How often ``Watch`` is told at most: of epochs, or of each C (and label)."""
        if isinstance(self.solver, ProbeProtocol):
            return self.solver.epochs
        problems = len(dataset.classes) if dataset.task is Task.MULTILABEL else 1
        return problems * len(self.solver.cs)

    def describe(self) -> dict[str, Any]:
        """As it stands in records and saved heads: the solver's, and a device other than the CPU.

        Another device rounds otherwise, so its heads are others too.
        """
        device = {} if self.device == "cpu" else {"device": self.device}
        return {**self.solver.describe(), **device}


def evaluate(cell: Cell, probing: Probing, root: Path, watch: Watch = lambda: None) -> list[Record]:
    """A record for each seed (one for L-BFGS, which draws nothing); the heads go to ``root``.

    Raises EvaluationError where nothing can be trained, StoreError as the disk demands: before
    anything is trained where the heads could not be written.
    """
    heads.prepare(root, cell.dataset.name, cell.size, cell.header.variant)
    began = time.perf_counter()
    trained = _train(cell, probing, watch)
    seconds = (time.perf_counter() - began) / len(trained)
    return [_measure(cell, probing, root, head, seconds) for head in trained]


@dataclass(frozen=True, eq=False)
class _Trained:
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    seed: int | None
    chosen: dict[str, Any]


def _train(cell: Cell, probing: Probing, watch: Watch) -> list[_Trained]:
    known, known_labels = _rows(cell, Split.TRAIN)
    held, held_labels = _rows(cell, Split.VAL)
    task, classes = cell.dataset.task, len(cell.dataset.classes)
    if isinstance(probing.solver, LogisticProtocol):
        found = logistic.fit(
            known, known_labels, held, held_labels, task, classes, probing.solver,
            watch=lambda c: watch(),
        )  # fmt: skip
        chosen: dict[str, Any] = {
            "c": list(found.c), "losses": [list(line) for line in found.losses],
            "notes": list(found.notes),
        }  # fmt: skip
        return [_Trained(found.weight, found.bias, None, chosen)]
    everything = probe.train(
        known, known_labels, held, held_labels, task, classes, probing.solver,
        device=probing.device, watch=lambda epoch, left: watch(),
    )  # fmt: skip
    return [
        _Trained(head.weight, head.bias, head.seed, {
            "learning_rate": head.learning_rate, "weight_decay": head.weight_decay,
            "best_epoch": head.best_epoch, "loss": head.loss,
        })
        for head in choose(everything)
    ]  # fmt: skip


def _rows(cell: Cell, split: Split) -> tuple[Vectors, Labels]:
    """Those that are not erased; without a copy of the embeddings where none is."""
    rows = cell.live(split)
    return pick(cell.embeddings(split), rows), pick(cell.labels(split), rows)


def _measure(cell: Cell, probing: Probing, root: Path, trained: _Trained, seconds: float) -> Record:
    dataset, how = cell.dataset, probing.describe()
    counts = {str(s): len(cell.live(s)) for s in (Split.TRAIN, Split.VAL)}
    counts["erased"] = sum(map(len, cell.erased.values()))
    provenance = Provenance(
        dataset.name, cell.header.variant, dataset.task, dataset.classes,
        cell.header.fingerprint, counts, str(how["solver"]), how, trained.seed, trained.chosen,
        _versions(),
    )  # fmt: skip
    head = Head(trained.weight, trained.bias, provenance)
    place = heads.write(root, head)
    queries, truth = _rows(cell, probing.split)
    began = time.perf_counter()
    scores = head.scores(queries)
    metrics = measure(truth, scores, dataset.task, dataset.classes, with_auc=True)
    bounds = None
    if probing.resamples:
        bounds = intervals(
            truth, scores, dataset.task, dataset.classes, with_auc=True,
            resamples=probing.resamples,
        )  # fmt: skip
    protocol = {
        "notes": [], **how, "seed": trained.seed, **trained.chosen,
        "head": place.relative_to(root).as_posix(),
    }  # fmt: skip
    timings = {"train": seconds, "score": time.perf_counter() - began}
    return Record.of(
        cell, "probe", probing.split, protocol, metrics, len(truth), timings, _versions(), bounds,
        confusion(truth, scores, dataset.task, len(dataset.classes)),
    )  # fmt: skip


def _versions() -> dict[str, str]:
    return {**library_versions(), **{name: version(name) for name in ("casebook", "scikit-learn")}}
