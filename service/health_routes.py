"""``/livez``, ``/readyz`` and ``/metrics``: for those who watch over the service."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Response

from service.answers import Health
from service.context import Context, context_of
from service.errors import UnavailableError
from service.gate import read_access
from service.openapi import responses
from service.served import ServedCell

LATELY = 30.0
"""Seconds after which a worker has to show again that it answers."""

PATIENCE = 5.0
"""Seconds that it has for that."""

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=responses(503))
async def readyz(context: Annotated[Context, Depends(context_of)]) -> Health:
    """Indexes are loaded, and each worker has answered a real forward pass lately."""
    workers = {cell.embedder.name: cell for cell in context.served.cells}
    await asyncio.gather(*(_shared(context, cell) for cell in workers.values()))
    for cell in context.served.cells:
        if cell.searcher.failure is not None:
            raise UnavailableError(f"the search of {cell.searcher.name} has failed; restart")
    return Health(status="ok")


@router.get(
    "/metrics", dependencies=[Depends(read_access)], response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}, "description": "Prometheus text format."},
        **responses(401),
    },
)  # fmt: skip
def metrics(context: Annotated[Context, Depends(context_of)]) -> Response:
    """Requests, queues, batches and latencies."""
    text, kind = context.telemetry.render()
    return Response(text, headers={"Content-Type": kind})


async def _shared(context: Context, cell: ServedCell) -> None:
    """``_prove``, once for everybody who asks meanwhile."""
    name = cell.embedder.name
    task = context.probes.get(name)
    if task is None or task.done():
        task = context.probes[name] = asyncio.create_task(_prove(cell))
    await asyncio.shield(task)


async def _prove(cell: ServedCell) -> None:
    """Raise UnavailableError unless the worker of ``cell`` answers, or did lately."""
    worker = cell.embedder
    recent = worker.last_success is not None and time.monotonic() - worker.last_success < LATELY
    if recent and worker.failure is None:
        return
    blank = np.zeros((cell.cell.size, cell.cell.size, cell.cell.dataset.channels), np.uint8)
    try:
        await asyncio.wait_for(worker.submit(blank), PATIENCE)
    except TimeoutError:
        raise UnavailableError(f"{worker.name} gives no answer within {PATIENCE:g} s") from None
    except Exception as error:  # whatever the backbone raises, it does not answer
        raise UnavailableError(f"{worker.name} cannot embed: {error}") from error
