"""Result records: one JSON file per evaluation, in ``<store>/results/``, never rewritten.

A record holds all that its figures rest on, and every table is made from records. The fields are
described in docs/evaluation.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedder.errors import EvaluationError
from embedder.files import write_whole
from embedder.store import Cell, store_errors
from embedder.types import Split
from evaluate.intervals import Interval
from evaluate.metrics import Metrics
from evaluate.record_form import check

FORMAT = "casebook-result"
SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One evaluation of one cell. ``created`` is UTC in ISO 8601; ``timings`` are in seconds."""

    kind: str
    created: str
    dataset: str
    task: str
    size: int
    variant: str
    split: str
    protocol: dict[str, Any]
    metrics: Metrics
    counts: dict[str, int]
    fingerprint: dict[str, Any]
    timings: dict[str, float]
    versions: dict[str, str]
    embedding_versions: dict[str, str]
    intervals: dict[str, dict[str, Any]] | None = None
    confusion: list[list[list[int]]] | None = None
    format: str = field(default=FORMAT)
    schema: int = field(default=SCHEMA)

    @classmethod
    def of(
        cls,
        cell: Cell,
        kind: str,
        split: Split,
        protocol: dict[str, Any],
        metrics: Metrics,
        queries: int,
        timings: dict[str, float],
        versions: dict[str, str],
        intervals: dict[str, Interval] | None = None,
        confusion: list[list[list[int]]] | None = None,
    ) -> Record:
        """What an evaluation of ``cell`` now found on ``queries`` cases of a split."""
        dataset = cell.dataset
        return cls(
            kind=kind,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            dataset=dataset.name,
            task=str(dataset.task),
            size=cell.size,
            variant=cell.header.variant,
            split=str(split),
            protocol=protocol,
            metrics=metrics,
            counts={
                "support": len(cell.live(Split.TRAIN)),
                "queries": queries,
                "classes": len(dataset.classes),
                "erased": sum(map(len, cell.erased.values())),
            },
            fingerprint=asdict(cell.header.fingerprint),
            timings=timings,
            versions=versions,
            embedding_versions=cell.header.versions,
            intervals=None if intervals is None else {n: asdict(i) for n, i in intervals.items()},
            confusion=confusion,
        )

    @property
    def untrained(self) -> bool:
        return str(self.fingerprint.get("checkpoint", "")).startswith("random:")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises EvaluationError where the text is no record of this schema, field by field."""
        try:
            facts = json.loads(text)
            if facts["format"] != FORMAT or facts["schema"] != SCHEMA:
                raise EvaluationError(
                    f"it is {facts['format']} of schema {facts['schema']}; "
                    f"this casebook reads {FORMAT} of schema {SCHEMA}"
                )
            check(facts)
            facts["counts"].setdefault("erased", 0)  # older records are of cells that kept all
            metrics = facts.pop("metrics")
            metrics["notes"] = tuple(metrics["notes"])
            return cls(metrics=Metrics(**metrics), **facts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EvaluationError(f"it is no result record ({error})") from error


def append(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Write each record to a file of its own in ``folder``; the files' paths."""
    with store_errors(folder, "--results"):
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder, record) for record in records]


def read(paths: Iterable[Path]) -> list[Record]:
    """The records in the given files; raises EvaluationError naming one that cannot be read."""
    records = []
    for path in paths:
        try:
            records.append(Record.from_json(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise EvaluationError(f"there is no file {path}; check its name") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise EvaluationError(f"cannot read {path}: {reason}; give a result record") from error
        except (UnicodeDecodeError, EvaluationError) as error:
            raise EvaluationError(f"{path}: {error}; remove it to go on without it") from error
    return records


def paths(folder: Path) -> list[Path]:
    """Every record file in ``folder``."""
    return sorted(folder.glob("*.json"))


def _write(folder: Path, record: Record) -> Path:
    text = record.to_json()
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"{record.kind}-{record.dataset}-{record.size}-{record.variant}-{record.split}-{digest}"
    path = folder / f"{name}.json"
    write_whole(path, text.encode())
    return path
