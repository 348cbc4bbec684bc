"""Requests are taken at their word: what a form or a query has and nothing reads is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Request
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import ImmutableMultiDict

from embedder.registry import find
from service.errors import BadRequestError

NoNull = SkipJsonSchema[None]
"""A field that may be left out, but not be null: forms and queries have no null."""

IMAGE_TYPES = "image/png, image/jpeg, image/bmp, image/tiff, image/webp, application/dicom"
"""For the document: what a file is said to be is not believed, its bytes tell."""

Check = Callable[[Request], Awaitable[None]]


def multipart(field: str) -> dict[str, Any]:
    """The ``openapi_extra=`` of a route that takes images in ``field``."""
    form = {"encoding": {field: {"contentType": IMAGE_TYPES}}}
    return {"requestBody": {"content": {"multipart/form-data": form}}}


def only_form(*single: str, several: str = "") -> Check:
    """Dependency: the form has these fields, each once, and any number of ``several``; no query.

    Raises BadRequestError for another field, one that stands twice, and one that is empty.
    """

    async def check(request: Request) -> None:
        _refuse_others(request.query_params, (), "query parameter")
        form = await request.form()
        _refuse_others(form, (*single, several), "form field")
        for name in single:
            values = form.getlist(name)
            if len(values) > 1:
                raise BadRequestError(f"{name} is given {len(values)} times; give it once")
            if values == [""]:
                raise BadRequestError(f"{name} is empty; give a value, or leave it out")

    return check


def only_query(*names: str) -> Check:
    """Dependency: the query has no other parameters than these, each once."""

    async def check(request: Request) -> None:
        _refuse_others(request.query_params, names, "query parameter")
        for name in names:
            if len(request.query_params.getlist(name)) > 1:
                raise BadRequestError(f"{name} is given several times; give it once")

    return check


def _refuse_others(given: ImmutableMultiDict[str, Any], known: Iterable[str], noun: str) -> None:
    table = dict.fromkeys(name for name in known if name)
    for name in given:
        if not table:
            raise BadRequestError(f"no {noun} is taken here; {name[:80]!r} belongs elsewhere")
        find(table, name[:80], noun)
