"""``casebook compare``: two results on the same cases, and whether they differ by chance."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.errors import EvaluationError, UsageError
from embedder.types import Task

if TYPE_CHECKING:
    from evaluate.calibration import Calibration
    from evaluate.comparison import Difference, McNemar
    from evaluate.replay import Replay
    from evaluate.results import Record


_LEAST = 1e-4
"""A p below this is given by its power of ten."""


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook compare",
        "Compare two results on the same queries: paired bootstrap, McNemar's test, calibration. "
        "Scores are computed again from the store.",
    )
    for name in ("first", "second"):
        parser.add_argument(
            name, type=Path, metavar="RECORD", help="a result record, as in STORE/results/"
        )
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default 1000)"
    )
    parser.add_argument("--json", action="store_true", help="everything as data")
    console.add_folders(parser)
    return parser


def _handle(options: argparse.Namespace) -> int:
    from embedder.store import Store, default_root
    from evaluate import results
    from evaluate.calibration import measure_calibration
    from evaluate.comparison import Run, compare, mcnemar
    from evaluate.replay import replay

    if not 1 <= options.resamples <= 1_000_000:
        raise UsageError("--resamples takes a number from 1 to 1,000,000")
    store = Store(options.store or default_root())
    paths = [_place(path, store.root / "results") for path in (options.first, options.second)]
    pair = [replay(record, store) for record in results.read(paths)]
    _refuse_unlike(*pair)
    first, second = (Run(one.labels, one.scores) for one in pair)
    dataset = pair[0].cell.dataset
    with_auc = all(one.record.metrics.auc is not None for one in pair)
    differences = compare(
        first, second, dataset.task, dataset.classes,
        with_auc=with_auc, resamples=options.resamples,
    )  # fmt: skip
    test = mcnemar(first, second, dataset.task, dataset.classes)
    calibrations = [
        measure_calibration(one.labels, one.scores, dataset.task, dataset.classes)
        if one.are_probabilities
        else None
        for one in pair
    ]
    if options.json:
        print(json.dumps(_facts(pair, differences, test, calibrations), indent=1))
    else:
        print(_text(pair, differences, test, calibrations, options.resamples))
    return 0


def _place(path: Path, folder: Path) -> Path:
    """A bare file name is one in the store's folder of results, unless it is here."""
    found = folder / path
    return found if path.name == str(path) and not path.exists() and found.exists() else path


def _refuse_unlike(first: Replay, second: Replay) -> None:
    """Raise EvaluationError where the queries are not the same cases."""
    one, two = first.record, second.record
    if (one.dataset, one.split) != (two.dataset, two.split):
        raise EvaluationError(
            f"{one.dataset} {one.split} and {two.dataset} {two.split} are not the same queries"
        )
    if first.rows.tolist() != second.rows.tolist() or (first.labels != second.labels).any():
        raise EvaluationError(
            "the two cells have other queries, or labels: cases were erased from one, or the "
            "dataset changed in between; embed and evaluate again"
        )


def _facts(
    pair: list[Replay],
    differences: dict[str, Difference],
    test: McNemar,
    calibrations: list[Calibration | None],
) -> dict[str, Any]:
    return {
        "records": [asdict(one.record) for one in pair],
        "differences": {name: asdict(found) for name, found in differences.items()},
        "mcnemar": asdict(test),
        "calibration": [None if found is None else asdict(found) for found in calibrations],
    }


def _text(
    pair: list[Replay],
    differences: dict[str, Difference],
    test: McNemar,
    calibrations: list[Calibration | None],
    resamples: int,
) -> str:
    from evaluate.tables import METRICS, percent

    record = pair[0].record
    heading = f"{record.dataset}, {record.split} split, {len(pair[0].rows):,} queries"
    runs = [f"{name}: {_name(one.record)}" for name, one in zip("AB", pair, strict=True)]
    rows = [
        (METRICS[name], percent(d.first), percent(d.second), _interval(d), _p(d.p))
        for name, d in differences.items()
    ]
    head = ("(%)", "A", "B", "A - B", "p")
    table = console.table(rows, head, "lrrrr")
    whole = "all labels right" if pair[0].cell.dataset.task is Task.MULTILABEL else "right"
    mcnemar = (
        f"McNemar ({test.method}): {whole} in both {test.both:,}, only A {test.only_first:,}, only "
        f"B {test.only_second:,}, neither {test.neither:,}; p = {_p(test.p)}"
    )
    lines = [
        (
            name,
            *("---" if found is None else map(_p, (found.ece, found.classwise_ece, found.brier))),
        )
        for name, found in zip("AB", calibrations, strict=True)
    ]
    shown = console.table(lines, ("calibration", "ECE", "classwise ECE", "Brier"), "lrrr")
    note = f"[95 % interval], two-sided p: paired bootstrap, {resamples:,} resamples"
    left_out = [note for found in differences.values() for note in found.notes]
    notes = "\n".join([note, *left_out])
    return "\n\n".join([f"{heading}\n" + "\n".join(runs), table, notes, mcnemar, shown])


def _name(record: Record) -> str:
    from evaluate.schemes import replicate_of, scheme_of

    drawn, noun = replicate_of(record), "seed" if record.kind == "probe" else "draw"
    which = "" if drawn is None else f", {noun} {drawn}"
    return f"{record.variant} at {record.size} px, {scheme_of(record)[1]}{which}"


def _interval(found: Difference) -> str:
    if found.estimate is None or found.low is None or found.high is None:
        return "-"
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or value >= _LEAST else f"{value:.1e}"


if __name__ == "__main__":
    sys.exit(main())
