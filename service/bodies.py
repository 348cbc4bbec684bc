"""How much of a request's body is taken: of one, of all together, and how slowly."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedder.console import size_text
from service.errors import OverloadedError, ServiceError, SlowClientError, TooLargeError
from service.problems import refuse
from service.telemetry import path_of

_FRAME_BYTES = 64 * 1024
"""What multipart may add to a file; also the most of a form that is not multipart, whose parser
takes seconds for megabytes."""

_JSON_BYTES = 1_000_000

_BATCHES = 4
"""Bodies of the largest batch that all requests together may hold at a time."""

PATIENCE = 60.0
"""Seconds in which a body has to come."""


class BodyLimit:
    """413 for a body that is too long, by its announced length or as it comes in; 429 where all
    bodies together are; 408 for one that comes too slowly.

    ``max_upload`` and ``max_batch`` in bytes. Nothing is held back: each part goes on to the
    application as it comes.
    """

    def __init__(self, app: ASGIApp, max_upload: int, max_batch: int) -> None:
        self._app = app
        self._upload = max_upload + _FRAME_BYTES, f"a file may have {size_text(max_upload)}"
        self._others = {
            "/classify/batch": (max_batch, f"a batch may have {size_text(max_batch)} in all"),
            "/search": (_JSON_BYTES, f"a search may have {size_text(_JSON_BYTES)}"),
        }
        self._room = _Room(_BATCHES * max(max_batch, max_upload + _FRAME_BYTES))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit, text = self._others.get(path_of(scope), self._upload)
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            limit, text = _FRAME_BYTES, "a file goes as multipart/form-data (curl -F file=@NAME)"
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 15 or int(length) > limit):
            await refuse(TooLargeError(f"{text}; send less"), scope, receive, send)
            return
        body = _Body(receive, send, limit, f"{text}; send less", self._room)
        try:
            await self._app(scope, body.receive, body.send)
        except _StopError:
            pass
        finally:
            self._room.give_back(body.held)
        if body.refusal is not None and not body.started:
            await refuse(body.refusal, scope, receive, send, more=body.more)


class _Room:
    """Bytes that the bodies of all requests may hold together."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, count: int) -> bool:
        self._left -= count
        return self._left >= 0

    def give_back(self, count: int) -> None:
        self._left += count


class _StopError(Exception):
    """Ends the application's reading; whatever it answers to that is not sent."""


class _Body:
    """What passes in and out until the body is refused; from then on nothing does."""

    def __init__(self, receive: Receive, send: Send, limit: int, text: str, room: _Room) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._text = text
        self._room = room
        self._end = time.monotonic() + PATIENCE
        self.held = 0
        self.started = False
        self.more = True
        self.refusal: ServiceError | None = None

    async def receive(self) -> Message:
        if self.refusal is None:
            message = await self._next()
        if self.refusal is not None:
            raise _StopError
        return message

    async def send(self, message: Message) -> None:
        if self.started or self.refusal is None:
            self.started = True
            await self._send(message)

    async def _next(self) -> Message:
        if not self.more:  # only the client's leaving is waited for
            return await self._receive()
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            self.refusal = SlowClientError(f"the body did not come within {PATIENCE:g} s")
            return {"type": "http.disconnect"}
        count = len(message.get("body", b""))
        self.held += count
        self.more = message.get("more_body", False)
        if self.held > self._limit:
            self.refusal = TooLargeError(self._text)
        elif not self._room.take(count):
            self.refusal = OverloadedError("too many uploads at a time; try again", 5)
        return message
