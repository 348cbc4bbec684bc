"""The figures of the published benchmark, and where a new one stands among them.

Every figure here is in percent, unlike those of result records, which are fractions. The files in
``evaluate/data`` say where they come from.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from math import fsum

from embedder import console
from embedder.backbones import BACKBONES, BENCHMARK
from embedder.datasets import MEDMNIST, SIZES
from embedder.errors import EvaluationError, UsageError
from embedder.registry import find as find_name

SOURCE = (
    "Doerrich, Di Salvo, Brockmann, Ledig, Scientific Reports 15, 7669 (2025), "
    "doi 10.1038/s41598-025-92156-9, supplementary tables S1 to S12"
)
AVERAGES_SOURCE = "Bachmeier, bachelor thesis, University of Bamberg (2024), tables 5 and 6"

DATASETS: tuple[str, ...] = tuple(row.name for row in MEDMNIST)

SCHEMES = {
    "end_to_end": "end-to-end training", "linear_probe": "linear probe", "knn": "k-NN (k = 11)",
}  # fmt: skip
"""Of the benchmark, and how a table names them."""

AVERAGES_SCHEMES = {
    "end_to_end": "end-to-end training",
    "mm_pt": "multi-domain multi-task training",
    "mm_pt_weighted": "multi-domain multi-task training, weighted losses",
}

METRICS = {"acc": "accuracy", "auc": "AUC"}
AVERAGES_METRICS = {"auc": "AUC", "balanced_accuracy": "balanced", "cohen_kappa": "kappa"}

ALIASES = {"probe": "linear_probe", "accuracy": "acc", "kappa": "cohen_kappa"}
"""Schemes and metrics that casebook calls by another name."""

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]+)?")


@dataclass(frozen=True)
class Published:
    """One figure in percent; ``std`` over three seeds, None for k-NN, which has no seed."""

    dataset: str
    scheme: str
    model: str
    resolution: int
    metric: str
    mean: float
    std: float | None


@dataclass(frozen=True)
class Averaged:
    """One figure in percent, the mean over the twelve datasets; ``std`` None if not published."""

    scheme: str
    model: str
    resolution: int
    metric: str
    mean: float
    std: float | None


@dataclass(frozen=True)
class Rank:
    """Where a value stands among the published models, best first.

    ``rank`` is 1 for the best of ``of``; equal values share the better rank. ``above``, ``equal``
    and ``below`` name the models, the best first.
    """

    dataset: str
    resolution: int
    scheme: str
    metric: str
    value: float
    rank: int
    of: int
    above: tuple[str, ...]
    equal: tuple[str, ...]
    below: tuple[str, ...]


@cache
def table() -> tuple[Published, ...]:
    """The 2,400 rows of the benchmark in the order of its file.

    Raises EvaluationError where the file is not exactly that.
    """
    name = "medmnistplus_published.csv"
    rows = []
    for number, (dataset, *cells) in _read(name, "dataset,scheme,model,resolution,metric,mean,std"):
        row = Published(dataset, *_parse(name, number, cells, 1))
        if (row.std is None) != (row.scheme == "knn"):
            raise _damage(name, f"line {number} has a deviation where none belongs, or lacks one")
        rows.append(row)
    trained = product(DATASETS, ("end_to_end", "linear_probe"), BENCHMARK, SIZES, METRICS)
    expected = {*trained, *product(DATASETS, ("knn",), BENCHMARK, SIZES, ("acc",))}
    _check(name, [(r.dataset, r.scheme, r.model, r.resolution, r.metric) for r in rows], expected)
    return tuple(rows)


@cache
def averages() -> tuple[Averaged, ...]:
    """The 168 rows of the thesis, the fractions of its tables as percent; errors as ``table``."""
    name = "big_published.csv"
    rows = []
    for number, cells in _read(name, "scheme,model,resolution,metric,mean,std"):
        row = Averaged(*_parse(name, number, cells, 100))
        if (row.std is None) != (row.scheme != "end_to_end"):
            raise _damage(name, f"line {number} has a deviation where none belongs, or lacks one")
        rows.append(row)
    pretrained = product(("mm_pt", "mm_pt_weighted"), ("resnet18", "vit"), SIZES, AVERAGES_METRICS)
    expected = {*pretrained, *product(("end_to_end",), BENCHMARK, SIZES, AVERAGES_METRICS)}
    _check(name, [(r.scheme, r.model, r.resolution, r.metric) for r in rows], expected)
    return tuple(rows)


def find(dataset: str, scheme: str, model: str, resolution: int, metric: str) -> Published | None:
    """The published figure of what casebook or the table calls so; None where there is none.

    ``model`` may be a backbone of the benchmark or the checkpoint that it is pinned to, as it
    stands in a fingerprint (``timm:vgg16.tv_in1k``).
    """
    key = (dataset, ALIASES.get(scheme, scheme), _checkpoints().get(model, model), resolution)
    return _index().get((*key, ALIASES.get(metric, metric)))


def rank_among(dataset: str, resolution: int, scheme: str, metric: str, value: float) -> Rank:
    """Where ``value``, in percent, stands among the ten models of the benchmark.

    It is compared at the two decimals that the table has.

    Raises:
        EvaluationError: nothing is published for this.
        UsageError: ``value`` is no percentage.
        UnknownNameError: an unknown dataset, scheme or metric.
    """
    find_name(dict.fromkeys(DATASETS), dataset, "published dataset")
    scheme = ALIASES.get(scheme, scheme)
    metric = ALIASES.get(metric, metric)
    find_name(SCHEMES, scheme, "published scheme")
    find_name(METRICS, metric, "published metric")
    if not 1 < value <= 100:
        raise UsageError(f"{value} is no percentage above 1 and up to 100, such as 91.5")
    found = [_index().get((dataset, scheme, model, resolution, metric)) for model in BENCHMARK]
    rows = sorted((row for row in found if row is not None), key=lambda row: -row.mean)
    if not rows:
        raise EvaluationError(
            f"no {METRICS[metric]} of {SCHEMES[scheme]} at {resolution} px is published; "
            f"sizes are {', '.join(map(str, SIZES))}, and k-NN has accuracy only"
        )
    own = round(value, 2)
    above = tuple(row.model for row in rows if row.mean > own)
    equal = tuple(row.model for row in rows if row.mean == own)
    below = tuple(row.model for row in rows if row.mean < own)
    return Rank(
        dataset, resolution, scheme, metric, value, len(above) + 1, len(rows) + 1,
        above, equal, below,
    )  # fmt: skip


def summaries(rows: Sequence[Published | Averaged]) -> list[str]:
    """A table per scheme and metric: models by resolutions, the mean over datasets in percent.

    A single figure stands with its deviation over the seeds. Every group must be complete: as
    the published rows are, whichever names they are chosen by.
    """
    groups: dict[tuple[str, str], list[Published | Averaged]] = defaultdict(list)
    for row in rows:
        groups[row.scheme, row.metric].append(row)
    schemes, metrics = SCHEMES | AVERAGES_SCHEMES, METRICS | AVERAGES_METRICS
    return [
        f"{metrics[metric]} (%), {schemes[scheme]}, published; {_over(group)}\n\n{_grid(group)}"
        for (scheme, metric), group in groups.items()
    ]


def _over(rows: Sequence[Published | Averaged]) -> str:
    names = {row.dataset for row in rows if isinstance(row, Published)} or set(DATASETS)
    return names.pop() if len(names) == 1 else f"mean over {len(names)} datasets"


def _grid(rows: Sequence[Published | Averaged]) -> str:
    sizes = sorted({row.resolution for row in rows})
    cells: dict[tuple[str, int], list[Published | Averaged]] = defaultdict(list)
    for row in rows:
        cells[row.model, row.resolution].append(row)
    lines = [
        [model, *(_cell(cells[model, size]) for size in sizes)]
        for model in sorted({row.model for row in rows})
    ]
    return console.table(lines, ["model", *(f"{s} px" for s in sizes)], "l" + "r" * len(sizes))


def _cell(rows: Sequence[Published | Averaged]) -> str:
    if len(rows) == 1 and rows[0].std is not None:
        return f"{rows[0].mean:.2f} ± {rows[0].std:.2f}"
    return f"{fsum(row.mean for row in rows) / len(rows):.2f}"


@cache
def _index() -> dict[tuple[str, str, str, int, str], Published]:
    return {(r.dataset, r.scheme, r.model, r.resolution, r.metric): r for r in table()}


@cache
def _checkpoints() -> dict[str, str]:
    rows = [BACKBONES[name] for name in BENCHMARK]
    return {f"{row.library}:{row.checkpoint}": row.name for row in rows}


def _read(name: str, head: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells under ``head``, after the lines that name the source."""
    text = (files("evaluate") / "data" / name).read_text(encoding="ascii")
    lines = text.splitlines()
    start = sum(line.startswith("# ") for line in lines)
    if lines[start : start + 1] != [head]:
        raise _damage(name, f"its columns are not {head}")
    for number, cells in enumerate(csv.reader(lines[start + 1 :], strict=True), start + 2):
        if len(cells) != head.count(",") + 1:
            raise _damage(name, f"line {number} has {len(cells)} cells")
        yield number, cells


def _parse(
    name: str, number: int, cells: list[str], scale: int
) -> tuple[str, str, int, str, float, float | None]:
    scheme, model, resolution, metric, mean, std = cells
    numbers = [mean, *([std] if std else [])]
    if resolution not in map(str, SIZES) or not all(map(_NUMBER.fullmatch, numbers)):
        raise _damage(name, f"line {number} has something else for a number")
    figures = [round(scale * float(text), 2) for text in (mean, std or "0")]
    if not all(0 <= figure <= 100 for figure in figures):
        raise _damage(name, f"line {number} is no percentage")
    return scheme, model, int(resolution), metric, figures[0], figures[1] if std else None


def _check(name: str, keys: Sequence[object], expected: Set[object]) -> None:
    if len(set(keys)) < len(keys):
        raise _damage(name, "a row stands twice")
    wrong = sorted(map(str, set(keys) ^ expected))
    if wrong:
        raise _damage(name, f"{len(wrong)} rows are missing or unknown, such as {wrong[0]}")


def _damage(name: str, what: str) -> EvaluationError:
    return EvaluationError(f"evaluate/data/{name} is damaged, {what}; install casebook again")
