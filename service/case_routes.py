"""``/cases``: the training cases behind a prediction; adding and erasing them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile, status
from fastapi import Path as PathParameter

from embedder.types import Split, Vectors
from service import cases, png
from service.answers import Added, Case, Cases, Change
from service.cases import CaseId, Place
from service.context import Context, context_of
from service.forms import NoNull, multipart, only_form, only_query
from service.gate import read_access, write_access
from service.openapi import responses
from service.served import ServedCell
from service.waiting import within

KEPT = 224
"""The side length, in pixels, at which an added image is kept beside the served ones."""

router = APIRouter(tags=["cases"])

Dataset = Annotated[str, PathParameter(description="Its dataset.", max_length=200)]
Where = Annotated[Place, PathParameter(description="Where it stands: a split, or `added`.")]
Row = Annotated[int, PathParameter(description="Its number there.", ge=0, lt=10**18)]
Size = Annotated[
    int | NoNull,
    Query(description="Side length, in pixels; by default the largest served.", ge=1, le=100_000),
]
Given = Annotated[Context, Depends(context_of)]


@router.get(
    "/cases", responses=responses(401, 422, 429),
    dependencies=[Depends(read_access), Depends(only_query("dataset", "split", "count", "seed"))],
)  # fmt: skip
def sample(
    context: Given,
    dataset: Annotated[str, Query(description="A served dataset.", max_length=200)],
    split: Annotated[Place, Query(description="Where to draw from.")] = "test",
    count: Annotated[int, Query(description="How many, at most.", ge=1, le=100)] = 8,
    seed: Annotated[int, Query(description="Another seed, other cases.", ge=0, lt=2**32)] = 0,
) -> Cases:
    """Cases of a split at random, the same ones for the same seed."""
    return cases.sample(context.served, dataset, split, count, seed)


@router.get(
    "/cases/{dataset}/{split}/{row}",
    dependencies=[Depends(read_access), Depends(only_query())],
    responses=responses(401, 404, 422, 429),
)  # fmt: skip
def case(context: Given, dataset: Dataset, split: Where, row: Row) -> Case:
    """One case: its labels, and where its image is. An erased one is never found again."""
    cell = cases.find_cell(context.served, dataset, None)
    return cases.describe(cell, _name(dataset, split, row))


@router.get(
    "/cases/{dataset}/{split}/{row}/image",
    dependencies=[Depends(read_access), Depends(only_query("res"))],
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The image."},
        304: {"description": "The image that the client has."},
        **responses(401, 404, 422, 429, 504),
    },
)  # fmt: skip
async def image(
    request: Request, context: Given, dataset: Dataset, split: Where, row: Row, res: Size = None
) -> Response:
    """The image of a case as it was embedded, as PNG; to be kept, and asked for again by ETag."""
    cell = cases.find_cell(context.served, dataset, res)
    name = _name(dataset, split, row)
    cell.collection.labels_of(name.split, name.row)
    headers = {"ETag": cases.tag(cell, name), "Cache-Control": "private, no-cache"}
    if _is_known(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    block = await within(context.settings.deadline, request, _read(cell, name))
    return Response(block, media_type="image/png", headers=headers)


@router.post(
    "/cases", status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(write_access), Depends(only_form("file", "dataset", several="label"))],
    responses={
        201: {"headers": {"Location": {
            "description": "Where the case is.", "schema": {"type": "string"},
        }}},
        **responses(401, 403, 413, 415, 422, 429, 503, 504, 507),
    },
    openapi_extra=multipart("file"),
)  # fmt: skip
async def add(
    request: Request,
    response: Response,
    context: Given,
    file: Annotated[UploadFile, File(description="As for `POST /classify`.")],
    dataset: Annotated[str, Form(description="A served dataset.", min_length=1, max_length=200)],
    label: Annotated[
        list[str],
        Form(
            description="Name or index of its class; for a multi-label task of each label that it "
            "has, or one that is empty where it has none.",
            min_length=1,
        ),
    ],
) -> Added:
    """Add a labelled case to a dataset: it votes from now on, in every index of the dataset."""
    cell = cases.named_cell(context.served, dataset)
    labels = cases.read_labels(cell.cell.dataset, label)
    context.limits.check_bytes(file.size or 0)
    mine = [served for served in context.served.cells if served.collection is cell.collection]
    with ExitStack() as slots:
        for worker in {served.embedder for served in mine}:
            slots.enter_context(worker.slot())
        work = _embed(context, await file.read(), mine)
        images, vectors = await within(context.settings.deadline, request, work)
        name, version = await asyncio.to_thread(cell.collection.add, labels, images, vectors)
    response.headers["Location"] = f"/cases/{quote(name)}"
    told = cases.names(cell.cell.dataset, labels)
    return Added(id=name, index_version=version, labels=told)


@router.delete(
    "/cases/{dataset}/{split}/{row}",
    dependencies=[Depends(write_access), Depends(only_query())],
    responses=responses(401, 403, 404, 422, 429, 503, 507),
)  # fmt: skip
async def erase(context: Given, dataset: Dataset, split: Where, row: Row) -> Change:
    """Erase a case: no answer has it any more. The dataset's own file is not touched."""
    cell = cases.find_cell(context.served, dataset, None)
    name = _name(dataset, split, row)
    version = await asyncio.to_thread(cell.collection.erase, name.split, name.row)
    return Change(id=str(name), index_version=version)


def _is_known(given: str, tag: str) -> bool:
    """Whether the client has what ``tag`` names; RFC 9110, 13.1.2."""
    return tag in {part.strip().removeprefix("W/") for part in given.split(",")}


async def _read(cell: ServedCell, name: CaseId) -> bytes:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(cell.reader, cases.picture, cell, name)


async def _embed(
    context: Context, block: bytes, mine: list[ServedCell]
) -> tuple[dict[int, bytes], dict[str, Vectors]]:
    """The picture at each size that is kept, and its embedding for each index."""
    channels = mine[0].cell.dataset.channels
    sizes = sorted({KEPT, *(cell.cell.size for cell in mine)})
    pixels = await context.classifier.decode_as(block, [(size, channels) for size in sizes])
    forms = dict(zip(sizes, pixels, strict=True))
    done = await asyncio.gather(*(cell.embedder.submit(forms[cell.cell.size]) for cell in mine))
    vectors = {
        cell.fingerprint: cell.as_stored(one.result) for cell, one in zip(mine, done, strict=True)
    }
    return {size: png.encode(form) for size, form in forms.items()}, vectors


def _name(dataset: str, split: Place, row: int) -> CaseId:
    return CaseId(dataset, None if split == "added" else Split(split), row)
