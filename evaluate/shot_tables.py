"""Tables of few-shot evaluations: figures are means over draws, with their standard deviation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from embedder import console
from evaluate.results import Record
from evaluate.tables import METRICS, percent, protocol_text, remarks


@dataclass(frozen=True)
class Draws:
    """The records of one cell and one number of shots, a draw each, in their order."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def shots(self) -> int:
        return int(self.first.protocol["shots"])

    def values(self, metric: str) -> list[float] | None:
        """One for each draw, as fractions; None where that of any draw is undefined."""
        found = [getattr(record.metrics, metric) for record in self.records]
        return None if None in found else found

    def text(self, metric: str) -> str:
        values = self.values(metric)
        return "-" if values is None else _spread(values)


def gather(records: Sequence[Record]) -> list[Draws]:
    """By cell and shots, in order of dataset, size, variant and shots."""
    groups: dict[tuple[str, int, str, int], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: int(r.protocol["draw"])):
        place = record.dataset, record.size, record.variant, record.protocol["shots"]
        groups[place].append(record)
    return [Draws(tuple(groups[place])) for place in sorted(groups)]


def summary(records: Sequence[Record], metric: str = "accuracy") -> str:
    """Models and sizes by shots: the mean over datasets of the mean over draws, in percent.

    The deviation is that over draws of the mean over datasets. A mean over fewer datasets than the
    table has says over how many.
    """
    groups = gather(records)
    datasets = sorted({group.first.dataset for group in groups})
    shots = sorted({group.shots for group in groups})
    grid: dict[tuple[str, int, int], list[Draws]] = defaultdict(list)
    for group in groups:
        grid[group.first.variant, group.first.size, group.shots].append(group)
    rows = [
        [
            variant, size,
            *(_mean(grid[variant, size, count], metric, len(datasets)) for count in shots),
        ]
        for variant, size in sorted({(g.first.variant, g.first.size) for g in groups})
    ]  # fmt: skip
    head = ["model", "px", *(f"{count} shot{'s' if count > 1 else ''}" for count in shots)]
    over = datasets[0] if len(datasets) == 1 else f"mean over {len(datasets)} datasets"
    table = console.table(rows, head, "l" + "r" * (len(head) - 1))
    title = f"{METRICS[metric]} (%), {_draws_text(groups)}; {over}"
    spread = ["±: over draws, of the mean over datasets"] if len(datasets) > 1 else []
    return "\n\n".join([f"{title}\n\n{table}", *spread, *remarks(records, records)])


def per_dataset(records: Sequence[Record]) -> str:
    """A line per cell and number of shots with every metric, in percent (kappa too)."""
    groups = gather(records)
    head = ("dataset", "model", "px", "shots", "k", "queries", *METRICS.values())
    rows = [
        (
            g.first.dataset, g.first.variant, g.first.size, g.shots, g.first.protocol["k"],
            f"{g.first.counts['queries']:,}", *(g.text(name) for name in METRICS),
        )
        for g in groups
    ]  # fmt: skip
    table = console.table(rows, head, "ll" + "r" * (len(head) - 2))
    return "\n\n".join([_draws_text(groups), table, *remarks(records, records)])


def _mean(groups: Sequence[Draws], metric: str, count: int) -> str:
    known = [values for group in groups if (values := group.values(metric)) is not None]
    if not known:
        return "-"
    text = _spread([fmean(values) for values in zip(*known, strict=True)])
    return text if len(known) == count else f"{text} ({len(known)} of {count})"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of several, sample standard deviation, in percent."""
    deviation = f" ± {percent(stdev(values))}" if len(values) > 1 else ""
    return f"{percent(fmean(values))}{deviation}"


def _draws_text(groups: Sequence[Draws]) -> str:
    asked, draws = groups[0].first.protocol["k_asked"], len(groups[0].records)
    spread = f", mean ± std of {draws} draws" if draws > 1 else ""
    return f"few-shot, k = {asked}, at most the shots, {protocol_text(groups[0].records)}{spread}"
