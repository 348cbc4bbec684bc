"""What in a stored cell is likely wrong: cases in two places, labels that no neighbour has.

Nothing here is proof: an embedding is a view of an image. Definitions are in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from embedder.datasets import ImageSource
from embedder.errors import SearchError
from embedder.store import Cell
from embedder.types import Distance, Labels, Rows, Split, Task, Vectors
from index.build import Kind, build
from index.points import CHUNK, check, ready
from index.search import Neighbours, SupportSet, similarity

COMPARED = tuple((cases, s) for n, s in enumerate(Split) for cases in list(Split)[n:])
"""Each split against itself and the earlier ones."""

KINDS = ("identical image", "identical embedding", "near")

_FEWEST = 20  # training cases from which on a threshold is chosen
_QUERIES = 8192  # searched at a time, which bounds the memory that it takes
_SAME = 2.0**-22  # 1 - cosine of one direction: four units in float32's last place


@dataclass(frozen=True)
class Balance:
    """The classes of one split; ``zeros`` counts embeddings of length 0, which have no cosine.
    ``counts`` are of cases per class or, multi-label, of those that have each label;
    ``equitabilities`` are then per label, and ``equitability`` is their mean."""

    split: Split
    cases: int
    erased: int
    zeros: int
    counts: tuple[int, ...]
    equitability: float | None
    equitabilities: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Duplicate:
    """A case and its likely twin, in the same split or an earlier one.
    ``similarity`` is None for zero vectors, ``same_pixels`` without images."""

    split: Split
    row: int
    twin_split: Split
    twin_row: int
    kind: str
    similarity: float | None
    same_embedding: bool
    same_pixels: bool | None
    same_label: bool


@dataclass(frozen=True)
class Suspect:
    """A label that all k nearest training cases contradict, the surer the nearer to 1 ``strength``.

    ``label`` is the name of a multi-label task's. ``share`` of the ``neighbours`` (training rows)
    have what is ``suggested``; ``similarity`` is their mean cosine, ``own_similarity`` that of the
    nearest training case labelled alike; ``usual`` is how often such labels are contradicted.
    """

    split: Split
    row: int
    label: str
    given: str
    suggested: str
    strength: float
    share: float
    usual: float
    similarity: float
    own_similarity: float | None
    neighbours: tuple[int, ...]


@dataclass(frozen=True)
class Audit:
    """``near`` is the cosine from which on a twin is near, None where none could be chosen.
    Duplicates of different labels come first, then those across splits; suspects by strength."""

    k: int
    near: float | None
    balances: tuple[Balance, ...]
    duplicates: tuple[Duplicate, ...]
    suspects: tuple[Suspect, ...]


@dataclass(frozen=True)
class _Cases:
    """One split, called ``name``: its live ``rows``, and those ``usable`` for a cosine."""

    split: Split
    name: str
    rows: Rows
    usable: Rows
    vectors: Vectors
    labels: Labels
    embeddings: list[bytes]
    pixels: list[bytes]


def audit(cell: Cell, k: int, near: float | None, kind: Kind, source: ImageSource | None) -> Audit:
    """Compare each split of a cell with itself and the earlier ones; erased rows are left out.

    ``near`` None chooses it by ``choose_near``; without ``source`` pixels are not compared. Raises
    SearchError where k exceeds the training cases, or an embedding is not finite.
    """
    cases = {split: _read(cell, split, source) for split in Split}
    others = len(cases[Split.TRAIN].usable) - 1
    if k > others:
        name = cases[Split.TRAIN].name
        raise SearchError(f"k = {k}, but a case of {name} has {max(others, 0)} others; lower --k")
    duplicates: list[Duplicate] = []
    suspects: list[Suspect] = []
    usual: list[NDArray[np.float64]] = []
    for split, earlier in COMPARED:
        queries, support = cases[split], cases[earlier]
        count = k if earlier is Split.TRAIN else 1
        found = _search(queries, queries.usable, support, support.usable, count, kind)
        if near is None and split is Split.TRAIN:
            near = choose_near(found.similarities[:, 0])
        duplicates += _twins(queries, support, found, near)
        if earlier is Split.TRAIN:
            suspects += _suspects(queries, support, found, cell, usual, kind)
    duplicates.sort(key=_order)
    suspects.sort(key=lambda suspect: -suspect.strength)
    balances = tuple(_balance(cases[split], cell) for split in Split)
    return Audit(k, near, balances, tuple(duplicates), tuple(suspects))


def _order(pair: Duplicate) -> tuple[bool, bool, int, float]:
    within = pair.split is pair.twin_split
    return pair.same_label, within, KINDS.index(pair.kind), -(pair.similarity or 0)


def choose_near(similarities: NDArray[np.float32]) -> float | None:
    """The cosine beyond which less than one training case is expected to have a neighbour.

    ``similarities``, float32 (N,), are of each training case and its nearest other. The distances 1
    - cosine, but for those of one direction, are taken as Weibull, as those among evenly strewn
    points are, and fitted by their quartiles. The threshold is their quantile 1 / N: one false
    alarm (A. Desolneux et al., IJCV 40, 2000). None for fewer than 20, or equal quartiles.
    """
    distances = 1 - similarities.astype(np.float64)
    distances = distances[distances > _SAME]
    if len(distances) < _FEWEST:
        return None
    lower, upper = np.log(np.quantile(distances, (0.25, 0.75)))
    if lower == upper:
        return None
    low, high, wanted = (np.log(-np.log1p(-p)) for p in (0.25, 0.75, 1 / len(distances)))
    return float(1 - np.exp(lower + (wanted - low) * (upper - lower) / (high - low)))


def equitability(counts: Sequence[int]) -> float | None:
    """Shannon's, -sum(p ln p) / ln S over S classes, from 0 (one class) to 1 (all alike).

    None for fewer than two classes, or no case. (E. C. Pielou, J. Theor. Biol. 13, 1966)
    """
    total = sum(counts)
    if len(counts) < 2 or total == 0:
        return None
    shares = np.array([count for count in counts if count], np.float64) / total
    return abs(float(np.sum(shares * np.log(shares)) / np.log(len(counts))))


def _read(cell: Cell, split: Split, source: ImageSource | None) -> _Cases:
    vectors, rows = cell.embeddings(split), cell.live(split)
    digests: list[bytes] = []
    filled = np.zeros(len(vectors), np.bool_)
    for first in range(0, len(vectors), CHUNK):
        block = vectors[first : first + CHUNK].astype(np.float32) + np.float32(0)  # no -0.0
        filled[first : first + CHUNK] = block.any(axis=1)
        digests += _digests(block)
    batches = () if source is None else source.batches(split, 256)
    pixels = [digest for batch in batches for digest in _digests(batch)]
    name, usable = f"{cell.dataset.name}/{split}", rows[filled[rows]]
    return _Cases(split, name, rows, usable, vectors, cell.labels(split), digests, pixels)


def _digests(block: NDArray[np.generic]) -> Iterator[bytes]:
    return (blake2b(row.tobytes(), digest_size=16).digest() for row in block)


def _balance(cases: _Cases, cell: Cell) -> Balance:
    labels, total = cases.labels[cases.rows], len(cases.rows)
    facts = (cases.split, total, len(cell.erased[cases.split]), total - len(cases.usable))
    if cell.dataset.task is not Task.MULTILABEL:
        counts = np.bincount(labels[:, 0], minlength=len(cell.dataset.classes)).tolist()
        return Balance(*facts, tuple(counts), equitability(counts))
    counts = labels.sum(axis=0, dtype=np.int64).tolist()
    each = [equitability((total - count, count)) for count in counts]
    mean = sum(value or 0 for value in each) / len(each) if total else None
    return Balance(*facts, tuple(counts), mean, tuple(each))


def _search(
    cases: _Cases, rows: Rows, support: _Cases, known: Rows, k: int, kind: Kind
) -> Neighbours:
    """The k nearest ``known`` rows of the support, for each of the ``rows``; none of too few."""
    within = cases.split is support.split
    if len(rows) == 0 or len(known) - within < k:
        return Neighbours(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
    points = SupportSet.of(support.vectors, Distance.COSINE, support.name, known)
    index, parts = build(points, kind), []
    for first in range(0, len(rows), _QUERIES):
        part = rows[first : first + _QUERIES]
        check(cases.vectors, Distance.COSINE, cases.name, part)
        vectors = cases.vectors[part]
        parts.append(index.search(vectors, k, np.searchsorted(known, part) if within else None))
    return Neighbours(
        known[np.concatenate([part.rows for part in parts])],
        np.concatenate([part.similarities for part in parts]),
    )


def _twins(cases: _Cases, others: _Cases, found: Neighbours, near: float | None) -> list[Duplicate]:
    """A pair for every case that has a twin: the first identical one, else the nearest."""
    exact = _identical(cases, others, cases.embeddings, others.embeddings)
    exact |= _identical(cases, others, cases.pixels, others.pixels)
    pairs = set(exact.items())
    close = found.similarities[:, 0].astype(np.float64) >= (2 if near is None else near)
    for place in np.flatnonzero(close):
        pair = int(cases.usable[place]), int(found.rows[place, 0])
        if pair[0] not in exact:
            pairs.add((max(pair), min(pair)) if cases.split is others.split else pair)
    return [_twin(cases, others, *pair) for pair in sorted(pairs)]


def _twin(cases: _Cases, others: _Cases, row: int, twin: int) -> Duplicate:
    same = cases.embeddings[row] == others.embeddings[twin]
    pixels = cases.pixels[row] == others.pixels[twin] if cases.pixels and others.pixels else None
    pair = cases.vectors[[row]], others.vectors[[twin]]
    cosine = None
    if all(vector.any() for vector in pair):
        a, b = (ready(vector, Distance.COSINE, cases.name) for vector in pair)
        cosine = float(similarity(a, b, Distance.COSINE)[0])
    return Duplicate(
        cases.split, row, others.split, twin, KINDS[0 if pixels else 1 if same else 2], cosine,
        same, pixels, np.array_equal(cases.labels[row], others.labels[twin]),
    )  # fmt: skip


def _identical(
    cases: _Cases, others: _Cases, own: list[bytes], theirs: list[bytes]
) -> dict[int, int]:
    """The first row that equals each case, but for the case itself."""
    first: dict[bytes, int] = {}
    for row in others.rows.tolist() if theirs else ():
        first.setdefault(theirs[row], row)
    twins = {row: first[own[row]] for row in cases.rows.tolist() if first and own[row] in first}
    within = cases.split is others.split
    return {row: twin for row, twin in twins.items() if not (within and row == twin)}


def _suspects(
    cases: _Cases, support: _Cases, found: Neighbours, cell: Cell,
    usual: list[NDArray[np.float64]], kind: Kind,
) -> list[Suspect]:  # fmt: skip
    """The contradicted labels; those of the training split come first, and fill ``usual``."""
    multilabel, classes = cell.dataset.task is Task.MULTILABEL, cell.dataset.classes
    columns = [(name, (f"no {name}", name)) for name in classes] if multilabel else [("", classes)]
    listed = []
    for column, (label, names) in enumerate(columns):
        given = cases.labels[cases.usable, column]
        voted = support.labels[found.rows, column]
        alone = np.flatnonzero((voted != given[:, None]).all(axis=1))
        if cases.split is Split.TRAIN:
            totals = np.bincount(given, minlength=len(names))
            times = np.bincount(given[alone], minlength=len(names))
            usual.append(np.where(totals == 0, 1, times / np.maximum(totals, 1)))
        for value in np.unique(given[alone]):
            places = alone[given[alone] == value]
            alike = support.usable[support.labels[support.usable, column] == value]
            own = _search(cases, cases.usable[places], support, alike, 1, kind).similarities
            for number, place in enumerate(places):
                counts = np.bincount(voted[place])
                share, rate = float(counts.max() / counts.sum()), float(usual[column][value])
                cosine = float(found.similarities[place].mean(dtype=np.float64))
                nearest = float(own[number, 0]) if len(own) else None
                row, others = int(cases.usable[place]), tuple(found.rows[place].tolist())
                strength = share * _apart(cosine, nearest) * (1 - rate)
                what = label, names[value], names[int(counts.argmax())], strength, share, rate
                listed.append(Suspect(cases.split, row, *what, cosine, nearest, others))
    return listed


def _apart(similarity: float, own: float | None) -> float:
    """How much nearer the neighbours lie than the nearest case labelled alike: 0 to 1."""
    return 0.0 if own is None or own >= 1 else max(0.0, 1 - (1 - similarity) / (1 - own))
