"""The tables of a study: all datasets together, each dataset, what is missing, what it is of."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean

from embedder.datasets import DATASETS, Dataset
from embedder.types import Split
from evaluate.against import HEADS, stand
from evaluate.grid import MARKS, Grid, Item, mark_best, slug
from evaluate.ledger import Ledger
from evaluate.schemes import replicate_of, scheme_of
from evaluate.study import Entry, Study

SHOWN = {"accuracy": "accuracy", "auc": "AUC"}
"""The metrics that the report shows; its CSV has all."""

_MARKS = f"{'; '.join(MARKS.values())}."
_DEVIATION = "±: standard deviation over seeds or draws."
_BOUNDS = "[…]: 95 % interval of the bootstrap over queries."


def summary(study: Study) -> list[Grid]:
    """A table per metric: schemes and models by resolutions, each the mean over all datasets."""
    return [_summary(study, metric) for metric in SHOWN if study.figures(metric)]


def _summary(study: Study, metric: str) -> Grid:
    places = [
        (scheme, model)
        for scheme, model in product(study.schemes, study.models)
        if any(e.scheme == scheme and e.model == model and metric in e.means for e in study.entries)
    ]
    cells = [
        [_gather(study, scheme, model, size, metric) for size in study.resolutions]
        for scheme, model in places
    ]
    flat = [
        (scheme, size, _mean(entries, metric, len(study.datasets)))
        for (scheme, _), line in zip(places, cells, strict=True)
        for size, entries in zip(study.resolutions, line, strict=True)
    ]
    marks = iter(mark_best(flat))
    rows = []
    for (scheme, model), line in zip(places, cells, strict=True):
        items = [_over(entries, metric, len(study.datasets), study) for entries in line]
        named = (Item(study.schemes[scheme]), Item(model))
        rows.append((*named, *(Item(i.text, i.sources, next(marks)) for i in items)))
    count = len(study.datasets)
    over = study.datasets[0] if count == 1 else f"mean over {count} datasets"
    notes = [_MARKS, *_legend(study.entries)] if count == 1 else [_MARKS]
    if count > 1 and any(entry.deviations for entry in study.entries):
        notes.append("±: the mean over datasets of the standard deviation over seeds or draws.")
    if any(" of " in item.text for row in rows for item in row[2:]):
        notes.append("A mean over fewer datasets says over how many, and takes no part in marks.")
    return Grid(
        f"summary-{metric}", f"{SHOWN[metric][0].upper()}{SHOWN[metric][1:]} (%), {over}",
        ("scheme", "model", *(f"{size} px" for size in study.resolutions)),
        tuple(rows), "ll" + "r" * len(study.resolutions), 1, tuple(notes),
    )  # fmt: skip


def _gather(study: Study, scheme: str, model: str, size: int, metric: str) -> list[Entry]:
    found = [study.by_place.get((name, scheme, model, size)) for name in study.datasets]
    return [entry for entry in found if entry is not None and metric in entry.means]


def _mean(entries: Sequence[Entry], metric: str, count: int) -> float | None:
    """None where a dataset is missing."""
    return fmean(entry.means[metric] for entry in entries) if len(entries) == count else None


def _over(entries: Sequence[Entry], metric: str, count: int, study: Study) -> Item:
    if not entries:
        return Item("-")
    sources = tuple(name for entry in entries for name in entry.sources_of(metric))
    if count == 1:
        return Item(_figure(entries[0], metric), sources)
    text = f"{fmean(entry.means[metric] for entry in entries):.2f}"
    spread = [e.deviations[metric] for e in entries if metric in e.deviations]
    if len(spread) == len(entries):
        text += f" ± {fmean(spread):.2f}"
    return Item(text if len(entries) == count else f"{text} ({len(entries)} of {count})", sources)


def _figure(entry: Entry, metric: str) -> str:
    text = f"{entry.means[metric]:.2f}"
    if metric in entry.deviations:
        return f"{text} ± {entry.deviations[metric]:.2f}"
    if metric in entry.bounds:
        low, high = entry.bounds[metric]
        return f"{text} [{low:.2f}, {high:.2f}]"
    return text


def _legend(entries: Sequence[Entry]) -> list[str]:
    """What stands behind a figure, where anything does."""
    spread = [_DEVIATION] if any(entry.deviations for entry in entries) else []
    return spread + ([_BOUNDS] if any(entry.bounds for entry in entries) else [])


def per_dataset(study: Study) -> list[Grid]:
    """A table per dataset: schemes and models by resolutions, every metric that is shown."""
    return [_dataset(study, name) for name in study.datasets]


def _dataset(study: Study, dataset: str) -> Grid:
    mine = [entry for entry in study.entries if entry.dataset == dataset]
    metrics = [metric for metric in SHOWN if any(metric in entry.means for entry in mine)]
    sizes = sorted({entry.resolution for entry in mine})
    pairs = {(entry.scheme, entry.model) for entry in mine}
    places = [pair for pair in product(study.schemes, study.models) if pair in pairs]
    columns = []
    for metric in metrics:
        found = [
            (scheme, size, study.by_place.get((dataset, scheme, model, size)))
            for scheme, model in places
            for size in sizes
        ]
        values = [(s, px, entry.means.get(metric) if entry else None) for s, px, entry in found]
        marked = zip(found, mark_best(values), strict=True)
        columns.append([
            Item(_figure(entry, metric), entry.sources_of(metric), mark)
            if entry is not None and metric in entry.means else Item("-")
            for (_, _, entry), mark in marked
        ])  # fmt: skip
    rows = []
    for number, (scheme, model) in enumerate(places):
        part = slice(number * len(sizes), (number + 1) * len(sizes))
        figures = [item for column in columns for item in column[part]]
        rows.append((Item(study.schemes[scheme]), Item(model), *figures))
    notes = [_MARKS, *_legend(mine)]
    head = [f"{SHOWN[metric]}, {size} px" for metric in metrics for size in sizes]
    return Grid(
        f"dataset-{slug(dataset)}", f"{dataset} (%)", ("scheme", "model", *head), tuple(rows),
        "ll" + "r" * len(head), 1, tuple(notes),
    )  # fmt: skip


def missing(study: Study) -> Grid | None:
    """Which datasets a scheme, model and resolution lacks; None where nothing is missing."""
    gaps = study.missing()
    if not gaps:
        return None
    count = len(study.datasets)
    rows = tuple(
        (
            Item(study.schemes[scheme]), Item(model), Item(f"{size} px"),
            Item(f"{count - len(absent)} of {count}"),
            Item("all" if len(absent) == count else ", ".join(absent)),
        )
        for scheme, model, size, absent in gaps
    )  # fmt: skip
    head = ("scheme", "model", "resolution", "datasets", "missing")
    return Grid("missing", "What this study lacks", head, rows, "llrrl", 2)


def datasets(study: Study, known: Mapping[str, Dataset]) -> Grid:
    """What the study is of; ``known`` are datasets that casebook does not have by name."""
    rows = []
    for name in study.datasets:
        dataset = known.get(name) or DATASETS.get(name)
        if dataset is None:
            rows.append(tuple(map(Item, (name, "-", "-", "-", "-", "-", "-"))))
            continue
        counts = [f"{dataset.count(split):,}" for split in Split]
        facts = (name, str(dataset.task), str(len(dataset.classes)), str(dataset.channels))
        rows.append(tuple(map(Item, (*facts, *counts))))
    head = ("dataset", "task", "classes", "channels", "train", "val", "test")
    return Grid("datasets", "The datasets, with the images of each split", head, tuple(rows),
                "llrrrrr")  # fmt: skip


def records(ledger: Ledger) -> Grid:
    """A line per record that the figures are of; its first column is how the report names it."""
    rows = []
    for number, line in enumerate(ledger.lines, 1):
        r = line.record
        drawn = replicate_of(r)
        rows.append(tuple(map(Item, (
            str(number), r.dataset, scheme_of(r)[1], r.variant, f"{r.size}",
            "-" if drawn is None else str(drawn),
            *("-" if (x := getattr(r.metrics, m)) is None else f"{100 * x:.2f}" for m in SHOWN),
            r.created[:19], line.name,
        ))))  # fmt: skip
    head = ("record", "dataset", "scheme", "model", "px", "seed or draw", *SHOWN.values(),
            "made (UTC)", "file")  # fmt: skip
    return Grid("records", "Result records", head, tuple(rows), "rlllrrrrll")


def standings(ledger: Ledger) -> Grid:
    """Each place beside the published figure, and its rank among the ten published models."""
    rows = []
    for entry in ledger.study.entries:
        first = ledger.of(entry)[0].record
        if "accuracy" not in entry.means:
            continue
        found = stand(first, entry.means["accuracy"] / 100).columns()
        if found[-1] == "-":
            continue
        rows.append((
            Item(entry.dataset), Item(ledger.study.schemes[entry.scheme]), Item(entry.model),
            Item(f"{entry.resolution} px"), Item(_figure(entry, "accuracy"), entry.sources),
            *map(Item, found),
        ))  # fmt: skip
    head = ("dataset", "scheme", "model", "resolution", "accuracy", *HEADS)
    left = len(ledger.study.entries) - len(rows)
    notes = ["Published are ten models; a rank is that among them and the model itself."]
    if left:
        notes.append(f"Left out are results of other datasets or protocols: {left:,}.")
    return Grid("against-published", "Accuracy (%) beside the published", head, tuple(rows),
                "lllrrrrr", 2, tuple(notes))  # fmt: skip


def figures_csv(study: Study) -> str:
    """A line per figure, in percent, unrounded, with the files that it is of."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["dataset", "scheme", "model", "resolution", "metric", "mean", "deviation", "low", "high",
         "replicates", "sources"]
    )  # fmt: skip
    for entry in study.entries:
        for metric, mean in entry.means.items():
            low, high = entry.bounds.get(metric, ("", ""))
            writer.writerow(
                [entry.dataset, entry.scheme, entry.model, entry.resolution, metric, mean,
                 entry.deviations.get(metric, ""), low, high, entry.replicates,
                 "; ".join(entry.sources_of(metric))]
            )  # fmt: skip
    return sink.getvalue()
