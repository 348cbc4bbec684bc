"""A study: the figures of models on datasets, by scheme and resolution, each with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from embedder.backbones import BENCHMARK
from evaluate import published
from evaluate.schemes import ORDER
from evaluate.statistics import Figure
from evaluate.tables import METRICS

PUBLISHED_FILE = "evaluate/data/medmnistplus_published.csv"

_OWN_NAMES = {"acc": "accuracy", "auc": "auc"}
"""The published metrics as result records call them."""


@dataclass(frozen=True)
class Entry:
    """The figures of one model on one dataset at one resolution, by metric, in percent.

    ``means`` are over ``replicates`` seeds or draws, ``deviations`` their sample standard
    deviations, where there are several; ``bounds`` the 95 % interval of a single one. What is
    undefined is absent. ``sources`` name where the figures stand; where each metric stands in a
    place of its own, ``places`` do.
    """

    dataset: str
    scheme: str
    model: str
    resolution: int
    means: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    replicates: int = 1
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sources_of(self, metric: str) -> tuple[str, ...]:
        return self.places.get(metric, self.sources)

    @property
    def place(self) -> tuple[str, str, str, int]:
        return self.dataset, self.scheme, self.model, self.resolution


@dataclass(frozen=True)
class Study:
    """Entries, each place once. ``schemes`` and ``metrics`` map keys to what a table calls them.

    ``remarks`` say what a reader must know: what was left out, what contradicts what.
    """

    title: str
    source: str
    entries: tuple[Entry, ...]
    schemes: Mapping[str, str]
    metrics: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        return _ordered({entry.dataset for entry in self.entries}, published.DATASETS)

    @cached_property
    def models(self) -> tuple[str, ...]:
        return _ordered({entry.model for entry in self.entries}, BENCHMARK)

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(sorted({entry.resolution for entry in self.entries}))

    @cached_property
    def by_place(self) -> Mapping[tuple[str, str, str, int], Entry]:
        return {entry.place: entry for entry in self.entries}

    def figures(self, metric: str = "accuracy") -> list[Figure]:
        """What has the metric, for statistics and charts, in a fixed order."""
        known = []
        for place in product(self.datasets, self.schemes, self.models, self.resolutions):
            entry = self.by_place.get(place)
            if entry is not None and metric in entry.means:
                known.append(Figure(*place, entry.means[metric]))
        return known

    def missing(self) -> list[tuple[str, str, int, tuple[str, ...]]]:
        """Scheme, model, resolution, and the datasets of the study that these lack."""
        gaps = []
        for scheme, model, size in product(self.schemes, self.models, self.resolutions):
            absent = tuple(
                name for name in self.datasets if (name, scheme, model, size) not in self.by_place
            )
            if absent:
                gaps.append((scheme, model, size, absent))
        return gaps


def schemes_in_order(schemes: Mapping[str, str]) -> dict[str, str]:
    """The published ones first."""
    return {key: schemes[key] for key in _ordered(set(schemes), ORDER)}


def of_published() -> Study:
    """The 2,400 figures of the published benchmark; a source is a line of its file.

    Raises EvaluationError where that file is damaged.
    """
    means: dict[tuple[str, str, str, int], dict[str, float]] = {}
    deviations: dict[tuple[str, str, str, int], dict[str, float]] = {}
    sources: dict[tuple[str, str, str, int], dict[str, tuple[str, ...]]] = {}
    for number, row in enumerate(published.table(), 1):
        place, metric = (row.dataset, row.scheme, row.model, row.resolution), _OWN_NAMES[row.metric]
        means.setdefault(place, {})[metric] = row.mean
        sources.setdefault(place, {})[metric] = (f"figure {number}",)
        if row.std is not None:
            deviations.setdefault(place, {})[metric] = row.std
    entries = tuple(
        Entry(
            *place, found, deviations.get(place, {}), replicates=3 if place in deviations else 1,
            sources=tuple(name for names in sources[place].values() for name in names),
            places=sources[place],
        )
        for place, found in means.items()
    )  # fmt: skip
    remarks = ("k-NN was published with its accuracy alone; it has no AUC.",)
    metrics = {name: METRICS[name] for name in _OWN_NAMES.values()}
    return Study(
        "The published MedMNIST+ benchmark", f"{published.SOURCE}; {PUBLISHED_FILE}", entries,
        dict(published.SCHEMES), metrics, remarks,
    )  # fmt: skip


def _ordered(names: set[str], first: Sequence[str]) -> tuple[str, ...]:
    others = sorted(names - set(first), key=_natural)
    return (*(name for name in first if name in names), *others)


def _natural(name: str) -> list[tuple[int, str]]:
    """So that 2 comes before 11."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
