"""Where a result stands against the published benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from embedder.datasets import DATASETS
from embedder.errors import EvaluationError
from embedder.types import Split
from evaluate import published
from evaluate.results import Record
from evaluate.schemes import scheme_of


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
    """Where ``accuracy``, a fraction, stands; of the published protocols and cases alone.

    A model of the benchmark is compared with its own figure; any is ranked among the ten, itself
    among them as the eleventh.
    """
    value = 100 * accuracy
    scheme = scheme_of(record)[0]
    if scheme not in published.SCHEMES or not _is_published(record):
        return Standing(None, None, "-")
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


def _is_published(record: Record) -> bool:
    """Whether the cases are all those of the published dataset, and no others."""
    if record.dataset not in published.DATASETS:
        return False
    dataset, counts = DATASETS[record.dataset], record.counts
    expected = (dataset.count(Split.TEST), dataset.count(Split.TRAIN), len(dataset.classes))
    return (counts["queries"], counts["support"], counts["classes"]) == expected
