"""From result records to a study: which records count, and what contradicts what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from embedder.errors import EvaluationError
from evaluate.results import Record
from evaluate.schemes import replicate_of, scheme_of
from evaluate.study import Entry, Study, schemes_in_order
from evaluate.tables import METRICS

_SHOWN = 5
"""The most examples that a remark names."""


@dataclass(frozen=True)
class Line:
    """A record, and the name of the file that it stands in."""

    name: str
    record: Record

    @property
    def place(self) -> tuple[str, str, str, int]:
        r = self.record
        return r.dataset, scheme_of(r)[0], r.variant, r.size

    def __str__(self) -> str:
        r, drawn = self.record, replicate_of(self.record)
        which = "" if drawn is None else f", {'seed' if r.kind == 'probe' else 'draw'} {drawn}"
        return f"{r.dataset}, {scheme_of(r)[1]}, {r.variant}, {r.size} px{which}"


@dataclass(frozen=True)
class Ledger:
    """The lines that count, the latest of each place, and the study that they make."""

    lines: tuple[Line, ...]
    study: Study

    @cached_property
    def by_name(self) -> Mapping[str, Line]:
        return {line.name: line for line in self.lines}

    def of(self, entry: Entry) -> tuple[Line, ...]:
        """The lines that an entry's figures are of."""
        return tuple(self.by_name[name] for name in entry.sources)


def gather(lines: Sequence[Line], source: str, split: str = "test") -> Ledger:
    """The study of the records on ``split``.

    Of several records of one place, seed and draw the latest counts; of several fingerprints of
    one cell that of the latest record, whatever its scheme. Every other is left out, and a remark
    says so.

    Raises EvaluationError where no record is left.
    """
    chosen = [line for line in lines if line.record.split == split]
    if not chosen:
        others = sorted({line.record.split for line in lines})
        have = f"; there are some on {', '.join(others)}" if others else ""
        raise EvaluationError(
            f"there is no result record on {split} in {source}{have}; "
            "run knn-eval or probe-eval first"
        )
    kept, remarks = _latest(chosen)
    left = len(lines) - len(chosen)
    if left:
        remarks = [f"{_count(left, 'record')} of another split, and left out.", *remarks]
    groups: dict[tuple[str, str, str, int], list[Line]] = defaultdict(list)
    for line in sorted(kept, key=lambda line: (line.place, replicate_of(line.record) or 0)):
        groups[line.place].append(line)
    entries = tuple(_entry(place, group) for place, group in groups.items())
    schemes = schemes_in_order(dict(scheme_of(line.record) for line in kept))
    remarks += [*_contradictions(kept), *_uneven(entries, schemes), *_untrained(kept)]
    study = Study("Results", source, entries, schemes, METRICS, tuple(remarks))
    return Ledger(tuple(line for group in groups.values() for line in group), study)


def _latest(lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
    """One line for each place and replicate, all of a cell of one fingerprint."""
    prints: dict[tuple[str, str, int], Any] = {}
    newest: dict[tuple[Any, int | None], Line] = {}
    older: list[Line] = []
    changed: list[Line] = []
    for line in sorted(lines, key=lambda line: (line.record.created, line.name), reverse=True):
        wanted = prints.setdefault(_cell(line), line.record.fingerprint)
        key = (line.place, replicate_of(line.record))
        if line.record.fingerprint != wanted:
            changed.append(line)
        elif key in newest and _adds_intervals(line.record, newest[key].record):
            older.append(newest[key])
            newest[key] = line
        elif key in newest:
            older.append(line)
        else:
            newest[key] = line
    remarks = []
    if older or changed:
        count = _count(len(older) + len(changed), "older record")
        remarks.append(f"{count} left out for a later one.")
    if changed:
        remarks.append(f"Of another embedding than the latest: {name_some(map(str, changed))}.")
    differ = [
        line
        for line in older
        if line.record.metrics != newest[line.place, replicate_of(line.record)].record.metrics
    ]
    if differ:
        remarks.append(f"Where a later record has other figures: {name_some(map(str, differ))}.")
    return list(newest.values()), remarks


def _adds_intervals(old: Record, new: Record) -> bool:
    """Whether an older record has the same figures, and their intervals besides."""
    return bool(old.intervals) and not new.intervals and old.metrics == new.metrics


def _cell(line: Line) -> tuple[str, str, int]:
    r = line.record
    return r.dataset, r.variant, r.size


def _entry(place: tuple[str, str, str, int], lines: Sequence[Line]) -> Entry:
    means, deviations, bounds = {}, {}, {}
    for metric in METRICS:
        found = [getattr(line.record.metrics, metric) for line in lines]
        if None in found:
            continue
        means[metric] = 100 * fmean(found)
        if len(found) > 1:
            deviations[metric] = 100 * stdev(found)
        else:
            interval = (lines[0].record.intervals or {}).get(metric, {})
            if interval.get("low") is not None:
                bounds[metric] = (100 * interval["low"], 100 * interval["high"])
    names = tuple(line.name for line in lines)
    return Entry(*place, means, deviations, bounds, names, len(lines))


def _contradictions(lines: Sequence[Line]) -> list[str]:
    """Figures of one dataset that are not of the same cases."""

    def images(record: Record) -> str:
        return str(record.fingerprint.get("dataset_checksum"))

    def size_of(record: Record) -> str:
        return f"{record.dataset} at {record.size} px"

    def queries(record: Record) -> int:
        return record.counts["queries"]

    def support(record: Record) -> int:
        return record.counts["support"]

    remarks = []
    mixed = _differing(lines, size_of, images)
    if mixed:
        remarks.append(
            f"Not all of the same images, and not to be compared: {name_some(mixed)}; embed again."
        )
    full = [line for line in lines if not line.record.protocol.get("shots")]
    uneven = {
        *_differing(lines, lambda record: record.dataset, queries),
        *_differing(full, lambda record: record.dataset, support),
    }
    if uneven:
        remarks.append(
            "Measured with different numbers of cases, since some were erased: "
            f"{name_some(sorted(uneven))}; evaluate again."
        )
    return remarks


def _differing(
    lines: Sequence[Line], name: Callable[[Record], str], fact: Callable[[Record], object]
) -> list[str]:
    """Names that have several facts."""
    found: dict[str, set[object]] = defaultdict(set)
    for line in lines:
        found[name(line.record)].add(fact(line.record))
    return sorted(name for name, facts in found.items() if len(facts) > 1)


def _uneven(entries: Sequence[Entry], schemes: Mapping[str, str]) -> list[str]:
    """Schemes of which some figures are means over fewer seeds or draws than others."""
    remarks = []
    for key, name in schemes.items():
        mine = [entry for entry in entries if entry.scheme == key]
        most = max(entry.replicates for entry in mine)
        fewer = [
            f"{entry.dataset}, {entry.model}, {entry.resolution} px ({entry.replicates})"
            for entry in mine if entry.replicates < most
        ]  # fmt: skip
        if fewer:
            remarks.append(f"{name}: fewer than the {most} seeds or draws of others: ")
            remarks[-1] += f"{name_some(fewer)}."
    return remarks


def _untrained(lines: Sequence[Line]) -> list[str]:
    names = sorted({line.record.variant for line in lines if line.record.untrained})
    return [f"Untrained, with random weights: {', '.join(names)}."] if names else []


def name_some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return "; ".join(every[:_SHOWN]) + more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s are' if number > 1 else ' is'}"
