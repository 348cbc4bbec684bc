"""``POST /classify``, ``POST /classify/batch``, ``POST /search`` and ``GET /indexes``."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from embedder.errors import CasebookError
from service.answers import CASE_ID, Batch, BatchItem, Classification, Indexes
from service.cases import CaseId
from service.classify import Rule
from service.context import Context, context_of
from service.errors import BadRequestError, TooLargeError
from service.forms import NoNull, multipart, only_form, only_query
from service.gate import read_access
from service.indexes import listing, pick
from service.openapi import responses
from service.problems import log_error, problem_of
from service.served import ServedCell
from service.waiting import within

MOST_FILES = 64

VoteName = Literal["majority", "distance", "softmax", "probe"]

Name = Annotated[str | None, Field(max_length=200)]

_DATASET = "Dataset whose training cases vote; may be left out where one is served."
_MODEL = "Backbone or stored variant; may be left out where the dataset has one."
_RES = "Side length of the images, in pixels; may be left out where there is one."
_K = "Number of nearest training cases that vote or, with `probe`, are shown."
_VOTE = (
    "`majority`: every case counts alike; `distance`: by its cosine; "
    "`softmax`: by exp(cosine / 0.07). `probe`: none does, the linear probe of the index decides, "
    "where `GET /indexes` names one."
)

router = APIRouter(tags=["predictions"], dependencies=[Depends(read_access)])


OPTIONS = ("dataset", "model", "res", "k", "vote")


@dataclass(frozen=True)
class Options:
    """Which index answers, by dataset, model and resolution, and how its cases vote."""

    index: tuple[str | None, str | None, int | None]
    rule: Rule


async def options_of(
    dataset: Annotated[str | NoNull, Form(description=_DATASET, max_length=200)] = None,
    model: Annotated[str | NoNull, Form(description=_MODEL, max_length=200)] = None,
    res: Annotated[int | NoNull, Form(description=_RES, ge=1, le=100_000)] = None,
    k: Annotated[int, Form(description=_K, ge=1, le=100)] = 11,
    vote: Annotated[VoteName, Form(description=_VOTE)] = "majority",
) -> Options:
    """From the fields of a form."""
    return Options((dataset, model, res), Rule(k, vote))


class SearchRequest(BaseModel):
    """A stored case, or a raw embedding."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {"required": ["id"], "properties": {"id": {"type": "string"}}},
                {"required": ["embedding"], "properties": {"embedding": {"type": "array"}}},
            ]
        },
    )

    id: str | None = Field(
        None, description=f"{CASE_ID}. Its own embedding is the query.", max_length=300,
        json_schema_extra={"pattern": "^.+/(train|val|test|added)/[0-9]+$"},
    )  # fmt: skip
    embedding: list[float] | None = Field(
        None, description="As the index's backbone gives it, instead of an id.", min_length=1,
        max_length=100_000,
    )  # fmt: skip
    dataset: Name = Field(None, description=f"{_DATASET} By default that of the id.")
    model: Name = Field(None, description=_MODEL)
    res: int | None = Field(None, description=_RES, ge=1, le=100_000)
    k: int = Field(11, description=_K, ge=1, le=100)
    vote: VoteName = Field("majority", description=_VOTE)


@router.post(
    "/classify", responses=responses(401, 413, 415, 422, 429, 503, 504),
    dependencies=[Depends(only_form("file", *OPTIONS))], openapi_extra=multipart("file"),
)  # fmt: skip
async def classify(
    request: Request,
    file: Annotated[
        UploadFile, File(description="PNG, JPEG, BMP, TIFF, WebP or single-frame DICOM.")
    ],
    options: Annotated[Options, Depends(options_of)],
    context: Annotated[Context, Depends(context_of)],
) -> Classification:
    """Classify an image by its nearest training cases.

    The image is centre-cropped to a square and resized to the index's resolution.
    """
    cell = pick(context.served, *options.index)
    with cell.embedder.slot():
        work = _classify(context, file, cell, options.rule)
        return await within(context.settings.deadline, request, work)


@router.post(
    "/classify/batch", responses=responses(401, 413, 422, 429, 503, 504),
    dependencies=[Depends(only_form(*OPTIONS, several="files"))],
    openapi_extra=multipart("files"),
)  # fmt: skip
async def classify_batch(
    request: Request,
    files: Annotated[
        list[UploadFile],
        File(
            description=f"1 to {MOST_FILES} images, as for `POST /classify`.",
            min_length=1,
            json_schema_extra={"maxItems": MOST_FILES},
        ),
    ],
    options: Annotated[Options, Depends(options_of)],
    context: Annotated[Context, Depends(context_of)],
) -> Batch:
    """Classify several images; one that cannot be read fails alone."""
    if len(files) > MOST_FILES:
        raise TooLargeError(f"{len(files)} files; send at most {MOST_FILES} at a time")
    cell = pick(context.served, *options.index)
    with ExitStack() as first:
        first.enter_context(cell.embedder.slot())

        async def one(number: int, file: UploadFile) -> BatchItem:
            if number == 0:
                item = await _item(request, context, file, cell, options.rule)
                first.close()
                return item
            async with cell.embedder.wait_for_slot():
                return await _item(request, context, file, cell, options.rule)

        work = asyncio.gather(*(one(number, file) for number, file in enumerate(files)))
        return Batch(items=await within(context.settings.deadline, request, _all(work)))


@router.post(
    "/search", dependencies=[Depends(only_query())],
    responses=responses(401, 404, 413, 422, 429, 503, 504),
)  # fmt: skip
async def search(
    request: Request, body: SearchRequest, context: Annotated[Context, Depends(context_of)]
) -> Classification:
    """The neighbours of a stored case, which is not its own, or of an embedding; and their vote."""
    if (body.id is None) == (body.embedding is None):
        raise BadRequestError("give either an id or an embedding")
    rule = Rule(body.k, body.vote)
    if body.embedding is not None:
        cell = pick(context.served, body.dataset, body.model, body.res)
        with cell.searcher.slot():
            work = context.classifier.vector(body.embedding, cell, rule)
            return await within(context.settings.deadline, request, work)
    assert body.id is not None
    name = CaseId.parse(body.id)
    if body.dataset not in (None, name.dataset):
        raise BadRequestError(f"{body.id[:200]} is no case of {body.dataset}")
    cell = pick(context.served, name.dataset, body.model, body.res)
    with cell.searcher.slot():
        work = context.classifier.case(name, cell, rule)
        return await within(context.settings.deadline, request, work)


@router.get("/indexes", dependencies=[Depends(only_query())], responses=responses(401, 422, 429))
def indexes(context: Annotated[Context, Depends(context_of)]) -> Indexes:
    """What is served: datasets, backbones, resolutions, versions, probes, accuracies on record."""
    return listing(context.served, context.settings.store / "results")


async def _all(work: asyncio.Future[list[BatchItem]]) -> list[BatchItem]:
    return await work


async def _classify(
    context: Context, file: UploadFile, cell: ServedCell, rule: Rule
) -> Classification:
    context.limits.check_bytes(file.size or 0)
    return await context.classifier.upload(await file.read(), cell, rule)


async def _item(
    request: Request, context: Context, file: UploadFile, cell: ServedCell, rule: Rule
) -> BatchItem:
    name = (file.filename or "")[:255]
    try:
        answer = await _classify(context, file, cell, rule)
    except Exception as error:  # whatever hinders one image, the others go on
        if not isinstance(error, CasebookError):
            log_error(error, request.scope)
        return BatchItem(name=name, answer=None, problem=problem_of(error, request))
    return BatchItem(name=name, answer=answer, problem=None)
