"""Whether a run is worse than the committed one: ratios are compared, never seconds."""

from __future__ import annotations

from benchmarks.results import Findings, Result
from benchmarks.targets import BY_NAME, Bound, Target


def worsened(fresh: Findings, committed: Findings) -> list[str]:
    """A sentence for each row that is worse than its tolerance allows, or cannot be compared.

    Rows that either machine could not measure are passed over.
    """
    found = {result.name: result for result in fresh.results}
    known = {before.name: before for before in committed.results}
    complaints = [_complaint(found.get(name), before) for name, before in known.items()]
    new = [f"{name}: new; measure all rows anew" for name in found if name not in known]
    return [complaint for complaint in complaints if complaint] + new


def allowed(before: float, target: Target) -> float:
    """The worst ratio that the guard lets pass."""
    assert target.tolerance is not None
    if target.bound is Bound.AT_LEAST:
        return before * (1 - target.tolerance)
    return before * (1 + target.tolerance)


def _complaint(now: Result | None, before: Result) -> str:
    target = BY_NAME.get(before.name)
    if target is None:
        return f"{before.name}: no benchmark any more; measure all rows anew"
    if target.tolerance is None or before.ratio is None:
        return ""
    if now is None:
        return f"{before.name}: not measured; measure it, or take it out of the committed results"
    if now.ratio is None:
        return ""
    if now.shape != before.shape:
        return f"{before.name}: measured on {now.shape}, committed on {before.shape}; measure anew"
    limit = allowed(before.ratio.median, target)
    least = target.bound is Bound.AT_LEAST
    if now.ratio.median >= limit if least else now.ratio.median <= limit:
        return ""
    return (
        f"{before.name}: worse: {now.ratio.median:.2f}, committed {before.ratio.median:.2f}; "
        f"{'at least' if least else 'at most'} {limit:.2f} is allowed"
    )
