"""The table of a run, and its place in docs/performance.md."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.results import Findings, Result
from benchmarks.rounds import Spread
from benchmarks.targets import BY_NAME, TARGETS, Bound, Target, Unit
from embedder.errors import EvaluationError

HEAD = "| row | found | processor time | target | measured on |\n|---|---|---|---|---|\n"


def table(findings: Findings) -> str:
    """As Markdown: the machine's facts, the rows by what is compared, what was not measured."""
    facts = "; ".join(f"{name} {value}" for name, value in findings.machine.items())
    text = f"{facts}.\n\n{_summary(findings)}\n"
    for compared in dict.fromkeys(row.compared for row in TARGETS):
        rows = [
            _line(result, BY_NAME[result.name])
            for result in findings.results
            if result.ratio and BY_NAME[result.name].compared == compared
        ]
        if rows:
            text += f"\n**{compared}**\n\n{HEAD}{''.join(rows)}"
    others = [result for result in findings.results if result.ratio is None]
    reasons = dict.fromkeys(result.detail for result in others)
    for reason in reasons:
        names = ", ".join(f"`{result.name}`" for result in others if result.detail == reason)
        text += f"\nNot measured: {names}: {reason}.\n"
    return text


def _summary(findings: Findings) -> str:
    """How many targets are met, and which are not."""
    judged = [
        (result.name, target.meets(result.ratio.median))
        for result in findings.results
        if result.ratio and (target := BY_NAME[result.name]).target is not None
    ]
    if not judged:
        return "No row with a target was measured."
    missed = ", ".join(f"`{name}`" for name, met in judged if not met)
    met = sum(met for _, met in judged)
    return f"{met} of {len(judged)} targets are met; missed: {missed or 'none'}."


def write_between(text: str, mode: str, new: str) -> str:
    """``text`` with what stands between the markers of ``mode`` replaced by ``new``.

    Raises EvaluationError where the markers do not stand there once, in order.
    """
    first, last = f"<!-- benchmarks: {mode} -->\n", f"<!-- end of benchmarks: {mode} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise EvaluationError(
            f"the page needs {first.strip()} and {last}, once and in this order; put them back"
        )
    before, _, rest = text.partition(first)
    return f"{before}{first}{new}{last}{rest.partition(last)[2]}"


def write_table(path: Path, findings: Findings) -> None:
    path.write_text(write_between(path.read_text(), findings.mode, table(findings)))


def verdict(result: Result, target: Target) -> str:
    """``1.25 or less: missed``; ``shown`` where there is no target."""
    if target.target is None or result.ratio is None:
        return "shown"
    side = "or more" if target.bound is Bound.AT_LEAST else "or less"
    unit = " s" if target.unit is Unit.SECONDS else ""
    found = "met" if target.meets(result.ratio.median) else "missed"
    return f"{target.target:g}{unit} {side}: {found}"


def _line(result: Result, target: Target) -> str:
    assert result.ratio is not None
    judged = re.sub("missed$", "**missed**", verdict(result, target))
    measured = "; ".join(
        filter(
            None,
            (result.shape, result.detail, f"{result.rounds} round{'s' * (result.rounds != 1)}"),
        )
    )
    found = _spread(result.ratio) + (" s" if target.unit is Unit.SECONDS else "")
    cpu = _spread(result.cpu) if result.cpu else "-"
    cells = (f"`{result.name}`", found, cpu, judged, measured)
    return f"| {' | '.join(cells)} |\n"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
