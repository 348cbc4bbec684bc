"""From a result record back to the scores that its figures are of.

A record names all that they depend on: the cell by its fingerprint, and the vote with its draw and
its thresholds, or the head's file. So nothing has to be kept for each query, and what is found can
be compared with the record.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from embedder.errors import EvaluationError
from embedder.store import Cell, Store
from embedder.types import Distance, Labels, Rows, Scores, Split
from evaluate.classes import confusion
from evaluate.knn import Protocol, find_neighbours, pick, score
from evaluate.metrics import Metrics, measure
from evaluate.results import Record
from evaluate.shots import Draw
from evaluate.thresholds import recentre
from index import heads
from index.vote import vote_of

_SAME = 1e-9
"""Figures of the same scores differ by less, however sums are ordered."""


@dataclass(frozen=True, eq=False)
class Replay:
    """The queries of a record, int64 (N,), their labels, and the scores that each was given."""

    record: Record
    cell: Cell
    rows: Rows
    labels: Labels
    scores: Scores

    @property
    def are_probabilities(self) -> bool:
        """Whether calibration can be asked of the scores; not of those that thresholds moved."""
        return are_probabilities(self.record)


def are_probabilities(record: Record) -> bool:
    return not record.protocol.get("thresholds")


def replay(record: Record, store: Store) -> Replay:
    """Compute the scores of ``record`` again from what is stored.

    Raises EvaluationError where the cell is not the one that was evaluated, or gives other figures
    than the record has; StoreError where something is not there.
    """
    cell = store.read(store.path(record.dataset, record.size, record.variant))
    if asdict(cell.header.fingerprint) != record.fingerprint:
        raise EvaluationError(f"{cell.path} is not what {_title(record)} was made of")
    split = Split(record.split)
    rows = cell.live(split)
    labels = pick(cell.labels(split), rows)
    scores = _vote(record, cell) if record.kind == "knn" else _probe(record, cell, store)
    if not _agree(record, cell, labels, scores):
        raise EvaluationError(
            f"{_title(record)} has other figures now; evaluate again: cases were erased since, "
            "or its head was replaced"
        )
    return Replay(record, cell, rows, labels, scores)


def _agree(record: Record, cell: Cell, labels: Labels, scores: Scores) -> bool:
    """Whether the scores give what the record has: counts, confusion and every figure."""
    task, classes = cell.dataset.task, cell.dataset.classes
    counted = record.confusion in (None, confusion(labels, scores, task, len(classes)))
    erased = sum(map(len, cell.erased.values()))
    if not counted or (record.counts["queries"], record.counts["erased"]) != (len(labels), erased):
        return False
    found = measure(labels, scores, task, classes, with_auc=record.metrics.auc is not None)
    for figure in fields(Metrics):
        now, then = getattr(found, figure.name), getattr(record.metrics, figure.name)
        if figure.name == "notes" or now is then:
            continue
        if now is None or then is None or abs(now - then) > _SAME:
            return False
    return True


def _vote(record: Record, cell: Cell) -> Scores:
    how = record.protocol
    protocol = Protocol(
        (how["k"],), Distance(how["distance"]), vote_of(how["vote"], how["temperature"]),
        Split(record.split), uniform_priors=how.get("priors") == "uniform",
    )  # fmt: skip
    support = Draw.of(cell, how["draw"]).support(how["shots"]) if how.get("shots") else None
    found = find_neighbours(cell, protocol, support=support)
    scores = score(cell, protocol, found, support)
    thresholds = how.get("thresholds")
    return scores if thresholds is None else recentre(scores, thresholds["values"])


def _probe(record: Record, cell: Cell, store: Store) -> Scores:
    head = heads.read(store.root / record.protocol["head"], cell)
    split = Split(record.split)
    return head.scores(pick(cell.embeddings(split), cell.live(split)))


def _title(record: Record) -> str:
    return f"the record of {record.variant} {record.dataset} {record.size} px ({record.created})"
