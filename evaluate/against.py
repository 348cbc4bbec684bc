"""Where a result stands against the published benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from embedder.errors import EvaluationError
from evaluate import published
from evaluate.results import Record

_SCHEMES = {"knn": "knn", "probe": "probe"}
_UNPUBLISHED = ("priors", "thresholds", "shots")
"""Of a protocol; nothing comparable is published."""


@dataclass(frozen=True)
class Standing:
    """A figure in percent beside the published one; None stands for what was not published."""

    published: float | None
    difference: float | None
    rank: str

    def columns(self) -> tuple[str, str, str]:
        """As a table shows them."""
        if self.published is None or self.difference is None:
            return "-", "-", self.rank
        return f"{self.published:.2f}", f"{self.difference:+.2f}", self.rank


HEADS = ("published", "difference", "rank")


def stand(record: Record, accuracy: float) -> Standing:
    """Where ``accuracy``, a fraction, of the record's cell stands; k-NN of the published k alone.

    A model of the benchmark is compared with its own figure; any is ranked among the ten, itself
    among them as the eleventh.
    """
    value = 100 * accuracy
    if not _is_comparable(record):
        return Standing(None, None, "-")
    scheme = _SCHEMES[record.kind]
    place = (record.dataset, scheme, str(record.fingerprint["checkpoint"]), record.size)
    found = published.find(*place, "accuracy")
    try:
        rank = published.rank_among(record.dataset, record.size, scheme, "accuracy", value)
        text = f"{rank.rank} of {rank.of}"
    except EvaluationError:
        text = "-"
    if found is None:
        return Standing(None, None, text)
    return Standing(found.mean, value - found.mean, text)


def _is_comparable(record: Record) -> bool:
    """The published protocol, on the published split of a published dataset."""
    if record.split != "test" or record.dataset not in published.DATASETS:
        return False
    how = record.protocol
    if any(how.get(name) is not None for name in _UNPUBLISHED):
        return False
    if record.kind == "knn":
        return (how["k"], how["vote"], how["distance"]) == (11, "majority", "cosine")
    return record.kind in _SCHEMES
