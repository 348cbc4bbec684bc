from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form, Query, UploadFile
from fastapi.security.http import HTTPBase
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message

from embedder.errors import (
    CasebookError,
    DatasetError,
    SearchError,
    StoreError,
    StoreFullError,
    UnknownNameError,
    UsageError,
    ZeroVectorError,
)
from service import errors, openapi
from service.answers import Problem
from service.openapi import BASIC, BEARER, responses
from service.problems import Catch, install, problem_of, refuse
from service.telemetry import RequestTelemetry, Telemetry


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    k: int = Field(11, ge=1, le=100)
    kind: str = Field("a", pattern="a|b")


_read = [Depends(HTTPBase(scheme=name, scheme_name=name, auto_error=False))
         for name in (BEARER, BASIC)]  # fmt: skip


def build_app(*, keys_required: bool = True) -> FastAPI:
    app = FastAPI()

    @app.get("/fail")
    async def fail(request: Request) -> None:
        raise request.app.state.error

    @app.post("/search", responses=responses(404), dependencies=_read)
    async def search(body: Body) -> Body:
        return body

    @app.post("/upload", dependencies=_read[:1])
    async def upload(file: UploadFile, k: Annotated[int, Form(ge=1)] = 1) -> int:
        return k

    @app.get("/page")
    async def page(number: Annotated[int, Query()] = 0) -> int:
        return number

    install(app)
    openapi.install(app, keys_required=keys_required)
    app.add_middleware(Catch)
    app.add_middleware(RequestTelemetry, telemetry=Telemetry())
    return app


def ask(app: FastAPI, method: str = "GET", path: str = "/fail", **options: Any) -> Any:
    return TestClient(app).request(method, path, headers={"X-Request-ID": "r1"}, **options)


def fail_by(error: Exception) -> Any:
    app = build_app()
    app.state.error = error
    return ask(app)


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (errors.ServiceError("x"), 500, "Internal error"),
        (errors.BadRequestError("x"), 422, "Invalid request"),
        (errors.BadUploadError("x"), 422, "Unreadable image"),
        (errors.UnsupportedTypeError("x"), 415, "Unsupported file type"),
        (errors.TooLargeError("x"), 413, "Upload too large"),
        (errors.NoKeyError("x"), 401, "API key required"),
        (errors.ForbiddenError("x"), 403, "Not allowed"),
        (errors.NotFoundError("x"), 404, "Not Found"),
        (errors.OverloadedError("x"), 429, "Too many requests"),
        (errors.DeadlineError("x"), 504, "Deadline exceeded"),
        (errors.UnavailableError("x"), 503, "Unavailable"),
        (UsageError("x"), 422, "Invalid request"),
        (UnknownNameError("x"), 422, "Invalid request"),
        (SearchError("x"), 422, "Invalid request"),
        (ZeroVectorError("x"), 422, "Invalid request"),
    ],
)
def test_an_error_of_ours_is_a_problem_of_its_status(
    error: Exception, status: int, title: str
) -> None:
    response = fail_by(error)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank", "title": title, "status": status, "detail": "x",
        "request_id": "r1", "errors": [],
    }  # fmt: skip
    assert Problem(**response.json())


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (StoreFullError("/store/x"), 507, "no room to store the change"),
        (StoreError("/store/x"), 500, "an unexpected error; it was logged"),
        (DatasetError("/store/x"), 500, "an unexpected error; it was logged"),
        (CasebookError("/store/x"), 500, "an unexpected error; it was logged"),
    ],
)
def test_places_of_this_machine_are_told_to_the_log_alone(
    error: Exception, status: int, detail: str
) -> None:
    response = fail_by(error)
    assert response.status_code == status
    assert response.json()["detail"].startswith(detail)
    assert "/store" not in response.text


def test_a_busy_service_says_when_to_come_again() -> None:
    assert fail_by(errors.OverloadedError("x", 7)).headers["Retry-After"] == "7"
    assert fail_by(errors.UnavailableError("x")).headers["Retry-After"] == "5"
    assert "Retry-After" not in fail_by(errors.DeadlineError("x")).headers


def test_who_needs_a_key_is_told_how_to_give_it() -> None:
    for error in (errors.NoKeyError("x"), HTTPException(401, headers={"WWW-Authenticate": "X"})):
        assert fail_by(error).headers.get_list("WWW-Authenticate") == [
            'Bearer realm="casebook"', 'Basic realm="casebook"',
        ]  # fmt: skip
    assert "WWW-Authenticate" not in fail_by(errors.ForbiddenError("x")).headers


def test_a_message_is_one_line_that_can_be_sent() -> None:
    assert fail_by(UsageError("a\n  b\x00\ud800")).json()["detail"] == "a b\x00?"
    assert len(fail_by(UsageError("a" * 5000)).json()["detail"]) == 500


def test_an_unknown_address_and_a_wrong_method() -> None:
    response = ask(build_app(), path="/nothing")
    assert (response.status_code, response.json()["title"]) == (404, "Not Found")
    assert response.json()["detail"] == (
        "there is nothing at this address; GET /openapi.json describes what there is"
    )
    response = ask(build_app(), "DELETE")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert response.json()["title"] == "Method Not Allowed"
    assert response.json()["detail"] == "this address takes GET only"


def test_a_status_that_is_no_error_has_no_problem() -> None:
    response = fail_by(HTTPException(304, headers={"ETag": '"a"'}))
    assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", '"a"')


def test_an_unknown_status_has_some_title() -> None:
    assert fail_by(HTTPException(499, "gone")).json()["title"] == "Error"


def test_malformed_multipart_is_400() -> None:
    response = TestClient(build_app()).post(
        "/upload", content=b"x", headers={"Content-Type": "multipart/form-data"}
    )
    assert (response.status_code, response.json()["title"]) == (400, "Bad Request")
    assert response.json()["detail"] == "Missing boundary in multipart."


def test_wrong_parameters_are_named_and_not_repeated() -> None:
    secret = "s" * 60
    response = ask(build_app(), "POST", "/search", json={"k": 101, "kind": secret, secret: secret})
    problem = response.json()
    assert (response.status_code, problem["title"]) == (422, "Invalid request")
    assert problem["errors"] == [
        {"field": "body.k", "message": "Input should be less than or equal to 100"},
        {"field": "body.kind", "message": "String should match pattern 'a|b'"},
        {"field": f"body.{secret[:40]}", "message": "Extra inputs are not permitted"},
    ]
    assert problem["detail"].startswith("body.k: Input should be less than or equal to 100; body.k")
    assert secret not in response.text


def test_parameters_of_every_place() -> None:
    app = build_app()
    missing = ask(app, "POST", "/upload", data={"k": "0"}).json()["errors"]
    assert missing == [
        {"field": "body.file", "message": "Field required"},
        {"field": "body.k", "message": "Input should be greater than or equal to 1"},
    ]
    query = ask(app, path="/page?number=x").json()["errors"]
    assert [one["field"] for one in query] == ["query.number"]


def test_what_is_no_json_is_said_without_its_position_as_a_field() -> None:
    response = TestClient(build_app()).post(
        "/search", content=b'{"k": secret}', headers={"Content-Type": "application/json"}
    )
    (one,) = response.json()["errors"]
    assert one == {"field": "body", "message": "no JSON: Expecting value"}
    assert "secret" not in response.text


def test_hostile_names_of_fields_are_no_error_of_ours() -> None:
    body = {"a\n b": 2} | {str(number): 0 for number in range(100)}
    response = ask(build_app(), "POST", "/search", json=body)
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 20
    assert response.json()["errors"][0]["field"] == "body.a b"
    assert len(response.json()["detail"]) == 500
    for content in ('{"\\ud800": 1}', '{"k": "\\ud800"}', "[" * 100_000, "\xff", '{"k": NaN}'):
        response = TestClient(build_app()).post(
            "/search", content=content.encode("latin-1"),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert response.status_code in (400, 422)


@pytest.fixture
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("casebook"), "propagate", True)


@pytest.mark.usefixtures("_heard")
def test_an_unforeseen_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    response = fail_by(ZeroDivisionError("secret"))
    assert (response.status_code, response.headers["X-Request-ID"]) == (500, "r1")
    assert response.json()["request_id"] == "r1"
    assert "logged under this request_id" in response.json()["detail"]
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    (record,) = [one for one in caplog.records if one.getMessage() == "error"]
    assert record.fields == {"request_id": "r1", "kind": "ZeroDivisionError"}  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.usefixtures("_heard")
@pytest.mark.parametrize(
    ("error", "logged"),
    [(StoreError("x"), True), (StoreFullError("x"), True), (UsageError("x"), False),
     (errors.UnavailableError("x"), False), (errors.OverloadedError("x"), False)],
)  # fmt: skip
def test_a_fault_of_the_service_is_logged(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fail_by(error)
    assert any(one.getMessage() == "error" for one in caplog.records) is logged


def drive(app: Any, messages: list[Message] | None = None) -> list[Message]:
    """What the application sends to a client that sends ``messages``."""
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.sleep(60)
        assert messages
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}}
        await app(scope, receive, send)

    asyncio.run(run())
    return sent


def test_half_an_answer_is_broken_off() -> None:
    async def half(scope: object, receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive(Catch(half))


def test_nobody_is_told_of_a_client_that_left() -> None:
    async def leave(scope: object, receive: object, send: object) -> None:
        raise ClientDisconnect

    assert drive(Catch(leave)) == []


def test_a_refusal_is_sent_whole_before_the_rest_is_thrown_away() -> None:
    parts: list[Message] = [{"type": "http.request", "body": b"x" * 1000, "more_body": True}] * 3
    parts = [*parts, {"type": "http.request", "body": b"x"}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await refuse(errors.TooLargeError("x"), scope, receive, send)

    start, body, end = drive(app, parts)
    headers = dict(start["headers"])
    assert start["status"] == 413
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert body["more_body"] is True
    assert end == {"type": "http.response.body"}
    assert parts == []


def test_a_refused_client_that_sends_for_ever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.problems._LINGER", 0.02)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await refuse(errors.TooLargeError("x"), scope, receive, send)

    assert drive(app, [])[-1] == {"type": "http.response.body"}


def test_a_problem_of_an_item_names_the_request() -> None:
    request = Request({"type": "http", "state": {"request_id": "r2"}})
    problem = problem_of(errors.BadUploadError("no image"), request)
    assert (problem.status, problem.detail, problem.request_id) == (422, "no image", "r2")


def test_the_document_lists_problems_and_not_fastapis_own() -> None:
    document = build_app().openapi()
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    assert set(document["components"]["schemas"]) >= {"Problem", "FieldError", "Body"}
    assert "ValidationError" not in document["components"]["schemas"]
    for path in ("/search", "/upload"):
        found = document["paths"][path]["post"]["responses"]["422"]["content"]
        assert list(found) == ["application/problem+json"]
        body = found["application/problem+json"]
        assert body["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "404" in document["paths"]["/search"]["post"]["responses"]


def test_the_document_is_made_once_and_mended_again_for_new_routes() -> None:
    app = build_app()
    assert app.openapi() is app.openapi()

    @app.get("/late")
    async def late(number: int) -> int:
        return number

    assert "/late" in app.openapi()["paths"]
    assert "HTTPValidationError" not in json.dumps(app.openapi())


def test_a_key_is_optional_for_reading_where_none_is_required() -> None:
    for required in (True, False):
        paths = build_app(keys_required=required).openapi()["paths"]
        either = [{BEARER: []}, {BASIC: []}]
        assert paths["/search"]["post"]["security"] == (either if required else [*either, {}])
        assert paths["/upload"]["post"]["security"] == [{BEARER: []}]


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 413, 415, 421, 422, 429, 500, 503, 504, 507]
)
def test_every_documented_error_has_an_example_that_is_a_problem(status: int) -> None:
    found = responses(status)[status]
    example = found["content"]["application/problem+json"]["example"]
    assert Problem(**example).status == status
    assert found["description"] == example["title"]
    names = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
    assert list(found.get("headers", {})) == ([names[status]] if status in names else [])


def test_titles_in_the_document_are_those_of_the_errors() -> None:
    kinds = [getattr(errors, name) for name in dir(errors) if name.endswith("Error")]
    for kind in kinds:
        if kind not in (errors.CasebookError, errors.BadUploadError) and kind.status < 499:
            assert responses(kind.status)[kind.status]["description"] == kind.title


def test_the_service_answers_as_before_to_what_is_right() -> None:
    response: Response = ask(build_app(), "POST", "/search", json={"k": 3})
    assert response.status_code == 200
