"""The OpenAPI document: every error that an operation may give, and the keys that it takes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.answers import Problem
from service.problems import MEDIA_TYPE, UNEXPECTED
from service.uploads import kinds

BEARER, BASIC = "bearer", "basic"
"""Names of the security schemes in the OpenAPI document."""

_EXAMPLES = {
    400: ("Bad Request", "Missing boundary in multipart."),
    401: ("API key required", "give an API key: Authorization: Bearer KEY"),
    403: ("Not allowed", "this key may only read; use one of scope write"),
    404: ("Not Found", "no case phantom-cells/train/99999; its split has 600"),
    405: ("Method Not Allowed", "this address takes GET only"),
    408: ("Request Timeout", "the body did not come within 60 s"),
    413: ("Upload too large", "a file may have 10.0 MB"),
    415: ("Unsupported file type", f"a file of an unknown kind; {kinds('and')} are read"),
    421: ("Misdirected Request", "the Host header names a host that is not answered here"),
    422: ("Invalid request", "body.k: Input should be less than or equal to 100"),
    429: ("Too many requests", "the queue is full; try again in 1 s"),
    500: ("Internal error", UNEXPECTED),
    503: ("Unavailable", "the service is shutting down"),
    504: ("Deadline exceeded", "not answered within 30 s; try again later"),
    507: ("Insufficient storage", "no room to write the case; free some space and try again"),
}

_HEADERS = {
    401: ("WWW-Authenticate", "How to give a key."),
    405: ("Allow", "What this address takes."),
    429: ("Retry-After", "Seconds to wait."),
    503: ("Retry-After", "Seconds to wait."),
}


def install(app: FastAPI, *, keys_required: bool) -> None:
    """Make the document say what FastAPI by itself does not know."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        return mend_openapi(make(), keys_required=keys_required)

    app.openapi = openapi  # type: ignore[method-assign]


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses=`` of a route that may answer with these errors."""
    return {status: _documented(status) for status in statuses}


def mend_openapi(document: dict[str, Any], *, keys_required: bool) -> dict[str, Any]:
    """The document without FastAPI's own 422; changed in place, to no effect a second time.

    Where no key is required for reading, the operations that take one by either scheme say so.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    found = Problem.model_json_schema(
        ref_template="#/components/schemas/{model}", mode="serialization"
    )
    for name, schema in found.pop("$defs").items():
        schemas.setdefault(name, schema)
    schemas.setdefault("Problem", found)
    for name, schema in schemas.items():
        if name.startswith("Body_"):  # a form: what it has besides is refused
            schema["additionalProperties"] = False
    for path in document.get("paths", {}).values():
        for operation in path.values():
            _mend_operation(operation, keys_required)
    return document


def _mend_operation(operation: dict[str, Any], keys_required: bool) -> None:
    found = operation.setdefault("responses", {})
    if "HTTPValidationError" in str(found.get("422")):
        found["422"] = _documented(422)
    for status in (400, 408, 421, 500) if "requestBody" in operation else (421, 500):
        found.setdefault(str(status), _documented(status))
    operation["responses"] = dict(sorted(found.items()))
    security = operation.get("security", [])
    if not keys_required and {BASIC: []} in security and {} not in security:
        security.append({})


def _documented(status: int) -> dict[str, Any]:
    title, detail = _EXAMPLES[status]
    errors = []
    if status == 422:
        field, _, message = detail.partition(": ")
        errors.append({"field": field, "message": message})
    example = {
        "type": "about:blank", "title": title, "status": status, "detail": detail,
        "request_id": "5f0c6a4d9b0e4c6f8a3e2d1c0b9a8f7e", "errors": errors,
    }  # fmt: skip
    found: dict[str, Any] = {
        "description": title,
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
        },
    }
    if status in _HEADERS:
        name, text = _HEADERS[status]
        found["headers"] = {name: {"description": text, "schema": {"type": "string"}}}
    return found
