"""What a run found, and its file: ratios, their spreads, and the facts of the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import Spent, Spread, cpu_ratio, wall_ratio
from embedder.errors import EvaluationError

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """One row as it was measured.

    ``ratio``, or seconds where the row's unit says so, is None where it cannot be measured here;
    ``detail`` then says why, otherwise what else is worth knowing. ``shape`` says on what. ``cpu``
    is the ratio of processor times, None where the sides are not in one process.
    """

    name: str
    shape: str
    ratio: Spread | None
    cpu: Spread | None = None
    rounds: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Findings:
    """All rows of one run. ``mode``, default or full, says which committed run has them all."""

    mode: str
    machine: dict[str, str]
    results: tuple[Result, ...]


def compare(
    name: str,
    shape: str,
    sides: Sequence[Sequence[Spent]],
    detail: str,
    scale: float = 1,
) -> Result:
    """Of two interleaved sides: ``scale`` times the first's seconds over the second's."""
    upper, lower = sides
    return Result(
        name, shape, wall_ratio(upper, lower, scale), cpu_ratio(upper, lower, scale),
        len(upper), detail,
    )  # fmt: skip


def absent(name: str, reason: str) -> Result:
    return Result(name, "", None, detail=reason)


def write(findings: Findings, path: Path) -> None:
    """Figures have four significant digits: more mean nothing, and would only make changes."""
    record = {
        "schema": SCHEMA,
        "mode": findings.mode,
        "machine": findings.machine,
        "results": [_plain(result) for result in findings.results],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def read(path: Path) -> Findings:
    """Raises EvaluationError where there is no such file, or another one."""
    try:
        record = json.loads(path.read_text())
        if record["schema"] != SCHEMA:
            raise EvaluationError(
                f"{path} has schema {record['schema']}, expected {SCHEMA}; measure again"
            )
        results = tuple(_result(row) for row in record["results"])
        return Findings(str(record["mode"]), dict(record["machine"]), results)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"no results at {path}; a run without --only and --check writes them, of all rows "
            "with --full"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} holds no results of the benchmarks; measure again"
        ) from error


def rounded(results: Iterable[Result]) -> tuple[Result, ...]:
    """As they would be read from a file that they were written to."""
    return tuple(_result(_plain(result)) for result in results)


def _plain(result: Result) -> dict[str, Any]:
    row = asdict(result)
    for part in ("ratio", "cpu"):
        if row[part] is not None:
            row[part] = {key: float(f"{value:.4g}") for key, value in row[part].items()}
    return row


def _result(row: dict[str, Any]) -> Result:
    spreads = {part: Spread(**row[part]) if row[part] else None for part in ("ratio", "cpu")}
    return Result(**{**row, **spreads})
