"""``/openapi.json``: the document, with examples made of what is served now, so that they work."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from embedder.errors import CasebookError
from embedder.types import Split
from service import cases
from service.answers import Added, Batch, BatchItem, Change, Classification, Timings
from service.cases import CaseId
from service.classify import Rule
from service.context import Context, context_of
from service.gate import caller_of
from service.indexes import listing
from service.served import ServedCell

Document = dict[str, Any]

_MOST_VOTES = 11
_DIGITS = 5  # of the numbers of an embedding: enough for the same neighbours, and half as long
_IMAGE = "image.png"
_TIMINGS = Timings(decode=0.9, queue=0.1, embed=6.2, search=0.4, total=7.8)

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def document(
    request: Request, context: Annotated[Context, Depends(context_of)]
) -> JSONResponse:
    """For whom may not read here, without the examples: these tell of cases."""
    found = copy.deepcopy(request.app.openapi())
    found["servers"] = [{"url": request.scope.get("root_path") or "/"}]
    caller = caller_of(request.scope)
    if caller.key is not None or not caller.keys_required:
        with suppress(CasebookError):  # every case erased, or no place in the queue
            await add_examples(found, context)
            _add_commands(found, str(request.base_url).rstrip("/"))
    return JSONResponse(found)


async def add_examples(document: Document, context: Context) -> None:
    """Change the document in place: parameters, bodies, and the answers to them.

    Raises CasebookError where nothing can be asked for.
    """
    cell = max(context.served.cells, key=lambda cell: cell.images is not None)
    name = _first_case(cell)
    rule = Rule(max(1, min(_MOST_VOTES, cell.count() - 1)), "majority")
    by_case = (await context.classifier.case(name, cell, rule)).model_copy(
        update={"timings": _TIMINGS.model_copy(update={"decode": 0.0, "embed": 0.0})}
    )
    index = {"dataset": name.dataset, "model": cell.model, "res": cell.cell.size}
    options = {**index, "k": rule.k, "vote": rule.vote}
    vector = cell.collection.vector(cell.fingerprint, name.split, name.row)[0]
    embedding = [float(f"{value:.{_DIGITS}g}") for value in vector.tolist()]
    labels = [label.name for label in cases.describe(cell, name).labels]

    _in_parameters(document, {**index, "split": name.place, "row": name.row})
    _in_bodies(document, {**options, "label": labels or [""]})
    document["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"][
        "examples"
    ] = {
        "case": {"summary": "By a stored case", "value": {"id": str(name), **options}},
        "embedding": {"summary": "By an embedding", "value": {"embedding": embedding, **options}},
    }
    _in_answers(document, context, cell, name, by_case)


def _first_case(cell: ServedCell) -> CaseId:
    """Of the test split, if it has one that is not erased."""
    dataset, gone = cell.cell.dataset, cell.collection.state.erased
    for split in (Split.TEST, Split.VAL, Split.TRAIN):
        for row in range(dataset.count(split)):
            if (split, row) not in gone:
                return CaseId(dataset.name, split, row)
    raise CasebookError(f"{dataset.name} has no stored case")


def _in_parameters(document: Document, values: dict[str, object]) -> None:
    for _, _, operation in _operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["name"] in values:
                parameter["example"] = values[parameter["name"]]


def _in_bodies(document: Document, values: dict[str, object]) -> None:
    for _, _, operation in _operations(document):
        for name, field in _form(document, operation).items():
            if name in values:
                field["examples"] = [values[name]]


def _in_answers(
    document: Document, context: Context, cell: ServedCell, name: CaseId, by_case: Classification
) -> None:
    state = cell.collection.state
    upload = by_case.model_copy(update={"query": None, "timings": _TIMINGS})
    added = f"{name.dataset}/added/{max(state.cases, default=0) + 1}"
    case = "/cases/{dataset}/{split}/{row}"
    answers: dict[tuple[str, str], BaseModel] = {
        ("post", "/classify"): upload,
        ("post", "/classify/batch"): Batch(
            items=[BatchItem(name=_IMAGE, answer=upload, problem=None)]
        ),
        ("post", "/search"): by_case,
        ("get", "/indexes"): listing(context.served, context.settings.store / "results"),
        ("get", "/cases"): cases.sample(context.served, name.dataset, name.place, 8, 0),
        ("get", case): cases.describe(cases.find_cell(context.served, name.dataset, None), name),
        ("post", "/cases"): Added(
            id=added, index_version=state.version + 1, labels=cases.describe(cell, name).labels
        ),
        ("delete", case): Change(id=str(name), index_version=state.version + 1),
    }
    for (method, path), answer in answers.items():
        responses = document["paths"][path][method]["responses"]
        (status,) = {"200", "201"} & set(responses)
        responses[status]["content"]["application/json"]["example"] = answer.model_dump(mode="json")


def _add_commands(document: Document, address: str) -> None:
    """Each operation's example as a ``curl`` command, where viewers of documents look for it."""
    for path, method, operation in _operations(document):
        command = shlex.join(_command(document, path, method, operation, address))
        if "security" in operation and {} not in operation["security"]:
            command += ' -H "Authorization: Bearer $CASEBOOK_KEY"'
        sample = {"lang": "Shell", "label": "curl", "source": command}
        operation["x-codeSamples"] = [sample]


def _command(
    document: Document, path: str, method: str, operation: Document, address: str
) -> list[str]:
    query = {}
    for parameter in operation.get("parameters", []):
        name, value = parameter["name"], str(parameter.get("example"))
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        elif "example" in parameter:
            query[name] = value
    words = ["curl", "-sS", *(["-X", "DELETE"] if method == "delete" else [])]
    words.append(f"{address}{path}{'?' if query else ''}{urlencode(query)}")
    for name, field in _form(document, operation).items():
        if "examples" not in field:
            words += ["-F", f"{name}=@{_IMAGE}"]
            continue
        (value,) = field["examples"]
        for one in value if isinstance(value, list) else [value]:
            words += ["--form-string", f"{name}={one}"]
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        body = content["application/json"]["examples"]["case"]["value"]
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    if path.endswith("/image"):
        words += ["-o", _IMAGE]
    return words


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _form(document: Document, operation: Document) -> dict[str, Document]:
    """The fields of an operation's form, by name."""
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" not in content:
        return {}
    name = content["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    found: dict[str, Document] = document["components"]["schemas"][name]["properties"]
    return found
