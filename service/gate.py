"""What stands before the routes: hosts, API keys, rates, sizes, and the headers of every answer."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import time
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import FastAPI, Security
from fastapi.security.http import HTTPBase
from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.bodies import BodyLimit
from service.errors import ForbiddenError, NoKeyError, OverloadedError
from service.keyring import Keyring, KeyRow
from service.keyring import Scope as KeyScope
from service.openapi import BASIC, BEARER
from service.problems import Catch, refuse, send_problem
from service.settings import Settings, is_loopback
from service.telemetry import PROBES, client_group, path_of

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:]+))(?::[0-9]*)?")


@dataclass(frozen=True)
class Caller:
    """Who asks: ``key`` is None where none was given, or one that is unknown or revoked."""

    key: KeyRow | None
    scheme: Literal["bearer", "basic", ""]
    keys_required: bool


def install(app: FastAPI, settings: Settings, keyring: Keyring) -> None:
    """Add all of this module, and ``Catch``, which belongs within the security headers."""
    app.add_middleware(
        BodyLimit, max_upload=settings.max_upload_bytes, max_batch=settings.max_batch_bytes
    )
    app.add_middleware(Strangers)
    if settings.rate is not None:
        app.add_middleware(RateLimit, rate=settings.rate)
    app.add_middleware(Identify, keyring=keyring, keys_required=settings.keys_required)
    app.add_middleware(KnownHosts, hosts=known_hosts(settings))
    app.add_middleware(Catch)
    app.add_middleware(SecurityHeaders)


class SecurityHeaders:
    """Sets ``SECURITY_HEADERS``, and forbids keeping an answer that does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, add)


def known_hosts(settings: Settings) -> frozenset[str]:
    """Names in the Host header that are answered; empty for any.

    A page of another site can make its own name resolve to this machine and then read what is
    answered here; but the Host header still has that name. So the local names are always safe.
    """
    if settings.allowed_hosts or is_loopback(settings.host):
        return _LOCAL | {settings.host, *settings.allowed_hosts}
    return frozenset()


class KnownHosts:
    """Refuses other hosts by 421: the request was meant for a server of that name, not for this.

    A 400 would say that the request is malformed, which it is not.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts and _host(scope) not in self._hosts:
            detail = "the Host header names a host that is not answered here; see --allowed-hosts"
            await send_problem(HTTPException(421, detail), scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _host(scope: Scope) -> str | None:
    given = Headers(scope=scope).getlist("host")
    found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
    return (found[1] or found[2]).removesuffix(".") if found else None


class Identify:
    """Checks the key of a request once, for all that comes after: ``caller_of``."""

    def __init__(self, app: ASGIApp, keyring: Keyring, keys_required: bool) -> None:
        self._app = app
        self._keyring = keyring
        self._keys_required = keys_required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scheme, text = _credentials(scope)
            if path_of(scope) in PROBES - {"/metrics"}:  # they answer whatever the keys
                text = ""
            key = await run_in_threadpool(self._keyring.check, text) if text else None
            state = scope.setdefault("state", {})
            state["caller"] = Caller(key, scheme, self._keys_required)
            if key is not None:
                state["key_id"] = key.id
        await self._app(scope, receive, send)


def caller_of(scope: Scope) -> Caller:
    found: Caller = scope["state"]["caller"]
    return found


def _credentials(scope: Scope) -> tuple[Literal["bearer", "basic", ""], str]:
    """Scheme and key; the password is the key in Basic, whoever the user."""
    given = Headers(scope=scope).getlist("authorization")
    scheme, _, rest = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return "bearer", rest
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return "basic", base64.b64decode(rest, validate=True).decode().partition(":")[2]
    return "", ""


# For the OpenAPI document; they only look for the header, ``Identify`` has checked the key.
_bearer = HTTPBase(
    scheme="bearer", scheme_name=BEARER, auto_error=False,
    description="An API key, as `casebook keys add` makes it.",
)  # fmt: skip
_basic = HTTPBase(
    scheme="basic", scheme_name=BASIC, auto_error=False,
    description="For browsers, to read: an API key as the password of any user.",
)  # fmt: skip


async def read_access(
    request: Request,
    bearer: Annotated[object, Security(_bearer)],
    basic: Annotated[object, Security(_basic)],
) -> None:
    """Dependency of what reads: any key, where one is required. Raises NoKeyError.

    A wrong Bearer key is refused even where none is required: who gives one wants to know. A
    password may be meant for a proxy before this.
    """
    caller = caller_of(request.scope)
    if caller.key is None and (caller.keys_required or caller.scheme == "bearer"):
        raise no_key(caller)


async def write_access(request: Request, bearer: Annotated[object, Security(_bearer)]) -> None:
    """Dependency of what writes: a Bearer key of scope write. Raises NoKeyError, ForbiddenError.

    Basic is never enough: a browser that has a password sends it by itself with whatever another
    site makes it ask for here, so that site could write. A Bearer key it cannot add.
    """
    caller = caller_of(request.scope)
    if caller.scheme != "bearer" or caller.key is None:
        raise no_key(caller)
    if not caller.key.scope.covers(KeyScope.WRITE):
        raise ForbiddenError("this key may only read; use one of scope write")


def no_key(caller: Caller) -> NoKeyError:
    if caller.scheme and caller.key is None:
        return NoKeyError("this API key is unknown or revoked; casebook keys list shows those here")
    return NoKeyError("give an API key: Authorization: Bearer KEY; casebook keys add makes one")


class RateLimit:
    """429 for a key, or an address without a valid one, that asks too often.

    What has a wrong key counts for its address: guessing keys is limited, too.
    """

    def __init__(self, app: ASGIApp, rate: RateLimitItem) -> None:
        self._app = app
        self._rate = rate
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_exempt(path_of(scope)):
            await self._app(scope, receive, send)
            return
        key = caller_of(scope).key
        who = ("key", str(key.id)) if key else ("address", client_group(scope))
        if self._limiter.hit(self._rate, *who):
            await self._app(scope, receive, send)
            return
        reset = self._limiter.get_window_stats(self._rate, *who).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        error = OverloadedError(f"more than {self._rate} by one {who[0]}; wait {wait} s", wait)
        await send_problem(error, scope, receive, send)


class Strangers:
    """401 for a body from someone without the key that is required: it is not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and path_of(scope) not in PROBES:
            headers, caller = Headers(scope=scope), caller_of(scope)
            has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
            if has_body and caller.keys_required and caller.key is None:
                await refuse(no_key(caller), scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_exempt(path: str) -> bool:
    return path in PROBES or path.startswith("/static/")
