"""Tables of linear probes: figures are means over seeds, with their standard deviation."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean, stdev

from embedder import console
from evaluate.against import HEADS, stand
from evaluate.metrics import Metrics
from evaluate.results import Record
from evaluate.tables import METRICS, bounds, figure_text, percent, remarks

_USUAL, _DECAY = {"epochs": 100, "patience": 5}, 0.01
"""Of the published protocol; a title names what differs."""


@dataclass(frozen=True)
class Seeds:
    """The records of one cell, a seed each."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    def values(self, metric: str) -> list[float] | None:
        """One for each seed, as fractions; None where a seed's is undefined."""
        found = [getattr(record.metrics, metric) for record in self.records]
        return None if None in found else found

    def text(self, metric: str) -> str:
        """Mean and, over several seeds, sample standard deviation, in percent."""
        values = self.values(metric)
        if len(self.records) == 1:
            return figure_text(self.first, metric)
        if values is None:
            return "-"
        return f"{percent(fmean(values))} ± {percent(stdev(values))}"


def gather(records: Sequence[Record]) -> list[Seeds]:
    """By cell, in order of dataset, size and variant."""
    cells: dict[tuple[str, int, str], list[Record]] = defaultdict(list)
    for record in records:
        cells[record.dataset, record.size, record.variant].append(record)
    return [Seeds(tuple(cells[key])) for key in sorted(cells)]


def summary(records: Sequence[Record], metric: str = "accuracy") -> str:
    """Models by resolutions: the mean over datasets of the mean over seeds, in percent.

    The deviation is that over seeds of the mean over datasets. A mean over fewer datasets than the
    table has says over how many.
    """
    cells = gather(records)
    datasets = sorted({cell.first.dataset for cell in cells})
    sizes = sorted({cell.first.size for cell in cells})
    grid: dict[tuple[str, int], list[Seeds]] = defaultdict(list)
    for cell in cells:
        grid[cell.first.variant, cell.first.size].append(cell)
    rows = [
        [variant, *(_mean(grid.get((variant, size), []), metric, len(datasets)) for size in sizes)]
        for variant in sorted({cell.first.variant for cell in cells})
    ]
    over = datasets[0] if len(datasets) == 1 else f"mean over {len(datasets)} datasets"
    table = console.table(
        rows, ["model", *(f"{size} px" for size in sizes)], "l" + "r" * len(sizes)
    )
    title = f"{METRICS[metric]} (%), {protocol_text(records)}; {over}"
    blank = [record for record in records if getattr(record.metrics, metric) is None]
    spread = ["±: over seeds, of the mean over datasets"] if len(datasets) > 1 else []
    parts = [f"{title}\n\n{table}", *spread, *remarks(records, blank), *_notes(records)]
    return "\n\n".join(parts)


def per_dataset(records: Sequence[Record], *, against: bool = False) -> str:
    """A line per cell with every metric; ``against`` adds where its accuracy stands."""
    more = HEADS if against else ()
    head = ("dataset", "model", "px", "queries", *METRICS.values(), *more)
    rows = [
        (
            cell.first.dataset, cell.first.variant, cell.first.size,
            f"{cell.first.counts['queries']:,}", *(cell.text(name) for name in METRICS),
            *(stand(cell.first, _accuracy(cell)).columns() if against else ()),
        )
        for cell in gather(records)
    ]  # fmt: skip
    table = console.table(rows, head, "ll" + "r" * (len(head) - 2))
    parts = [protocol_text(records), table, *remarks(records, records), *_notes(records)]
    return "\n\n".join(parts)


def intervals(records: Sequence[Record], metrics: Sequence[str] = tuple(METRICS)) -> str:
    """A line per head with these metrics, each with its interval."""
    head = ("dataset", "model", "px", "seed", *(METRICS[name] for name in metrics))
    rows = [
        (
            r.dataset, r.variant, r.size, "-" if r.protocol["seed"] is None else r.protocol["seed"],
            *(figure_text(r, name) for name in metrics),
        )
        for cell in gather(records) for r in cell.records
    ]  # fmt: skip
    table = console.table(rows, head, "ll" + "r" * (len(head) - 2))
    title = protocol_text(records, is_mean=False)
    parts = [title, table, *bounds(records), *remarks(records, records), *_notes(records)]
    return "\n\n".join(parts)


def as_csv(records: Sequence[Record]) -> str:
    """A line per head; metrics as fractions, an undefined one empty."""
    sink = io.StringIO()
    names = [f.name for f in fields(Metrics) if f.name != "notes"]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["dataset", "task", "model", "res", "split", "solver", "seed", "learning_rate",
         "weight_decay", "best_epoch", "queries", *names, "checkpoint", "head", "created"]
    )  # fmt: skip
    for r in records:
        how = r.protocol
        writer.writerow(
            [r.dataset, r.task, r.variant, r.size, r.split, how["solver"], how["seed"],
             how.get("learning_rate"), how.get("weight_decay"), how.get("best_epoch"),
             r.counts["queries"], *(getattr(r.metrics, name) for name in names),
             r.fingerprint["checkpoint"], how["head"], r.created]
        )  # fmt: skip
    return sink.getvalue()


def protocol_text(records: Sequence[Record], *, is_mean: bool = True) -> str:
    how, split = records[0].protocol, records[0].split
    if how["solver"] == "lbfgs":
        return f"logistic regression (L-BFGS), C chosen on val, {split} split"
    seeds = len(how["seeds"])
    swept = len(how["learning_rates"]) * len(how["weight_decays"]) > 1
    rate = "swept on val" if swept else f"{how['learning_rates'][0]:g}"
    over = f", mean ± std of {seeds} seeds" if seeds > 1 and is_mean else ""
    other = [f"{key} {how[key]}" for key, usual in _USUAL.items() if how[key] != usual]
    if not swept and how["weight_decays"] != [_DECAY]:
        other.append(f"weight decay {how['weight_decays'][0]:g}")
    training = ", ".join(["AdamW", f"learning rate {rate}", *other])
    return f"linear probe ({training}){over}, {split} split"


def _accuracy(cell: Seeds) -> float:
    return fmean(record.metrics.accuracy for record in cell.records)


def _mean(cells: Sequence[Seeds], metric: str, count: int) -> str:
    known = [values for cell in cells if (values := cell.values(metric)) is not None]
    if not known:
        return "-"
    by_seed = [fmean(values) for values in zip(*known, strict=True)]
    spread = f" ± {percent(stdev(by_seed))}" if len(by_seed) > 1 else ""
    text = f"{percent(fmean(by_seed))}{spread}"
    return text if len(known) == count else f"{text} ({len(known)} of {count})"


def _notes(records: Sequence[Record]) -> list[str]:
    """What training said, and how many heads stopped at the last epoch, still improving."""
    notes = {f"{r.dataset}: {note}": None for r in records for note in r.protocol["notes"]}
    late = [r for r in records if r.protocol.get("best_epoch") == r.protocol.get("epochs", 0)]
    if late:
        notes[
            f"{len(late)} of {len(records)} heads were best at their last epoch: a higher learning "
            "rate may do better (--sweep)"
        ] = None
    return ["\n".join(notes)] if notes else []
