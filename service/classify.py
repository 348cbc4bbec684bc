"""From an image, a stored case or an embedding to a prediction and the cases it rests on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from embedder.heap import give_back
from embedder.pictures import square
from embedder.selection import title
from embedder.types import Distance, Labels, Pixels, Scores, Task, Vectors
from index.search import Neighbours
from index.vote import agrees, count_votes, decide, vote_of
from service import cases, uploads
from service.answers import Classification, Familiarity, Neighbour, Score, Timings
from service.cases import CaseId
from service.errors import BadRequestError
from service.probe import PROBE, ServedProbe
from service.served import ServedCell
from service.telemetry import Stage
from service.workers import Found, Query

Observe = Callable[[Stage, float], None]
"""Told of each stage of each request, and its seconds."""


_DECODERS = 4
"""Images decoded at a time, at most: one of 50 megapixels takes up to 800 MB meanwhile."""

_GREAT = 16_000_000
"""Pixels of an image that took a quarter of what the service keeps (256 MB at 16 bytes a pixel):
too much to keep for what comes next. Photographs and radiographs are mostly smaller."""


@dataclass(frozen=True)
class Rule:
    """How many neighbours vote, and how they are counted, or that a probe decides."""

    k: int
    vote: str


class Classifier:
    """The one way to a prediction, whatever the request."""

    def __init__(self, limits: uploads.Limits, observe: Observe) -> None:
        self._limits = limits
        self._observe = observe
        self._decoders = ThreadPoolExecutor(min(_DECODERS, os.cpu_count() or 1), "casebook-decode")

    def close(self) -> None:
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def decode(self, block: bytes, cells: list[ServedCell]) -> list[Pixels]:
        """An upload as each cell's images are, uint8 (H, W, C), in a thread."""
        forms = [(cell.cell.size, cell.cell.dataset.channels) for cell in cells]
        return await self.decode_as(block, forms)

    async def decode_as(self, block: bytes, forms: list[tuple[int, int]]) -> list[Pixels]:
        """An upload in each of several forms: side length in pixels, and channels."""

        def work() -> list[Pixels]:
            image = uploads.decode(block, self._limits)
            found = [square(image, size, channels) for size, channels in forms]
            if image.width * image.height > _GREAT:
                del image
                give_back()
            return found

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def upload(self, block: bytes, cell: ServedCell, rule: Rule) -> Classification:
        """Raises what decoding, embedding and searching raise; the caller holds a slot."""
        began = time.perf_counter()
        check(cell, rule)
        (pixels,) = await self.decode(block, [cell])
        decoded = time.perf_counter() - began
        done = await cell.embedder.submit(pixels)
        spent: dict[Stage, float] = {"decode": decoded, "embed": done.worked, "queue": done.waited}
        return await self._search(cell, cell.as_stored(done.result), rule, None, None, began, spent)

    async def case(self, name: CaseId, cell: ServedCell, rule: Rule) -> Classification:
        """A stored case, which is not its own neighbour."""
        began = time.perf_counter()
        vector, own = cell.collection.vector(cell.fingerprint, name.split, name.row)
        check(cell, rule, own is not None)
        return await self._search(cell, vector, rule, own, str(name), began, {})

    async def vector(self, vector: list[float], cell: ServedCell, rule: Rule) -> Classification:
        began = time.perf_counter()
        check(cell, rule)
        with np.errstate(over="ignore"):
            query = np.array(vector, np.float32)
        width = cell.cell.header.fingerprint.width
        if query.shape != (width,) or not np.isfinite(query).all():
            raise BadRequestError(f"an embedding of {cell.model} is {width} finite numbers")
        return await self._search(cell, query, rule, None, None, began, {})

    async def _search(
        self,
        cell: ServedCell,
        vector: Vectors,
        rule: Rule,
        own: int | None,
        query: str | None,
        began: float,
        spent: dict[Stage, float],
    ) -> Classification:
        done = await cell.searcher.submit(Query(vector, rule.k, own))
        times: dict[Stage, float] = {
            "decode": 0.0, "embed": 0.0, **spent,
            "queue": spent.get("queue", 0.0) + done.waited, "search": done.worked,
        }  # fmt: skip
        for stage, seconds in times.items():
            self._observe(stage, seconds)
        milliseconds = {str(stage): round(1000 * seconds, 3) for stage, seconds in times.items()}
        total = round(1000 * (time.perf_counter() - began), 3)
        timings = Timings(**milliseconds, total=total)
        return answer(cell, vector, done.result, rule, query, timings)


def check(cell: ServedCell, rule: Rule, is_own: bool = False) -> None:
    """Raise BadRequestError where k is more than there are cases, or there is no probe to ask."""
    left = cell.count() - is_own
    if rule.k > left:
        raise BadRequestError(f"k = {rule.k}, but there are {left} cases; use 1 to {left}")
    if rule.vote == PROBE:
        _probe_of(cell)


def answer(
    cell: ServedCell,
    vector: Vectors,
    found: Found,
    rule: Rule,
    query: str | None,
    timings: Timings,
) -> Classification:
    """Decide by the rules that evaluation has: count the votes of what was found, or ask the probe
    for the embedding, float32 (D,).
    """
    dataset = cell.cell.dataset
    probe = _probe_of(cell) if rule.vote == PROBE else None
    scores = probe.scores(vector) if probe else _votes(cell, found, rule.vote)
    predicted = decide(scores, dataset.task)[0]
    labels = cases.names(dataset, predicted)
    single = None if dataset.task is Task.MULTILABEL else labels[0]
    return Classification(
        query=query, dataset=dataset.name, model=cell.model, res=cell.cell.size, task=dataset.task,
        k=rule.k, vote=rule.vote, probe=probe.describe(found.state) if probe else None,
        label=single.index if single else None,
        label_name=single.name if single else None, labels=labels,
        scores=[
            Score(index=number, name=dataset.classes[number], score=min(1.0, float(score)))
            for number, score in enumerate(scores[0])
        ],
        neighbours=_neighbours(cell, found, predicted),
        familiarity=_familiarity(cell, found),
        index_version=found.state.version, fingerprint=cell.fingerprint, timings=timings,
    )  # fmt: skip


def _probe_of(cell: ServedCell) -> ServedProbe:
    if cell.probe is None:
        raise BadRequestError(
            f"{title(cell.cell)} has no linear probe; run probe-eval for it, then restart the "
            "service, or use another vote"
        )
    return cell.probe


def _votes(cell: ServedCell, found: Found, vote: str) -> Scores:
    dataset = cell.cell.dataset
    return count_votes(
        Neighbours(found.rows[None], found.similarities[None]), found.state.labels, dataset.task,
        len(dataset.classes), vote_of(vote), Distance.COSINE,
    )  # fmt: skip


def _neighbours(cell: ServedCell, found: Found, predicted: Labels) -> list[Neighbour]:
    dataset, neighbours = cell.cell.dataset, []
    labels = found.state.labels[found.rows]
    agreeing = agrees(labels, predicted, dataset.task).tolist()
    for rank, (row, similarity) in enumerate(zip(found.rows, found.similarities, strict=True)):
        name = CaseId(dataset.name, *cell.collection.place_of(int(row)))
        neighbours.append(
            Neighbour(
                rank=rank + 1, id=str(name), labels=cases.names(dataset, labels[rank]),
                similarity=float(similarity), agrees=agreeing[rank],
                image=cases.link(cell, name), licence=cases.licence(cell, name),
            )
        )  # fmt: skip
    return neighbours


def _familiarity(cell: ServedCell, found: Found) -> Familiarity | None:
    usual = found.state.views[cell.fingerprint].familiarity
    if usual is None:
        return None
    mean = float(found.similarities.mean(dtype=np.float64))
    return Familiarity(percentile=usual.percentile(found.similarities), mean_similarity=mean)
