"""What a result record measured, by name: the published schemes, and variations of them."""

from __future__ import annotations

from typing import Any

from evaluate import published
from evaluate.results import Record

ORDER = tuple(published.SCHEMES)
"""Of the published schemes; others follow by name."""

_PROBE: dict[str, Any] = {
    "learning_rates": [1e-4], "weight_decays": [0.01], "batch": 64, "epochs": 100, "patience": 5,
    "schedule": "cosine",
}  # fmt: skip
"""The published protocol, as a record has it; seeds may be any."""


_GRID = ("learning_rates", "weight_decays")

_SWEEP: dict[str, Any] = {
    "learning_rates": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "weight_decays": [0.0, 0.01, 0.1],
}  # fmt: skip
"""The grid of ``probe-eval --sweep``."""

_LOGISTIC: dict[str, Any] = {
    "cs": [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3], "tolerance": 1e-6, "iterations": 1000,
}  # fmt: skip
"""How ``probe-eval --solver lbfgs`` fits."""


def scheme_of(record: Record) -> tuple[str, str]:
    """The key and the name of how a record's figures were come by.

    The published protocols have the published keys, whatever the seeds; what differs from them
    in any way has a name that says how, which is its key too.
    """
    key, name = (_knn if record.kind == "knn" else _probe)(record.protocol)
    if record.split != "test":
        return f"{name}, {record.split} split", f"{name}, {record.split} split"
    return key, name


def replicate_of(record: Record) -> int | None:
    """The seed or the draw, of which several make one figure; None where nothing is drawn."""
    how = record.protocol
    found = how.get("seed") if record.kind == "probe" else how.get("draw")
    return None if found is None else int(found)


def _knn(how: dict[str, Any]) -> tuple[str, str]:
    parts = []
    if how.get("k_from"):
        parts.append(f"k of {', '.join(map(str, how['k_from']))} by {how['k_by']}")
    else:
        parts.append(f"k = {how['k']}")
    if how.get("shots"):
        shots = how["shots"]
        parts.append(f"{shots} shot{'s' if shots > 1 else ''} of each class")
    if how["distance"] != "cosine":
        parts.append(str(how["distance"]))
    if how["vote"] != "majority":
        warmth = "" if how["temperature"] is None else f" at temperature {how['temperature']}"
        parts.append(f"{how['vote']} vote{warmth}")
    if how.get("priors"):
        parts.append(f"{how['priors']} priors")
    if how.get("thresholds"):
        parts.append(f"thresholds by {how['thresholds']['criterion']}")
    name = f"k-NN, {', '.join(parts)}"
    return ("knn", published.SCHEMES["knn"]) if name == "k-NN, k = 11" else (name, name)


def _probe(how: dict[str, Any]) -> tuple[str, str]:
    if how["solver"] == "lbfgs":
        other = [f"{key} {how[key]}" for key in _LOGISTIC if how[key] != _LOGISTIC[key]]
        name = ", ".join(["logistic regression", *map(_plain, other)])
        return name, name
    other = [f"{key} {how[key]}" for key in _PROBE if how[key] != _PROBE[key]]
    if not other:
        return "linear_probe", published.SCHEMES["linear_probe"]
    points = len(how["learning_rates"]) * len(how["weight_decays"])
    if points > 1:
        rest = [word for word in other if not word.startswith(_GRID)]
        is_sweep = {key: how[key] for key in _GRID} == _SWEEP
        axes = [] if is_sweep else [f"{key} {how[key]}" for key in _GRID]
        other = [f"the best of {points} settings on val", *axes, *rest]
    name = ", ".join(["linear probe", *map(_plain, other)])
    return name, name


def _plain(text: str) -> str:
    return text.replace("_", " ").replace("[", "").replace("]", "")
