"""The page at ``/``: the service for people, on the same API as every other client."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.answers import Cases, Index, Indexes
from service.gate import read_access
from service.uploads import kinds, reads_dicom

EXAMPLES = 8
"""How many cases of the test split are offered at a time."""

_HERE = Path(__file__).parent

_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Showcase(Protocol):
    """What the page needs of the service; both methods may block."""

    def indexes(self) -> Indexes: ...

    def examples(self, dataset: str, count: int, seed: int) -> Cases:
        """Cases of the test split, as ``GET /cases`` draws them."""
        ...


def install(
    app: FastAPI,
    service: Showcase,
    *,
    upload_limit: int = 10_000_000,
    keyed: bool = False,
) -> None:
    """Add the page and its files to ``app``.

    ``upload_limit``, in bytes, is refused before it is sent; ``keyed`` says that requests need an
    API key, which a copied ``curl`` command then takes from the environment.
    """
    app.include_router(page_router(service, upload_limit=upload_limit, keyed=keyed))
    app.mount("/static", _Files(directory=_HERE / "static"), name="static")


def page_router(service: Showcase, *, upload_limit: int, keyed: bool) -> APIRouter:
    router = APIRouter(include_in_schema=False, dependencies=[Depends(read_access)])

    @router.get("/")
    def show() -> HTMLResponse:
        served = service.indexes()
        text = _TEMPLATES.get_template("page.html").render(
            served=served,
            licences=_licences(served.indexes),
            examples=_examples(service, served.indexes),
            upload_limit=upload_limit,
            kinds=kinds("or"),
            reads_dicom=reads_dicom(),
            keyed=keyed,
        )
        return HTMLResponse(text)

    return router


class _Files(StaticFiles):
    """Files that a browser keeps and asks about each time, by ETag: none is ever stale."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _examples(service: Showcase, indexes: list[Index]) -> Cases:
    """Of the dataset that is shown first; at most as many as its test split has."""
    if not indexes or not indexes[0].test_cases:
        return Cases(cases=[])
    first = indexes[0]
    return service.examples(first.dataset, min(EXAMPLES, first.test_cases), 0)


def _licences(indexes: list[Index]) -> dict[str, str]:
    """The licence of each dataset's images, by the dataset's name."""
    return {index.dataset: index.licence for index in indexes}
