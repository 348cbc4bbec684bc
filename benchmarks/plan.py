"""What a run measures, and the modules that measure it."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import Result, rounded
from benchmarks.rounds import ROUNDS
from benchmarks.targets import BY_NAME, PATHS, QUICK, TARGETS
from embedder.errors import EvaluationError
from embedder.heap import keep_freed
from embedder.registry import find

KEEPING = frozenset({"embed", "reach", "precision", "classify", "gpu"})
"""Paths that are run while this process keeps freed memory, as the command ``embed`` does."""


@dataclass(frozen=True)
class Plan:
    """``only`` names rows, or paths, of which those rows are measured that a run without it
    measures: all of them if ``full``, else the quick ones.
    """

    full: bool = False
    rounds: int = ROUNDS
    only: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        paths = dict.fromkeys(PATHS)
        for name in self.only:
            find({**BY_NAME, **paths} if "-" in name else paths, name, "benchmark")

    @property
    def mode(self) -> str:
        """Which of the committed runs has all that this one measures."""
        return "default" if not self.full and QUICK.issuperset(self.names()) else "full"

    def wants(self, name: str) -> bool:
        among = not self.only or BY_NAME[name].path in self.only
        return name in self.only or (among and (self.full or name in QUICK))

    def names(self) -> list[str]:
        """The rows that are measured, in the order of the table."""
        return [row.name for row in TARGETS if self.wants(row.name)]

    def paths(self) -> list[str]:
        """In the order in which they are measured: what keeps freed memory keeps it to the end."""
        paths = dict.fromkeys(BY_NAME[name].path for name in self.names())
        return sorted(paths, key=lambda path: path in KEEPING)


Measure = Callable[[Plan, Path], Iterator[Result]]
"""Gives the rows of one path that a plan wants; what it writes lies below the folder."""


def run(plan: Plan) -> tuple[Result, ...]:
    """Measure path after path, each in a folder of its own that is removed again.

    Raises EvaluationError where a row that was asked for was not measured, or one was that was not.
    """
    found: dict[str, Result] = {}
    for path in plan.paths():
        if path in KEEPING:
            keep_freed()
        measure: Measure = importlib.import_module(f"benchmarks.{path}").measure
        with tempfile.TemporaryDirectory(prefix="casebook-benchmark-") as folder:
            for result in measure(plan, Path(folder)):
                found[result.name] = result
                _tell(*rounded([result]))
    if set(found) != set(plan.names()):
        odd = ", ".join(sorted(set(found) ^ set(plan.names())))
        raise EvaluationError(f"measured were other rows than asked for: {odd}; mend the suite")
    return tuple(found[name] for name in plan.names())


def _tell(result: Result) -> None:
    figure = f"{result.ratio.median:.2f}" if result.ratio else "not measured"
    told = "; ".join(filter(None, (result.shape, result.detail)))
    print(f"{result.name}: {figure} ({told})", file=sys.stderr, flush=True)
