from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, UploadFile
from prometheus_client.parser import text_string_to_metric_families
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from service.telemetry import (
    JsonLines,
    RequestTelemetry,
    Telemetry,
    client_address,
    client_group,
    request_id,
    set_up_logging,
)

Lines = list[dict[str, Any]]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger = logging.getLogger("casebook.service")
    handler, level = Kept(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def client(telemetry: Telemetry) -> Iterator[TestClient]:
    app = FastAPI()

    @app.get("/cases/{name:path}/image")
    async def image(name: str, request: Request) -> str:
        return request_id(request.scope)

    @app.post("/classify")
    async def classify(file: UploadFile, request: Request) -> dict[str, str]:
        request.scope["state"]["key_id"] = "k1"
        return {}

    @app.get("/livez")
    async def livez() -> str:
        return "ok"

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(403)

    app.add_middleware(RequestTelemetry, telemetry=telemetry)
    with TestClient(app, client=("192.0.2.7", 5000), raise_server_exceptions=False) as client:
        yield client


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, kind = telemetry.render()
    assert kind.startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_request_has_an_id_in_its_state_and_in_the_header(client: TestClient) -> None:
    first, second = client.get("/cases/a/b/image"), client.get("/cases/a/b/image")
    assert first.headers["X-Request-ID"] == first.json()
    assert len(first.json()) == 32
    assert first.json() != second.json()


@pytest.mark.parametrize("given", ["a", "A.b-c_9", "x" * 64])
def test_an_id_that_comes_in_is_kept(given: str, client: TestClient) -> None:
    response = client.get("/livez", headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "é", '{"a":1}', "a/b"])
def test_an_id_of_another_form_is_replaced(given: str, client: TestClient) -> None:
    response = client.get("/livez", headers={"X-Request-ID": given.encode("latin-1")})
    assert len(response.headers["X-Request-ID"]) == 32


def test_a_line_says_all_that_it_may_and_nothing_else(client: TestClient, lines: Lines) -> None:
    client.post(
        "/classify?patient=smith",
        files={"file": ("smith-1950.png", b"secret-pixels")},
        headers={"X-Request-ID": "r1", "Authorization": "Bearer cb_secret"},
    )
    (line,) = lines
    assert line.pop("time").endswith("Z")
    assert 0 <= line.pop("ms") < 10_000
    assert line == {
        "level": "info", "event": "request", "request_id": "r1", "method": "POST",
        "route": "/classify", "status": 200, "client": "192.0.2.7", "key": "k1",
    }  # fmt: skip


def test_a_route_is_its_template(client: TestClient, lines: Lines) -> None:
    client.get("/cases/phantom-cells/train/17/image")
    client.get("/nothing/here/smith")
    client.delete("/classify")
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/cases/{name}/image", 200),
        ("other", 404),
        ("/classify", 405),
    ]
    assert "key" not in lines[0]


def test_a_request_refused_before_its_route_has_the_template_all_the_same(
    telemetry: Telemetry, lines: Lines
) -> None:
    app = FastAPI()

    @app.get("/cases/{split}/{row}")
    async def case(split: str, row: str) -> None: ...

    @app.get("/cases/{split}/{row}/image")
    async def image(split: str, row: str) -> None: ...

    class Refusing:
        def __init__(self, app: object) -> None: ...

        async def __call__(self, scope: Scope, receive: object, send: Any) -> None:
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body"})

    app.add_middleware(Refusing)
    app.add_middleware(RequestTelemetry, telemetry=telemetry)
    client = TestClient(app)
    began = time.perf_counter()
    client.get("/cases/" + "/" * 10_000)  # as quick as any other
    assert time.perf_counter() - began < 1
    lines.clear()
    for path in ("/cases/train/1", "/cases/train/1/image", "/else", "/cases/"):
        client.get(path)
    assert [line["route"] for line in lines] == [
        "/cases/{split}/{row}", "/cases/{split}/{row}/image", "other", "other",
    ]  # fmt: skip


def test_probes_are_told_of_on_debug_only(client: TestClient, lines: Lines) -> None:
    client.get("/livez")
    client.get("/refused")
    assert [line["level"] for line in lines] == ["debug", "info"]


def test_an_unforeseen_error_counts_as_500(
    client: TestClient, telemetry: Telemetry, lines: Lines
) -> None:
    assert client.get("/broken").status_code == 500
    assert lines[-1]["status"] == 500
    found = samples(telemetry)
    key = (("method", "GET"), ("route", "/broken"), ("status", "500"))
    assert found["casebook_requests_total", key] == 1


def call(app: RequestTelemetry, messages: list[Message], path: str = "/x") -> list[Message]:
    """What the application sends to a client that sends ``messages``."""
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": None}
    asyncio.run(app(scope, receive, send))
    return sent


async def read_then_answer(scope: Scope, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
    await receive()


def test_a_client_that_left_before_its_answer_is_499(telemetry: Telemetry, lines: Lines) -> None:
    call(
        RequestTelemetry(read_then_answer, telemetry),
        [{"type": "http.request", "more_body": True}, {"type": "http.disconnect"},
         {"type": "http.disconnect"}],
    )  # fmt: skip
    assert lines[0]["status"] == 499
    assert lines[0]["client"] == "unknown"


def test_a_client_that_left_after_its_answer_is_not(telemetry: Telemetry, lines: Lines) -> None:
    call(
        RequestTelemetry(read_then_answer, telemetry),
        [{"type": "http.request"}, {"type": "http.disconnect"}],
    )
    assert lines[0]["status"] == 200


def test_a_client_that_left_on_being_refused_was_refused(
    telemetry: Telemetry, lines: Lines
) -> None:
    async def refuse(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await receive()

    call(RequestTelemetry(refuse, telemetry), [{"type": "http.disconnect"}])
    assert lines[0]["status"] == 413


def test_a_client_that_left_amid_its_answer_is_499(telemetry: Telemetry, lines: Lines) -> None:
    async def stream(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()

    call(RequestTelemetry(stream, telemetry), [{"type": "http.disconnect"}])
    assert lines[0]["status"] == 499


def test_a_request_that_is_cancelled_is_499_and_stays_cancelled(
    telemetry: Telemetry, lines: Lines
) -> None:
    async def wait(scope: Scope, receive: object, send: object) -> None:
        await asyncio.sleep(60)

    async def cancel() -> None:
        app = RequestTelemetry(wait, telemetry)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(app(scope, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert lines[0]["status"] == 499


def test_a_streamed_answer_is_timed_to_its_end(telemetry: Telemetry, lines: Lines) -> None:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.05)
            yield b"b"

        return StreamingResponse(parts())

    app.add_middleware(RequestTelemetry, telemetry=telemetry)
    assert TestClient(app).get("/slow").content == b"ab"
    assert lines[0]["ms"] >= 50


def test_requests_are_counted_by_bounded_labels(client: TestClient, telemetry: Telemetry) -> None:
    client.get("/cases/a/image")
    client.get("/cases/b/image")
    client.request("BREW", "/pot")
    client.get("/pot2")
    found = samples(telemetry)
    image = (("method", "GET"), ("route", "/cases/{name}/image"), ("status", "200"))
    odd = (("method", "other"), ("route", "other"), ("status", "404"))
    assert found["casebook_requests_total", image] == 2
    assert found["casebook_requests_total", odd] == 1
    assert found["casebook_request_seconds_count", (("route", "/cases/{name}/image"),)] == 2
    assert found["casebook_request_seconds_count", (("route", "other"),)] == 2


def test_what_workers_and_indexes_tell(telemetry: Telemetry) -> None:
    waiting = [1, 2, 3]
    telemetry.stage("embed", 0.25)
    telemetry.batch("hog", 16)
    telemetry.watch_queue("hog", lambda: len(waiting))
    telemetry.watch_cases("phantom-cells", "hog", 28, lambda: 600)
    telemetry.watch_version("phantom-cells", lambda: 7)
    found = samples(telemetry)
    assert found["casebook_stage_seconds_sum", (("stage", "embed"),)] == 0.25
    assert found["casebook_stage_seconds_count", (("stage", "decode"),)] == 0
    assert found["casebook_batch_size_sum", (("worker", "hog"),)] == 16
    assert found["casebook_queue_depth", (("worker", "hog"),)] == 3
    cases = (("dataset", "phantom-cells"), ("model", "hog"), ("res", "28"))
    assert found["casebook_index_cases", cases] == 600
    assert found["casebook_index_version", (("dataset", "phantom-cells"),)] == 7
    waiting.clear()
    assert samples(telemetry)["casebook_queue_depth", (("worker", "hog"),)] == 0


def test_two_applications_count_apart() -> None:
    first, second = Telemetry(), Telemetry()
    first.batch("hog", 1)
    assert ("casebook_batch_size_count", (("worker", "hog"),)) not in samples(second)


@pytest.mark.parametrize(
    ("client", "address", "group"),
    [
        (("192.0.2.7", 1), "192.0.2.7", "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7", "192.0.2.7"),
        (("2001:DB8:1:2:3:4:5:6", 1), "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::1%eth0", "fe80::/64"),
        (("evil\n{}", 1), "unknown", "unknown"),
        (("", 0), "unknown", "unknown"),
        (None, "unknown", "unknown"),
    ],
)
def test_the_address_of_a_client(client: tuple[str, int] | None, address: str, group: str) -> None:
    assert client_address({"client": client}) == address
    assert client_group({"client": client}) == group


@pytest.fixture
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("casebook", "uvicorn")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.mark.usefixtures("_as_before")
def test_logs_are_lines_of_json_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr("sys.stderr", output)
    set_up_logging("warning")
    logging.getLogger("casebook").info("not said")
    logging.getLogger("casebook.service").warning("a\nb\x1b[2J %s", "é")
    logging.getLogger("uvicorn.error").error("from uvicorn")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("casebook").exception("oops")
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["a\nb\x1b[2J é", "from uvicorn", "oops"]
    assert [line["level"] for line in lines] == ["warning", "error", "error"]
    assert {line["event"] for line in lines} == {"message"}
    assert lines[1]["logger"] == "uvicorn.error"
    assert lines[2]["traceback"].endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in output.getvalue()
