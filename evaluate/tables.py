"""Tables of result records, for people and as CSV."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields

from embedder import console
from evaluate.against import HEADS, stand
from evaluate.metrics import Metrics
from evaluate.results import Record

METRICS = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced", "kappa": "kappa",
    "precision": "precision", "auc": "AUC",
}  # fmt: skip
"""Fields of Metrics, and how a table heads them."""

_NOTES = 8
"""The most that a table shows."""


def summary(records: Sequence[Record], metric: str = "accuracy") -> str:
    """A table per k: models by resolutions, each figure the mean over datasets, in percent.

    Where k was chosen on val for each cell there is one table of all.
    A mean over fewer datasets than the table has says over how many.
    """
    parts = []
    for k in sorted({_k_text(record) for record in records}, key=lambda text: (len(text), text)):
        chosen = [record for record in records if _k_text(record) == k]
        parts.append(f"{_title(chosen, metric)}\n\n{_grid(chosen, metric)}")
    blank = [record for record in records if getattr(record.metrics, metric) is None]
    shown = bounds(records) if len({record.dataset for record in records}) == 1 else []
    return "\n\n".join([*parts, *shown, *remarks(records, blank)])


def per_dataset(records: Sequence[Record], *, against: bool = False) -> str:
    """A line per record with every metric, in percent (kappa too), and intervals where it has any.

    ``against`` adds where its accuracy stands against the published.
    """
    more = HEADS if against else ()
    head = ("dataset", "model", "px", "k", "queries", *METRICS.values(), *more)
    rows = [
        (
            r.dataset, r.variant, r.size, r.protocol["k"], f"{r.counts['queries']:,}",
            *(figure_text(r, name) for name in METRICS),
            *(stand(r, r.metrics.accuracy).columns() if against else ()),
        )
        for r in sorted(records, key=lambda r: (r.dataset, r.size, r.variant, r.protocol["k"]))
    ]  # fmt: skip
    table = console.table(rows, head, "ll" + "r" * (len(head) - 2))
    chosen = f"{_k_text(records[0])}, " if records[0].protocol.get("k_from") else ""
    title = f"{chosen}{protocol_text(records)}"
    return "\n\n".join([title, table, *bounds(records), *remarks(records, records)])


def figure_text(record: Record, name: str) -> str:
    """A figure in percent, with its interval where the record has one: ``86.5 [83.7, 89.1]``."""
    value = percent(getattr(record.metrics, name))
    found = (record.intervals or {}).get(name)
    if found is None or found["low"] is None:
        return value
    return f"{value} [{percent(found['low'])}, {percent(found['high'])}]"


def as_csv(records: Sequence[Record]) -> str:
    """A line per record; metrics as fractions, an undefined one empty."""
    sink = io.StringIO()
    names = [f.name for f in fields(Metrics) if f.name != "notes"]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["dataset", "task", "model", "res", "split", "k", "distance", "vote", "temperature",
         "priors", "thresholds", "shots", "draw", "support", "queries", *names, "notes",
         "checkpoint", "created"]
    )  # fmt: skip
    for r in records:
        how = r.protocol
        writer.writerow(
            [r.dataset, r.task, r.variant, r.size, r.split, how["k"], how["distance"],
             how["vote"], how["temperature"], how.get("priors"), _criterion(r), how.get("shots"),
             how.get("draw"), r.counts["support"], r.counts["queries"],
             *(getattr(r.metrics, name) for name in names), "; ".join(r.metrics.notes),
             r.fingerprint["checkpoint"], r.created]
        )  # fmt: skip
    return sink.getvalue()


def _grid(records: Sequence[Record], metric: str) -> str:
    sizes = sorted({record.size for record in records})
    datasets = {record.dataset for record in records}
    cells: dict[tuple[str, int], dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: r.created):
        cells[record.variant, record.size][record.dataset] = record
    rows = [
        [variant, *(_mean(cells.get((variant, size), {}), metric, len(datasets)) for size in sizes)]
        for variant in sorted({record.variant for record in records})
    ]
    head = ["model", *(f"{size} px" for size in sizes)]
    return console.table(rows, head, "l" + "r" * len(sizes))


def _mean(cells: dict[str, Record], metric: str, count: int) -> str:
    """Over datasets; of a single one with its interval."""
    if count == 1:
        return "".join(figure_text(record, metric) for record in cells.values()) or "-"
    figures = [getattr(record.metrics, metric) for record in cells.values()]
    known = [figure for figure in figures if figure is not None]
    if not known:
        return "-"
    mean = percent(sum(known) / len(known))
    return mean if len(known) == count else f"{mean} ({len(known)} of {count})"


def _title(records: Sequence[Record], metric: str) -> str:
    datasets = sorted({record.dataset for record in records})
    over = datasets[0] if len(datasets) == 1 else f"mean over {len(datasets)} datasets"
    return f"{METRICS[metric]} (%), {_k_text(records[0])}, {protocol_text(records)}; {over}"


def _k_text(record: Record) -> str:
    tried = record.protocol.get("k_from")
    if tried is None:
        return f"k = {record.protocol['k']}"
    return f"k of {', '.join(map(str, tried))} by {record.protocol['k_by']}"


def protocol_text(records: Sequence[Record]) -> str:
    """How neighbours were found and counted, and of which split the queries are."""
    how, split = records[0].protocol, records[0].split
    warmth = "" if how["temperature"] is None else f" at temperature {how['temperature']}"
    priors = f", {how['priors']} priors" if how.get("priors") else ""
    criterion = _criterion(records[0])
    chosen = f", thresholds by val {criterion}" if criterion else ""
    left_out = ", leave-one-out" if how["leave_one_out"] else ""
    return f"{how['distance']}, {how['vote']} vote{warmth}{priors}{chosen}, {split} split{left_out}"


def _criterion(record: Record) -> str | None:
    """What thresholds were chosen by, if any were."""
    found: str | None = (record.protocol.get("thresholds") or {}).get("criterion")
    return found


def bounds(records: Sequence[Record]) -> list[str]:
    """What the brackets are, where there are any."""
    found = [r.intervals["accuracy"] for r in records if r.intervals]
    if not found:
        return []
    level, resamples = 100 * found[0]["level"], found[0]["resamples"]
    return [f"[{level:.0f} % interval]: {resamples:,} bootstrap resamples of the queries"]


def remarks(records: Sequence[Record], noted: Sequence[Record]) -> list[str]:
    """What a table does not show: models that are untrained, thresholds that could not be chosen,
    resamples that an interval does without, and the notes of the ``noted`` records, which say why
    figures are empty.
    """
    untrained = dict.fromkeys(record.variant for record in records if record.untrained)
    remarks = [f"untrained, random weights: {', '.join(untrained)}"] if untrained else []
    notes: dict[str, None] = {}
    for record in records:
        said = (record.protocol.get("thresholds") or {}).get("notes", ())
        notes.update((f"{record.dataset}: {note}", None) for note in said)
        for interval in (record.intervals or {}).values():
            notes.update((f"{record.dataset}: {note}", None) for note in interval["notes"])
    for record in noted:
        notes.update((f"{record.dataset}: {note}", None) for note in record.metrics.notes)
    if notes:
        more = len(notes) - _NOTES
        shown = [*list(notes)[:_NOTES], *([f"and {more} more, see --json"] if more > 0 else [])]
        remarks.append("\n".join(shown))
    return remarks


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
