"""``python -m benchmarks``: measure, write what was found, or compare it with what is committed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.targets import PATHS
from embedder import console
from embedder.errors import CasebookError, UsageError

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from benchmarks.results import Findings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "python -m benchmarks",
        "Measure every path against its limit and its rivals, in eight minutes. A whole run writes "
        "benchmarks/results.json, with --full results-full.json, and a table in "
        "docs/performance.md.",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="every row, in half an hour; without it those that tell most",
    )
    console.add_list(
        parser,
        "--only",
        "NAME",
        f"these rows, or the rows of these paths (the quick ones, with --full all): "
        f"{', '.join(PATHS)}; only printed",
    )
    parser.add_argument(
        "--rounds", metavar="N", default="5", help="of each side, at least (default 5)"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results here, and nothing else"
    )
    output.add_argument(
        "--check", action="store_true",
        help="write nothing; fail where a ratio is worse than the committed one",
    )  # fmt: skip
    return parser


def _handle(options: argparse.Namespace) -> int:
    rounds = console.numbers([options.rounds], "--rounds")
    if len(rounds) != 1:
        raise UsageError("--rounds takes one number")
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched while the clock runs
    from benchmarks.document import table, write_table
    from benchmarks.machine import facts
    from benchmarks.plan import Plan, run
    from benchmarks.results import Findings, read, rounded, write
    from benchmarks.rounds import ROUNDS

    plan = Plan(options.full, rounds[0], frozenset(console.words(options.only)))
    committed = (
        ROOT / "benchmarks" / ("results-full.json" if plan.mode == "full" else "results.json")
    )
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise UsageError(f"{options.json} cannot be written; give --json a file in a folder")
    before = read(committed) if options.check else None
    findings = Findings(plan.mode, facts(), rounded(run(plan)))
    print(table(findings), end="")
    if before is not None:
        return _check(plan, findings, before)
    if options.json:
        write(findings, options.json)
    elif not plan.only and plan.rounds >= ROUNDS:
        write(findings, committed)
        write_table(PAGE, findings)
    else:
        print(
            f"\nnothing was written: that takes all rows in {ROUNDS} rounds or more, or --json FILE"
        )
    return 0


def _check(plan: Plan, fresh: Findings, before: Findings) -> int:
    from benchmarks.guard import worsened
    from benchmarks.results import Findings

    if fresh.machine != before.machine:
        print("note: the committed ratios are of another machine or other libraries")
    names = frozenset(plan.names())
    wanted = tuple(row for row in before.results if not plan.only or row.name in names)
    complaints = worsened(fresh, Findings(before.mode, before.machine, wanted))
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        rows = "row is" if len(complaints) == 1 else "rows are"
        raise CasebookError(f"{len(complaints)} {rows} worse or cannot be compared; see above")
    print("no row is worse than its tolerance allows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
