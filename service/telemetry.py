"""What the service tells of itself: request ids, one log line per request, metrics."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("casebook.service")

Stage = Literal["decode", "queue", "embed", "search"]

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines: logged on debug only, and without a rate limit."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,64}")
_ABORTED = 499
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def request_id(scope: Scope) -> str:
    """The id of the request, as in its header X-Request-ID and in the log."""
    found: str = scope.get("state", {}).get("request_id", "unknown")
    return found


def path_of(scope: Scope) -> str:
    """The path below the address at which a proxy has put the service."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def client_address(scope: Scope) -> str:
    """The client's IP address, an IPv4 one always as such; ``unknown`` where there is none."""
    try:
        found = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return "unknown"
    return str(getattr(found, "ipv4_mapped", None) or found)


def client_group(scope: Scope) -> str:
    """The client's address or, of IPv6, its network of 64 bits, which is one customer's."""
    address = client_address(scope)
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((int(ipaddress.IPv6Address(address)) >> 64 << 64, 64)))


def tell(level: int, event: str, error: BaseException | None = None, **fields: object) -> None:
    """Log one JSON line, with the traceback of ``error``."""
    log.log(level, event, exc_info=error, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A record as one line of JSON: ``time``, ``level``, ``event``, and its fields.

    What libraries log has the event ``message``, their name as ``logger``, and their text.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            fields = {"logger": record.name, "message": record.getMessage()}
            line["event"] = "message"
        else:
            line["event"] = record.getMessage()
        line |= fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: str) -> None:
    """What casebook and uvicorn log from ``level`` on goes to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("casebook", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False


class Telemetry:
    """The metrics of one application, in a registry of their own.

    Every label is bounded: routes are templates, workers and datasets are those of the settings.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "casebook_requests", "Requests answered.", ("method", "route", "status"),
            registry=registry,
        )  # fmt: skip
        self._latency = Histogram(
            "casebook_request_seconds", "From a request's first byte to its answer's last.",
            ("route",), registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._stages = Histogram(
            "casebook_stage_seconds", "Parts of a request.", ("stage",), registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self._sizes = Histogram(
            "casebook_batch_size", "Items in a batch.", ("worker",), registry=registry,
            buckets=_SIZES,
        )  # fmt: skip
        self._depth = Gauge(
            "casebook_queue_depth", "Items waiting.", ("worker",), registry=registry
        )
        self._cases = Gauge(
            "casebook_index_cases", "Cases searched.", ("dataset", "model", "res"),
            registry=registry,
        )  # fmt: skip
        self._version = Gauge(
            "casebook_index_version", "Raised by each case added or erased.", ("dataset",),
            registry=registry,
        )  # fmt: skip
        self._stage = {name: self._stages.labels(name) for name in get_args(Stage)}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is a template, never a path."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def stage(self, stage: Stage, seconds: float) -> None:
        self._stage[stage].observe(seconds)

    def batch(self, worker: str, size: int) -> None:
        self._sizes.labels(worker).observe(size)

    def watch_queue(self, worker: str, depth: Callable[[], float]) -> None:
        """``depth`` is asked at each scrape, in whatever thread; so are those below."""
        self._depth.labels(worker).set_function(depth)

    def watch_cases(self, dataset: str, model: str, res: int, cases: Callable[[], float]) -> None:
        self._cases.labels(dataset, model, str(res)).set_function(cases)

    def watch_version(self, dataset: str, version: Callable[[], float]) -> None:
        self._version.labels(dataset).set_function(version)

    def render(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class RequestTelemetry:
    """ASGI middleware, the outermost: gives a request its id, and tells of its end."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry
        self._templates: list[tuple[re.Pattern[str], str]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = _incoming_id(scope) or uuid.uuid4().hex
        watch = _Watch(receive, send, request_id(scope))
        began = time.perf_counter()
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            watch.leave()
            raise
        finally:
            self._tell(scope, watch.outcome, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = self._route(scope)
        self._telemetry.request(method, route, status, seconds)
        key = scope["state"].get("key_id")
        tell(
            logging.DEBUG if route in PROBES else logging.INFO,
            "request",
            request_id=request_id(scope),
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            client=client_address(scope),
            **({} if key is None else {"key": key}),
        )

    def _route(self, scope: Scope) -> str:
        """The template of the route, also of a request that was refused before it got there."""
        route = scope.get("route")
        found = getattr(route, "path_format", None) or getattr(route, "path", None)
        if found is not None:
            return str(found)
        if self._templates is None:
            self._templates = _templates(scope.get("app"))
        path = path_of(scope)
        return next((text for pattern, text in self._templates if pattern.fullmatch(path)), "other")


def _templates(app: Any) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the documented paths. No parameter has a slash, so that matching is linear."""
    paths = app.openapi()["paths"] if hasattr(app, "openapi") else ()
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path) for path in paths]


def _incoming_id(scope: Scope) -> str | None:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else None


class _Watch:
    """What passes between server and application in one request."""

    def __init__(self, receive: Receive, send: Send, name: str) -> None:
        self._receive = receive
        self._send = send
        self._name = name
        self._status: int | None = None
        self._finished = False
        self._gone = False

    @property
    def outcome(self) -> int:
        """The status answered, 499 where the client had left before; 500 for no answer."""
        return _ABORTED if self._gone else self._status or 500

    def leave(self) -> None:
        """The client went: that counts unless it has its answer, or was refused."""
        if not self._finished and (self._status is None or self._status < 400):
            self._gone = True

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.leave()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self._name
        elif not message.get("more_body", False):
            self._finished = True
        await self._send(message)
