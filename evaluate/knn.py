"""k-NN evaluation of a stored cell: the train split votes on the queries of another.

The published protocol is the default: cosine, k = 11, majority, a tie to the lowest class
(Doerrich et al., Scientific Reports 15, 7669, 2025). Queries from the train split itself leave
themselves out. Scores may be corrected for the priors of the classes, and then for thresholds that
were chosen on val (``evaluate.thresholds``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder.errors import EvaluationError, UsageError
from embedder.fingerprint import library_versions
from embedder.store import Cell
from embedder.types import Distance, Labels, Rows, Scores, Split, Task
from evaluate.classes import confusion
from evaluate.intervals import Interval, intervals
from evaluate.metrics import Metrics, measure
from evaluate.results import Record
from evaluate.thresholds import (
    Criterion,
    Thresholds,
    choose_k,
    choose_thresholds,
    correct_priors,
    priors,
    recentre,
)
from index.build import Kind, build, resolve
from index.points import check, is_all
from index.search import Neighbours, SupportSet
from index.vote import MajorityVote, SoftmaxVote, Vote, count_votes

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Protocol:
    """How neighbours are found and counted; ``ks`` share one search.

    ``resamples`` is how often the bootstrap draws for intervals; 0 for none. ``uniform_priors``
    corrects scores as if every class were equally frequent; ``thresholds`` are chosen for each
    label by this criterion, on val. Raises UsageError for those of queries from val itself.
    """

    ks: tuple[int, ...] = (11,)
    distance: Distance = Distance.COSINE
    vote: Vote = field(default_factory=MajorityVote)
    split: Split = Split.TEST
    index: Kind = Kind.AUTO
    resamples: int = 0
    uniform_priors: bool = False
    thresholds: Criterion | None = None

    def __post_init__(self) -> None:
        if self.thresholds and self.split is Split.VAL:
            raise UsageError(
                "--thresholds are chosen on val, and cannot be measured there; drop --split val"
            )

    def describe(self, k: int) -> dict[str, object]:
        """As it stands in a record; ``index`` is what answers on this machine."""
        corrected = {"priors": "uniform"} if self.uniform_priors else {}
        return {
            "k": k,
            "distance": str(self.distance),
            "vote": type(self.vote).__name__.removesuffix("Vote").lower(),
            "temperature": self.vote.temperature if isinstance(self.vote, SoftmaxVote) else None,
            "support": str(Split.TRAIN),
            "leave_one_out": self.split is Split.TRAIN,
            "tie": "lowest class",
            "index": str(resolve(self.index)),
            **corrected,
        }


def find_neighbours(
    cell: Cell, protocol: Protocol, rows: Rows | None = None, support: Rows | None = None
) -> Neighbours:
    """The nearest train cases of the queries, or of some ``rows`` of them, for the largest k.

    ``support`` are the train cases that may be found, int64, ascending; every live one by default.
    Erased cases are neither queries nor neighbours. Raises SearchError where k exceeds the cases
    there are, ZeroVectorError under the cosine, UsageError for queries from train where not every
    case may be found.
    """
    if support is not None and protocol.split is Split.TRAIN:
        raise UsageError("--shots draws from train; its queries come from --split val or test")
    name = f"{cell.dataset.name}/{Split.TRAIN}"
    known = cell.live(Split.TRAIN) if support is None else support
    points = SupportSet.of(cell.embeddings(Split.TRAIN), protocol.distance, name, known)
    chosen = cell.live(protocol.split) if rows is None else rows
    vectors = cell.embeddings(protocol.split)
    check(vectors, protocol.distance, f"{cell.dataset.name}/{protocol.split}", chosen)
    queries = pick(vectors, chosen)
    own = np.searchsorted(known, chosen) if protocol.split is Split.TRAIN else None
    found = build(points, protocol.index).search(queries, max(protocol.ks), own)
    return Neighbours(known[found.rows], found.similarities)


def score(
    cell: Cell, protocol: Protocol, neighbours: Neighbours, support: Rows | None = None
) -> Scores:
    """The scores of every live query by its neighbours, float64 (Q, C) or (Q, L).

    Corrected for the priors of the ``support`` where the protocol asks for that, those of the
    query itself left out where it is one of them; without thresholds.
    """
    labels = cell.labels(Split.TRAIN)
    task, classes = cell.dataset.task, len(cell.dataset.classes)
    scores = count_votes(neighbours, labels, task, classes, protocol.vote, protocol.distance)
    if not protocol.uniform_priors:
        return scores
    known = pick(labels, cell.live(Split.TRAIN) if support is None else support)
    own = labels_of(cell, Split.TRAIN) if protocol.split is Split.TRAIN else None
    return correct_priors(scores, priors(known, task, classes, own), task)


def labels_of(cell: Cell, split: Split) -> Labels:
    """Of the rows that are not erased."""
    return pick(cell.labels(split), cell.live(split))


def pick(array: NDArray[T], rows: Rows) -> NDArray[T]:
    """Some rows of an array; without a copy where that is all of them, in order."""
    return array if is_all(rows, len(array)) else array[rows]


def evaluate(cell: Cell, protocol: Protocol, support: Rows | None = None) -> list[Record]:
    """A record for each k, voted by ``support`` as in ``find_neighbours``.

    Raises SearchError or EvaluationError.
    """
    _check_task(cell, protocol)
    thresholds: dict[int, Thresholds | None] = {}
    if protocol.thresholds:
        truth, scores = _on_val(cell, protocol, support)
        thresholds = {k: _choose(cell, protocol, truth, scores[k]) for k in protocol.ks}
    return _measure(cell, protocol, thresholds, support)


def evaluate_best(cell: Cell, protocol: Protocol, metric: str = "accuracy") -> list[Record]:
    """One record, of that k of ``protocol.ks`` which has the highest ``metric`` on val.

    Of equally good ones it is the smallest. Each k is judged with the thresholds that val gives it,
    where the protocol asks for some. Raises as ``evaluate`` does.
    """
    _check_task(cell, protocol)
    truth, scores = _on_val(cell, protocol)
    thresholds = {k: _choose(cell, protocol, truth, scores[k]) for k in protocol.ks}
    figures = {
        k: _figures(cell, protocol, truth, _apply(thresholds[k], scores[k])) for k in protocol.ks
    }
    best = choose_k(figures, metric)
    (record,) = _measure(cell, replace(protocol, ks=(best,)), thresholds)
    how = {**record.protocol, "k_from": list(protocol.ks), "k_by": f"val {metric}"}
    return [replace(record, protocol=how)]


def _check_task(cell: Cell, protocol: Protocol) -> None:
    if protocol.thresholds and cell.dataset.task is not Task.MULTILABEL:
        raise EvaluationError(
            f"--thresholds is for multi-label tasks, and {cell.dataset.name} is "
            f"{cell.dataset.task}; drop it, or choose datasets with --dataset"
        )


def _on_val(
    cell: Cell, protocol: Protocol, support: Rows | None = None
) -> tuple[Labels, dict[int, Scores]]:
    """The labels of val, and what each k scores it."""
    held = replace(protocol, split=Split.VAL, thresholds=None)
    found = find_neighbours(cell, held, support=support)
    scores = {k: score(cell, held, found.first(k), support) for k in protocol.ks}
    return labels_of(cell, Split.VAL), scores


def _choose(cell: Cell, protocol: Protocol, truth: Labels, scores: Scores) -> Thresholds | None:
    if protocol.thresholds is None:
        return None
    return choose_thresholds(truth, scores, cell.dataset.classes, protocol.thresholds)


def _apply(thresholds: Thresholds | None, scores: Scores) -> Scores:
    return scores if thresholds is None else recentre(scores, thresholds.values)


def _figures(cell: Cell, protocol: Protocol, truth: Labels, scores: Scores) -> Metrics:
    task, classes = cell.dataset.task, cell.dataset.classes
    return measure(truth, scores, task, classes, with_auc=protocol.vote.weighted)


def _measure(
    cell: Cell,
    protocol: Protocol,
    thresholds: dict[int, Thresholds | None],
    support: Rows | None = None,
) -> list[Record]:
    """A record for each k, decided by its thresholds where it has some."""
    began = time.perf_counter()
    neighbours = find_neighbours(cell, protocol, support=support)
    searched = time.perf_counter() - began
    return [
        _count(cell, protocol, neighbours.first(k), thresholds.get(k), searched, support)
        for k in protocol.ks
    ]


def _count(
    cell: Cell,
    protocol: Protocol,
    neighbours: Neighbours,
    thresholds: Thresholds | None,
    searched: float,
    support: Rows | None,
) -> Record:
    dataset, truth = cell.dataset, labels_of(cell, protocol.split)
    how = protocol.describe(neighbours.rows.shape[1])
    if thresholds is not None:
        how["thresholds"] = {
            "criterion": str(thresholds.criterion), "values": list(thresholds.values),
            "notes": list(thresholds.notes),
        }  # fmt: skip
    began = time.perf_counter()
    scores = _apply(thresholds, score(cell, protocol, neighbours, support))
    metrics = _figures(cell, protocol, truth, scores)
    bounds = _intervals(truth, scores, cell, protocol)
    timings = {"search": searched, "vote": time.perf_counter() - began}
    return Record.of(
        cell, "knn", protocol.split, how, metrics, len(truth), timings, _versions(protocol.index),
        bounds, confusion(truth, scores, dataset.task, len(dataset.classes)),
    )  # fmt: skip


def _intervals(
    truth: Labels, scores: Scores, cell: Cell, protocol: Protocol
) -> dict[str, Interval] | None:
    if not protocol.resamples:
        return None
    return intervals(
        truth, scores, cell.dataset.task, cell.dataset.classes,
        with_auc=protocol.vote.weighted, resamples=protocol.resamples,
    )  # fmt: skip


@cache
def _versions(index: Kind) -> dict[str, str]:
    found = {**library_versions(), **{name: version(name) for name in ("casebook", "scikit-learn")}}
    if index is not Kind.REFERENCE:
        from index.blas import faiss

        found["faiss"] = faiss.__version__
    return found
