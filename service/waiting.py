"""How long a request waits: to its deadline, or until its client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGoneError, DeadlineError

R = TypeVar("R")


async def within(seconds: float, request: Request, work: Coroutine[Any, Any, R]) -> R:
    """The result of ``work``, which is cancelled at the deadline or when the client is gone.

    Raises DeadlineError or ClientGoneError then. The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait(
            {task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGoneError("the client left before its answer")
        raise DeadlineError(f"no answer within {seconds:g} s; try again when there is less to do")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _gone(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
