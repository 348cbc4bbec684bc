"""k-NN evaluation of a stored cell: the train split votes on the queries of another.

The published protocol is the default: cosine, k = 11, majority, a tie to the lowest class
(Doerrich et al., Scientific Reports 15, 7669, 2025). Queries from the train split itself leave
themselves out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder.fingerprint import library_versions
from embedder.store import Cell
from embedder.types import Distance, Labels, Rows, Scores, Split
from evaluate.classes import confusion
from evaluate.intervals import Interval, intervals
from evaluate.metrics import measure
from evaluate.results import Record
from evaluate.thresholds import choose_k
from index.build import Kind, build, resolve
from index.search import Neighbours, SupportSet, check
from index.vote import MajorityVote, SoftmaxVote, Vote, count_votes

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Protocol:
    """How neighbours are found and counted; ``ks`` share one search.

    ``resamples`` is how often the bootstrap draws for intervals; 0 for none.
    """

    ks: tuple[int, ...] = (11,)
    distance: Distance = Distance.COSINE
    vote: Vote = field(default_factory=MajorityVote)
    split: Split = Split.TEST
    index: Kind = Kind.AUTO
    resamples: int = 0

    def describe(self, k: int) -> dict[str, object]:
        """As it stands in a record; ``index`` is what answers on this machine."""
        return {
            "k": k,
            "distance": str(self.distance),
            "vote": type(self.vote).__name__.removesuffix("Vote").lower(),
            "temperature": self.vote.temperature if isinstance(self.vote, SoftmaxVote) else None,
            "support": str(Split.TRAIN),
            "leave_one_out": self.split is Split.TRAIN,
            "tie": "lowest class",
            "index": str(resolve(self.index)),
        }


def find_neighbours(cell: Cell, protocol: Protocol, rows: Rows | None = None) -> Neighbours:
    """The nearest train cases of the queries, or of some ``rows`` of them, for the largest k.

    Erased cases are neither queries nor neighbours. Raises SearchError where k exceeds the cases
    there are, ZeroVectorError under the cosine.
    """
    name = f"{cell.dataset.name}/{Split.TRAIN}"
    known = cell.live(Split.TRAIN)
    support = SupportSet.of(
        pick(cell.embeddings(Split.TRAIN), known), protocol.distance, name, known
    )
    chosen = cell.live(protocol.split) if rows is None else rows
    queries = pick(cell.embeddings(protocol.split), chosen)
    check(queries, protocol.distance, f"{cell.dataset.name}/{protocol.split}", chosen)
    own = np.searchsorted(known, chosen) if protocol.split is Split.TRAIN else None
    found = build(support, protocol.index).search(queries, max(protocol.ks), own)
    return Neighbours(known[found.rows], found.similarities)


def pick(array: NDArray[T], rows: Rows) -> NDArray[T]:
    """Some rows of an array; without a copy where that is all of them."""
    return array if len(rows) == len(array) else array[rows]


def evaluate(cell: Cell, protocol: Protocol) -> list[Record]:
    """A record for each k. Raises SearchError or EvaluationError."""
    began = time.perf_counter()
    neighbours = find_neighbours(cell, protocol)
    searched = time.perf_counter() - began
    return [_count(cell, protocol, k, neighbours.first(k), searched) for k in protocol.ks]


def evaluate_best(cell: Cell, protocol: Protocol, metric: str = "accuracy") -> list[Record]:
    """One record, of that k of ``protocol.ks`` which has the highest ``metric`` on val.

    Of equally good ones it is the smallest. Raises as ``evaluate`` does.
    """
    tried = evaluate(cell, replace(protocol, split=Split.VAL, resamples=0))
    best = choose_k({r.protocol["k"]: r.metrics for r in tried}, metric)
    (record,) = evaluate(cell, replace(protocol, ks=(best,)))
    how = {**record.protocol, "k_from": list(protocol.ks), "k_by": f"val {metric}"}
    return [replace(record, protocol=how)]


def _count(
    cell: Cell, protocol: Protocol, k: int, neighbours: Neighbours, searched: float
) -> Record:
    dataset = cell.dataset
    support, queries = cell.labels(Split.TRAIN), cell.live(protocol.split)
    truth = pick(cell.labels(protocol.split), queries)
    began = time.perf_counter()
    classes = len(dataset.classes)
    scores = count_votes(
        neighbours, support, dataset.task, classes, protocol.vote, protocol.distance
    )
    metrics = measure(truth, scores, dataset.task, dataset.classes, with_auc=protocol.vote.weighted)
    bounds = _intervals(truth, scores, cell, protocol)
    timings = {"search": searched, "vote": time.perf_counter() - began}
    return Record.of(
        cell, "knn", protocol.split, protocol.describe(k), metrics, len(truth), timings,
        _versions(protocol.index), bounds,
        confusion(truth, scores, dataset.task, classes),
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


def _versions(index: Kind) -> dict[str, str]:
    found = {**library_versions(), **{name: version(name) for name in ("casebook", "scikit-learn")}}
    if index is not Kind.REFERENCE:
        import faiss

        found["faiss"] = faiss.__version__
    return found
