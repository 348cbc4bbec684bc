from __future__ import annotations

import asyncio
import base64
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import limits
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, UploadFile
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message

from embedder.errors import StoreError
from service import gate, openapi
from service.gate import (
    SECURITY_HEADERS,
    BodyLimit,
    KnownHosts,
    RateLimit,
    install,
    known_hosts,
    read_access,
    write_access,
)
from service.keyring import Keyring, Scope
from service.problems import install as install_problems
from service.settings import Settings
from service.telemetry import RequestTelemetry, Telemetry

FRAME = 64 * 1024
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Keys:
    """A keyring of a read key, a write key and a revoked one."""

    def __init__(self, folder: Path) -> None:
        self.ring = Keyring(folder / "keys.sqlite")
        self.read = self.ring.add("reader", Scope.READ)
        self.write = self.ring.add("writer", Scope.WRITE)
        self.revoked = self.ring.add("left", Scope.WRITE)
        self.ring.revoke(self.ring.rows()[2].id)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def build_app(keys: Keys, **changes: Any) -> FastAPI:
    settings = Settings(**({"allowed_hosts": "testserver", "rate_limit": "none"} | changes))
    app = FastAPI()
    app.state.read = 0

    @app.get("/indexes", dependencies=[Depends(read_access)])
    async def indexes() -> str:
        return "ok"

    @app.post("/classify", dependencies=[Depends(read_access)])
    async def classify(file: UploadFile) -> int:
        return len(await file.read())

    @app.post("/classify/batch", dependencies=[Depends(read_access)])
    @app.post("/search", dependencies=[Depends(read_access)])
    @app.post("/raw")
    async def raw(request: Request) -> int:
        request.app.state.read = 0
        async for part in request.stream():
            request.app.state.read += len(part)
        return int(request.app.state.read)

    @app.post("/cases", dependencies=[Depends(write_access)])
    @app.delete("/cases/{name}", dependencies=[Depends(write_access)])
    async def change(name: str = "") -> str:
        return name

    for path in ("/livez", "/readyz", "/metrics", "/static/page.css"):
        app.get(path)(lambda: "ok")

    @app.get("/kept")
    async def kept() -> Response:
        return Response("x", headers={"Cache-Control": "private, max-age=60"})

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    install_problems(app)
    openapi.install(app, keys_required=settings.keys_required)
    install(app, settings, keys.ring)
    app.add_middleware(RequestTelemetry, telemetry=Telemetry())
    return app


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str, user: str = "someone") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}"}


def assert_problem(response: Any, status: int, detail: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Content-Security-Policy"] == CSP


# Security headers


@pytest.mark.parametrize("path", ["/indexes", "/nothing", "/broken", "/static/page.css"])
def test_every_answer_has_the_security_headers(path: str, keys: Keys) -> None:
    response = TestClient(build_app(keys)).get(path)
    assert response.headers["Content-Security-Policy"] == CSP
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert response.headers["Cache-Control"] == "no-store"
    assert len(response.headers["X-Request-ID"]) == 32
    assert len(SECURITY_HEADERS) == 4


def test_an_answer_may_say_itself_how_long_it_is_kept(keys: Keys) -> None:
    response = TestClient(build_app(keys)).get("/kept")
    assert response.headers.get_list("Cache-Control") == ["private, max-age=60"]


def test_an_unforeseen_error_is_a_problem_with_all_headers(keys: Keys) -> None:
    assert_problem(TestClient(build_app(keys)).get("/broken"), 500, "unexpected error")


def test_a_keyring_that_cannot_be_read_is_a_problem_too(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "keys.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError):
        keys.ring.check(keys.read)
    response = TestClient(build_app(keys)).get("/indexes", headers=bearer(keys.read))
    assert_problem(response, 500, "an unexpected error")
    assert "sqlite" not in response.text
    assert TestClient(build_app(keys)).get("/livez", headers=bearer(keys.read)).status_code == 200


# Hosts


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LocalHost.:1", 200), ("127.0.0.1", 200),
        ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("[::1]", 200),
        ("[]", 421), (":8000", 421),
        ("evil.example", 421), ("evil.example:8000", 421), ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421), ("localhost:8000:1", 421), ("127.0.0.2", 421),
        ("[::1].evil.example", 421), ("localhost@evil.example", 421), ("", 421),
        ("192.168.0.2", 421), ("testserver", 421),
    ],
)  # fmt: skip
def test_on_loopback_only_local_hosts_are_answered(host: str, status: int, keys: Keys) -> None:
    app = build_app(keys, allowed_hosts=())
    for path in ("/indexes", "/livez", "/static/page.css"):
        response = TestClient(app).get(path, headers={"Host": host})
        assert response.status_code == status
    if status == 421:
        assert_problem(response, 421, "the Host header names a host that is not answered here")


def test_hosts_that_are_allowed_are_answered_and_local_ones(keys: Keys) -> None:
    app = build_app(keys, host="0.0.0.0", allowed_hosts="a.example,::2", require_key=False)
    answers = {
        host: TestClient(app).get("/indexes", headers={"Host": host}).status_code
        for host in ("a.example", "A.example:443", "[::2]:1", "localhost:8000", "b.example",
                     "x.a.example")
    }  # fmt: skip
    assert answers == {
        "a.example": 200, "A.example:443": 200, "[::2]:1": 200, "localhost:8000": 200,
        "b.example": 421, "x.a.example": 421,
    }  # fmt: skip


def test_elsewhere_any_host_is_answered(keys: Keys) -> None:
    app = build_app(keys, host="0.0.0.0", allowed_hosts=(), require_key=False)
    assert TestClient(app).get("/indexes", headers={"Host": "any.example"}).status_code == 200
    assert known_hosts(Settings(host="127.0.0.2")) == {"localhost", "127.0.0.1", "::1", "127.0.0.2"}


@pytest.mark.parametrize("headers", [[], [(b"host", b"localhost"), (b"host", b"localhost")]])
def test_a_request_of_no_host_or_two_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    sent = drive(KnownHosts(never, frozenset({"localhost"})), [], headers=headers)
    assert sent[0]["status"] == 421


# Keys


def test_reading_is_open_where_no_key_is_required(keys: Keys) -> None:
    client = TestClient(build_app(keys))
    odd = {"Authorization": "Basic %%%"}
    for headers in ({}, basic("x"), basic(keys.revoked), odd):
        assert client.get("/indexes", headers=headers).status_code == 200
    for headers in (bearer("x"), bearer(keys.revoked)):  # who gives one wants to know
        assert client.get("/indexes", headers=headers).status_code == 401


def test_reading_takes_any_valid_key_where_one_is_required(keys: Keys) -> None:
    client = TestClient(build_app(keys, require_key=True))
    for key in (keys.read, keys.write):
        for headers in (bearer(key), basic(key), basic(key, ""), basic(key, "é"),
                        {"Authorization": f"bearer  {key} "}):  # fmt: skip
            assert client.get("/indexes", headers=headers).status_code == 200


def test_reading_without_a_valid_key_is_401_where_one_is_required(keys: Keys) -> None:
    client = TestClient(build_app(keys, require_key=True))
    response = client.get("/indexes")
    assert_problem(response, 401, "give an API key: Authorization: Bearer KEY")
    assert response.headers.get_list("WWW-Authenticate") == [
        'Bearer realm="casebook"', 'Basic realm="casebook"',
    ]  # fmt: skip
    wrong = keys.read[:-1] + ("a" if keys.read[-1] != "a" else "b")
    for headers in (bearer(wrong), basic(wrong), bearer(keys.revoked), basic(keys.revoked)):
        assert_problem(client.get("/indexes", headers=headers), 401, "unknown or revoked")
    for text in ("", "Bearer", "Basic", "Basic %%%", "Basic /w==", f"Digest {keys.read}", keys.read,
                 "Basic " + base64.b64encode(keys.read.encode()).decode()):  # fmt: skip
        response = client.get("/indexes", headers={"Authorization": text})
        assert response.status_code == 401, text
    two = [("Authorization", f"Bearer {keys.read}")] * 2
    assert client.get("/indexes", headers=two).status_code == 401


@pytest.mark.parametrize("require_key", [True, False])
def test_writing_takes_a_bearer_key_of_scope_write(require_key: bool, keys: Keys) -> None:
    client = TestClient(build_app(keys, require_key=require_key))

    def write(headers: dict[str, str]) -> Any:
        posted = client.post("/cases", headers=headers)
        deleted = client.delete("/cases/a", headers=headers)
        assert posted.status_code == deleted.status_code
        return deleted

    assert write(bearer(keys.write)).json() == "a"
    assert_problem(write({}), 401, "give an API key")
    assert_problem(write(bearer("unknown")), 401, "unknown or revoked")
    assert_problem(write(bearer(keys.revoked)), 401, "unknown or revoked")
    assert_problem(write(basic(keys.write)), 401, "Authorization: Bearer KEY")
    assert_problem(write(bearer(keys.read)), 403, "this key may only read")


def test_a_key_counts_from_when_it_is_made_to_when_it_is_revoked(keys: Keys) -> None:
    client = TestClient(build_app(keys, require_key=True))
    late = keys.ring.add("late", Scope.READ)
    assert client.get("/indexes", headers=bearer(late)).status_code == 200
    keys.ring.revoke(keys.ring.rows()[-1].id)
    assert client.get("/indexes", headers=bearer(late)).status_code == 401


def test_the_document_names_the_schemes(keys: Keys) -> None:
    document = build_app(keys, require_key=True).openapi()
    schemes = document["components"]["securitySchemes"]
    assert {name: (row["type"], row["scheme"]) for name, row in schemes.items()} == {
        "bearer": ("http", "bearer"), "basic": ("http", "basic"),
    }  # fmt: skip
    read = document["paths"]["/indexes"]["get"]["security"]
    assert read == [{"bearer": []}, {"basic": []}]
    assert document["paths"]["/cases"]["post"]["security"] == [{"bearer": []}]
    optional = build_app(keys).openapi()["paths"]
    assert optional["/indexes"]["get"]["security"] == [{"bearer": []}, {"basic": []}, {}]
    assert optional["/cases"]["post"]["security"] == [{"bearer": []}]


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.fields.append(getattr(record, "fields", {}))


@pytest.fixture
def kept() -> Iterator[Kept]:
    logger = logging.getLogger("casebook.service")
    handler, level = Kept(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_log_names_the_key_by_its_id(keys: Keys, kept: Kept) -> None:
    TestClient(build_app(keys)).get("/indexes", headers=bearer(keys.read))
    TestClient(build_app(keys)).get("/indexes", headers=bearer(keys.revoked))
    first, second = kept.fields
    assert first["key"] == keys.ring.rows()[0].id
    assert "key" not in second
    assert keys.read not in str(first)


# Rates


@pytest.fixture
def move_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands near the start of a minute until it is moved."""
    now = [60.0 * 1_000_000 + 0.5]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def get(app: FastAPI, address: str, key: str = "", path: str = "/indexes") -> Any:
    client = TestClient(app, client=(address, 1))
    return client.get(path, headers=bearer(key) if key else {})


def test_who_asks_too_often_is_told_to_wait(
    keys: Keys, move_clock: Callable[[float], None]
) -> None:
    app = build_app(keys, rate_limit="3/minute")
    move_clock(20)
    assert [get(app, "192.0.2.1").status_code for _ in range(4)] == [200, 200, 200, 429]
    response = get(app, "192.0.2.1")
    assert_problem(response, 429, "more than 3 per 1 minute by one address; wait 40 s")
    assert response.headers["Retry-After"] == "40"
    move_clock(38)
    assert get(app, "192.0.2.1").status_code == 429
    move_clock(2)
    assert get(app, "192.0.2.1").status_code == 200


def test_addresses_count_apart_and_those_of_a_64_bit_network_together(
    keys: Keys, move_clock: Callable[[float], None]
) -> None:
    app = build_app(keys, rate_limit="1/minute")
    addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"]
    found = [get(app, address).status_code for address in addresses]
    assert found == [200, 200, 200, 429, 200]
    assert get(app, "::ffff:192.0.2.1").status_code == 429


def test_a_key_counts_wherever_it_comes_from(
    keys: Keys, move_clock: Callable[[float], None]
) -> None:
    app = build_app(keys, rate_limit="1/minute")
    assert get(app, "192.0.2.1").status_code == 200
    assert get(app, "192.0.2.1", keys.read).status_code == 200
    assert_problem(get(app, "192.0.2.2", keys.read), 429, "by one key; wait 60 s")
    assert get(app, "192.0.2.2", keys.write).status_code == 200
    assert get(app, "192.0.2.2").status_code == 200


def test_wrong_keys_count_for_the_address(keys: Keys, move_clock: Callable[[float], None]) -> None:
    app = build_app(keys, rate_limit="3/minute", require_key=True)
    tries = [keys.revoked, "cb_00000000_" + "a" * 43, "", "x"]
    assert [get(app, "192.0.2.1", key).status_code for key in tries] == [401, 401, 401, 429]
    assert get(app, "192.0.2.1", keys.read).status_code == 200


def test_probes_and_files_of_the_page_are_never_too_many(
    keys: Keys, move_clock: Callable[[float], None]
) -> None:
    app = build_app(keys, rate_limit="1/minute")
    for path in ("/livez", "/readyz", "/metrics", "/static/page.css"):
        assert [get(app, "192.0.2.1", path=path).status_code for _ in range(3)] == [200] * 3
    assert get(app, "192.0.2.1").status_code == 200
    assert get(app, "192.0.2.1", path="/staticky").status_code == 429


@given(times=st.lists(st.floats(0, 3), min_size=12, max_size=60))
def test_who_waits_as_told_is_answered(times: list[float]) -> None:
    """Whatever came before, the time in Retry-After is enough, and no more than a window."""
    now = [6000.5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now[0])

        async def answer(scope: object, receive: object, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        app = RateLimit(answer, limits.parse("5/10 seconds"))
        state = {"caller": gate.Caller(None, "", False)}
        for wait in times:
            now[0] += wait
            start = drive(app, [], state=state)[0]
            if start["status"] == 429:
                seconds = int(dict(start["headers"])[b"retry-after"])
                assert 1 <= seconds <= 10
                now[0] += seconds
                assert drive(app, [], state=state)[0]["status"] == 200


# Bodies


def drive(
    app: Any, messages: list[Message], path: str = "/", headers: Any = (), state: Any = None
) -> list[Message]:
    """What the application sends to a client that sends ``messages``."""
    sent: list[Message] = []
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers),
             "state": dict(state or {})}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent


def in_parts(sizes: list[int]) -> list[Message]:
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": place + 1 < len(sizes)}
        for place, size in enumerate(sizes)
    ]


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_body_passes_as_it_comes_unless_it_is_too_long(sizes: list[int]) -> None:
    seen: list[int] = []

    async def read(scope: object, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            seen.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = drive(BodyLimit(read, 0, 100), in_parts(sizes), "/classify/batch")
    fits = sum(sizes) <= 100
    assert sent[0]["status"] == (200 if fits else 413)
    assert sizes[: len(seen)] == seen
    assert fits == (len(seen) == len(sizes))


@pytest.mark.parametrize(
    ("path", "limit", "detail"),
    [
        ("/raw", 1_000_000 + FRAME, "a file may have 1.0 MB; send less"),
        ("/classify/batch", 2_500_000, "a batch may have 2.5 MB in all; send less"),
        ("/search", 1_000_000, "a search may have 1.0 MB; send less"),
    ],
)
def test_each_address_has_its_limit(path: str, limit: int, detail: str, keys: Keys) -> None:
    app = build_app(keys, max_upload_mb=1, max_batch_mb=2.5)
    client = TestClient(app)

    def parts(size: int) -> Iterator[bytes]:
        yield b"x" * (size - 1)
        yield b"x"

    for content in (b"x" * limit, parts(limit)):
        assert client.post(path, content=content).status_code in (200, 422)
    for content in (b"x" * (limit + 1), parts(limit + 1)):
        response = client.post(path, content=content)
        assert_problem(response, 413, detail)
        assert response.headers["Connection"] == "close"


def test_a_body_announced_as_too_long_is_refused_unread(keys: Keys) -> None:
    response = TestClient(build_app(keys)).post("/classify", content=b"x" * (10_000_001 + FRAME))
    assert_problem(response, 413, "a file may have 10.0 MB; send less")


def test_a_form_that_is_too_long_is_413_however_it_is_read(keys: Keys) -> None:
    client = TestClient(build_app(keys, max_upload_mb=0.1))
    file = {"file": ("a.png", b"x" * 100_000)}
    assert client.post("/classify", files=file).json() == 100_000

    def parts() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(200):
            yield b"x" * 1000
        yield b"\r\n--b--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/classify", content=parts(), headers=form)
    assert_problem(response, 413, "a file may have 100.0 kB")


def test_an_announced_length_beyond_all_measure_is_refused() -> None:
    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    headers = [(b"content-length", b"9" * 5000)]
    assert drive(BodyLimit(never, 1, 1), in_parts([1]), headers=headers)[0]["status"] == 413


def test_a_stranger_s_body_is_not_read_where_keys_are_required(keys: Keys) -> None:
    app = build_app(keys, require_key=True)
    client = TestClient(app)
    for content in (b"x", (part for part in [b"x"])):
        response = client.post("/raw", content=content)
        assert_problem(response, 401, "give an API key")
        assert response.headers["Connection"] == "close"
    assert app.state.read == 0
    assert client.post("/raw", content=b"xy", headers=bearer(keys.read)).json() == 2
    assert client.post("/raw", content=b"").json() == 0


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """The application on a real server; its port."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, ws="none")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = json.loads(response.read())
    return response.status, {k.lower(): v for k, v in response.getheaders()}, body


@pytest.mark.parametrize("framing", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
def test_a_client_that_is_still_sending_comes_to_read_its_refusal(framing: str, keys: Keys) -> None:
    """Eight megabytes of fifty are sent, more than the buffers on the way hold."""
    app = build_app(keys, max_upload_mb=1)
    chunked = "chunked" in framing
    part = b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536
    with serving(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(f"POST /raw HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
        for _ in range(128):
            connection.sendall(part)
        status, headers, problem = answer_of(connection)
    assert (status, headers["connection"], problem["status"]) == (413, "close", 413)
    assert headers["content-type"] == "application/problem+json"
    assert app.state.read <= 1_000_000 + FRAME
    assert (app.state.read > 0) is chunked


def test_a_client_that_asks_first_is_refused_before_it_sends(keys: Keys) -> None:
    with (
        serving(build_app(keys)) as port,
        socket.create_connection(("127.0.0.1", port), 20) as connection,
    ):
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        status, _, problem = answer_of(connection)
    assert (status, problem["title"]) == (413, "Upload too large")


def test_a_connection_serves_on_after_a_body_that_fits(keys: Keys) -> None:
    with serving(build_app(keys)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(2):
            connection.request("POST", "/raw", b"x" * 100_000)
            assert connection.getresponse().read() == b"100000"
        connection.close()
