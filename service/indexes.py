"""Which indexes are served, which of them a request means, and what is on record of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedder.fingerprint import Fingerprint
from embedder.registry import find
from embedder.types import Distance, Split
from index.vote import SoftmaxVote
from service.answers import Accuracy, Index, Indexes, IndexProbe, ProbeAccuracy
from service.errors import BadRequestError
from service.served import Served, ServedCell

_PLAIN = {
    "k", "distance", "vote", "temperature", "support", "leave_one_out", "tie", "index", "k_from",
    "k_by",
}  # fmt: skip
"""What the protocol of a k-NN record may have; corrected scores or drawn supports have more."""


@dataclass(frozen=True)
class Measured:
    """An accuracy of the embeddings that ``fingerprint``, in JSON, names; by which protocol."""

    fingerprint: str
    protocol: Mapping[str, Any]
    accuracy: Accuracy | ProbeAccuracy


def pick(served: Served, dataset: str | None, model: str | None, res: int | None) -> ServedCell:
    """The one index that a request means; what it leaves out must leave no choice.

    ``model`` is a variant or a backbone. Raises UnknownNameError for a name that is not served,
    BadRequestError where several indexes match, or none.
    """
    cells = served.cells
    if dataset is not None:
        find({cell.cell.dataset.name: None for cell in cells}, dataset, "served dataset")
        cells = [cell for cell in cells if cell.cell.dataset.name == dataset]
    if model is not None:
        find({name: None for cell in cells for name in _names(cell)}, model, "served model")
        exact = [cell for cell in cells if cell.model == model]
        cells = exact or [cell for cell in cells if model in _names(cell)]
    if res is not None:
        sizes = sorted({cell.cell.size for cell in cells})
        cells = [cell for cell in cells if cell.cell.size == res]
        if not cells:
            raise BadRequestError(f"{res} px is not served; served: {', '.join(map(str, sizes))}")
    if len(cells) > 1:
        names = ", ".join(f"{c.cell.dataset.name} {c.model} {c.cell.size} px" for c in cells[:6])
        more = " ..." if len(cells) > 6 else ""
        raise BadRequestError(f"say which index: dataset, model and res of {names}{more}")
    return cells[0]


def _names(cell: ServedCell) -> tuple[str, str]:
    return cell.model, cell.cell.header.fingerprint.backbone


def listing(served: Served, results: Path) -> Indexes:
    """Every served index; ``results`` is the folder of result records."""
    records = on_record(results)
    return Indexes(indexes=[_describe(cell, records) for cell in served.cells])


def _describe(cell: ServedCell, records: Sequence[Measured]) -> Index:
    dataset, state = cell.cell.dataset, cell.collection.state
    mine = cell.cell.header.fingerprint.to_json()
    known = [one for one in records if one.fingerprint == mine]
    votes = [one.accuracy for one in known if isinstance(one.accuracy, Accuracy)]
    latest = {(accuracy.k, accuracy.vote): accuracy for accuracy in votes}
    test_gone = sum(split is Split.TEST for split, _ in state.erased)
    return Index(
        dataset=dataset.name, model=cell.model,
        backbone=cell.cell.header.fingerprint.backbone, res=cell.cell.size, task=dataset.task,
        channels=3 if dataset.channels == 3 else 1, classes=list(dataset.classes),
        cases=cell.count(), added=len(state.cases),
        erased=len(state.erased), test_cases=dataset.count(Split.TEST) - test_gone,
        untrained=cell.untrained, images=cell.images is not None,
        licence=dataset.licence, index_version=state.version,
        fingerprint=cell.fingerprint, accuracy=[latest[key] for key in sorted(latest)],
        probe=_describe_probe(cell, known),
    )  # fmt: skip


def _describe_probe(cell: ServedCell, known: Sequence[Measured]) -> IndexProbe | None:
    if cell.probe is None:
        return None
    found = None
    for one in known:
        if isinstance(one.accuracy, ProbeAccuracy) and cell.probe.is_of(one.protocol):
            found = one.accuracy
    facts = cell.probe.describe(cell.collection.state)
    return IndexProbe(**facts.model_dump(), accuracy=found)


def on_record(folder: Path) -> Sequence[Measured]:
    """What evaluations of test splits have measured, k-NN by the cosine, the latest last.

    Records are read as docs/evaluation.md describes them, again only when the folder changed.
    """
    try:
        return _read(folder, folder.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=1)
def _read(folder: Path, _: int) -> Sequence[Measured]:
    found = [measured for path in sorted(folder.glob("*.json")) for measured in _read_one(path)]
    return tuple(sorted(found, key=lambda measured: measured.accuracy.created))


def _read_one(path: Path) -> Iterator[Measured]:
    """Nothing of a file that is no such record."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        record = json.loads(path.read_text())
        kind, split, protocol = record["kind"], record["split"], record["protocol"]
        if (record["format"], split) != ("casebook-result", str(Split.TEST)):
            return
        facts = {"value": record["metrics"]["accuracy"], "created": record["created"]}
        fingerprint = Fingerprint(**record["fingerprint"]).to_json()
        if kind == "probe" and protocol["head"]:
            yield Measured(fingerprint, protocol, ProbeAccuracy(**facts))
        elif kind == "knn" and _as_served(protocol):
            voted = Accuracy(**facts, k=protocol["k"], vote=protocol["vote"])
            yield Measured(fingerprint, protocol, voted)


def _as_served(protocol: Mapping[str, Any]) -> bool:
    """Whether a k-NN evaluation decided as the service does, by every training case."""
    usual = protocol["temperature"] in (None, SoftmaxVote().temperature)
    return usual and protocol["distance"] == str(Distance.COSINE) and protocol.keys() <= _PLAIN
