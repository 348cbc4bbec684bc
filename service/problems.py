"""Every error as RFC 9457 ``application/problem+json``, and the middleware for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from http.client import responses as phrases
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedder.errors import CasebookError, SearchError, StoreFullError, UsageError
from service.answers import FieldError, Problem
from service.errors import ServiceError
from service.telemetry import METHODS, request_id, tell

MEDIA_TYPE = "application/problem+json"

_CHALLENGES = ('Bearer realm="casebook"', 'Basic realm="casebook"')
_RETRY_AFTER = 5
"""Seconds after which to try again, where the error does not say."""

_LINGER = 5.0
"""Seconds in which a refused client may go on sending."""

_MOST_FIELDS = 20
_MOST_TEXT = 500

_KINDER = {
    "model_attributes_type": "send JSON, with the header Content-Type: application/json",
    "value_error": "send a file: curl -F file=@NAME",
}
"""Of the types of error that a form or a body may have: what the library says helps nobody."""

_FULL = "no room to store the change; free some space and try again"

UNEXPECTED = "an unexpected error; it was logged under this request_id, please report it with that"

_OF_COMMANDS: tuple[tuple[type[CasebookError], int, str], ...] = (
    (StoreFullError, 507, "Insufficient storage"),
    (SearchError, 422, "Invalid request"),
    (UsageError, 422, "Invalid request"),
)
"""Errors from below the service that are not its own fault, or not a fault of the code."""


def problem_of(error: Exception, request: Request) -> Problem:
    """What to tell a client of any error."""
    status, title, detail = _describe(error)
    fields = _fields(error) if isinstance(error, RequestValidationError) else []
    return Problem(
        type="about:blank", title=title, status=status, detail=_line(detail),
        request_id=request_id(request.scope), errors=fields,
    )  # fmt: skip


def response_of(error: Exception, request: Request) -> Response:
    """``problem_of`` as a response, with the headers that its status asks for."""
    problem = problem_of(error, request)
    headers = getattr(error, "headers", None) if isinstance(error, HTTPException) else None
    response = Response(
        problem.model_dump_json(), problem.status, headers=headers, media_type=MEDIA_TYPE
    )
    if problem.status in (429, 503):
        seconds = getattr(error, "retry_after", _RETRY_AFTER)
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if problem.status == 401:
        del response.headers["WWW-Authenticate"]
        for challenge in _CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
    return response


async def send_problem(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """For a middleware: answer with the error."""
    await response_of(error, Request(scope))(scope, receive, send)


async def refuse(
    error: Exception, scope: Scope, receive: Receive, send: Send, *, more: bool = True
) -> None:
    """Answer with the error to a client that has ``more`` to send, and hang up.

    What it sends for some seconds is thrown away: hanging up on data that nobody took would tear
    down the connection, and with it the answer, before the client came to read that.
    """

    async def hold(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send({**message, "more_body": True})

    await send_problem(error, scope, receive, hold)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while more:
                more = (await receive()).get("more_body", False)
    await send({"type": "http.response.body"})


class Catch:
    """ASGI middleware: what nobody foresaw is logged with its traceback, and answered by a 500.

    It stands within those that set the headers of every response, which Starlette's own does not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:  # nobody is there to be told
            return
        except Exception as error:
            log_error(error, scope)
            if started:  # half an answer must not look like a whole one: the server hangs up
                raise
            await send_problem(error, scope, receive, send)


def install(app: FastAPI) -> None:
    """Make every error a problem; ``Catch`` is to be added."""
    for kind in (CasebookError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    if isinstance(error, HTTPException) and error.status_code == 405:
        error.headers = {"Allow": _allowed(request)}
    response = response_of(error, request)
    if response.status_code in (500, 507):
        log_error(error, request.scope)
    return response


def _allowed(request: Request) -> str:
    """Every method that the address takes: the error names those of its first route only."""
    scopes = [{**request.scope, "method": method} for method in METHODS]
    routes = request.app.routes
    taken = [
        scope for scope in scopes if any(one.matches(scope)[0] is Match.FULL for one in routes)
    ]
    return ", ".join(sorted(scope["method"] for scope in taken))


def log_error(error: Exception, scope: Scope) -> None:
    """With its traceback."""
    tell(logging.ERROR, "error", error, request_id=request_id(scope), kind=type(error).__name__)


def _describe(error: Exception) -> tuple[int, str, str]:
    """Status, title and detail."""
    if isinstance(error, ServiceError):
        return error.status, error.title, str(error)
    if isinstance(error, CasebookError):
        for kind, status, title in _OF_COMMANDS:
            if isinstance(error, kind):
                return status, title, _FULL if status == 507 else str(error)
        return 500, "Internal error", UNEXPECTED
    if isinstance(error, RequestValidationError):
        return 422, "Invalid request", "; ".join(f"{e.field}: {e.message}" for e in _fields(error))
    if isinstance(error, HTTPException):
        return error.status_code, _phrase(error.status_code), _detail(error)
    return 500, "Internal error", UNEXPECTED


def _detail(error: HTTPException) -> str:
    detail = str(error.detail)
    if detail != _phrase(error.status_code):
        return detail
    if error.status_code == 404:
        return "there is nothing at this address; GET /openapi.json describes what there is"
    allow = (error.headers or {}).get("Allow")
    return f"this address takes {allow} only" if allow else detail


def _phrase(status: int) -> str:
    return phrases.get(status, "Error")


def _fields(error: RequestValidationError) -> list[FieldError]:
    """Which parameters are wrong; what was given for them is not repeated."""
    return [
        FieldError(field=_line(_field(one)), message=_line(_message(one)))
        for one in error.errors()[:_MOST_FIELDS]
    ]


def _field(error: dict[str, Any]) -> str:
    place: Sequence[object] = error["loc"]
    if error["type"] == "json_invalid":  # its place is a position in the text
        place = place[:1]
    return ".".join(str(part)[:40] for part in place)


def _message(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"no JSON: {error.get('ctx', {}).get('error', 'cannot be parsed')}"
    return _KINDER.get(error["type"], str(error["msg"]))[:200]


def _line(text: str) -> str:
    """One line that is not too long, and can be sent: half a surrogate pair cannot."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:_MOST_TEXT]
