"""The OpenAPI document: complete, true of the running service, and with examples that work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from schemathesis.specs.openapi import definitions

from service.answers import Problem
from service.keyring import FILE, Keyring, Scope
from service.problems import MEDIA_TYPE
from tests.commands import BIN, ROOT, environment, run
from tests.conftest import write_npz
from tests.service.conftest import Server, serving

Document = dict[str, Any]

ERRORS = {
    "classify": [400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504],
    "classify_batch": [400, 401, 408, 413, 421, 422, 429, 500, 503, 504],
    "search": [400, 401, 404, 408, 413, 421, 422, 429, 500, 503, 504],
    "indexes": [401, 421, 422, 429, 500],
    "sample": [401, 421, 422, 429, 500],
    "case": [401, 404, 421, 422, 429, 500],
    "image": [401, 404, 421, 422, 429, 500, 504],
    "add": [400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 504, 507],
    "erase": [401, 403, 404, 421, 422, 429, 500, 503, 507],
    "livez": [421, 500],
    "readyz": [421, 500, 503],
    "metrics": [401, 421, 500],
}
READS = {"classify", "classify_batch", "search", "indexes", "sample", "case", "image", "metrics"}
WRITES = {"add", "erase"}


@dataclass(frozen=True)
class Api:
    server: Server
    folder: Path
    key: str
    """Of scope write."""

    @property
    def head(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def document(self) -> Document:
        answer = httpx.get(f"{self.server.url}/openapi.json", headers=self.head)
        assert answer.status_code == 200
        found: Document = answer.json()
        return found


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ``tiny.npz``, beside it: a multi-label task, so any number of labels is right; and
    with a linear probe, so any vote is.
    """
    folder = tmp_path_factory.mktemp("openapi")
    write_npz(folder / "tiny.npz", counts=(200, 4, 12), label_count=2, classes=2)
    run(folder, "embed", "--model", "hog", "--dataset", "tiny.npz")
    run(folder, "probe-eval", "--solver", "lbfgs")
    return folder


@pytest.fixture(scope="module", params=["--no-require-key", "--require-key"])
def api(
    request: pytest.FixtureRequest, embedded: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api") / "files"
    shutil.copytree(embedded, folder)
    key = Keyring(folder / "store" / FILE).add("writer", Scope.WRITE)
    with serving(folder, folder / "store", "--dataset", "tiny.npz", request.param) as server:
        yield Api(server, folder, key)


def operations(document: Document) -> dict[str, tuple[str, str, Document]]:
    """By operation id: method, path, operation."""
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def form_of(document: Document, operation: Document) -> Document:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("multipart/form-data", {}).get("schema", {}).get("$ref", "")
    schema = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
    found: Document = schema.get("properties", {})
    return found


def test_the_document_is_valid(api: Api) -> None:
    document = api.document()
    definitions.OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
        jsonschema_rs.validator_for({**schema, "components": document["components"]})
    assert "HTTPValidationError" not in json.dumps(document)


def test_everything_is_described(api: Api) -> None:
    document = api.document()
    count = sum(len(methods) for methods in document["paths"].values())
    assert set(operations(document)) == set(ERRORS)
    assert count == len(ERRORS)
    for method, path, operation in operations(document).values():
        assert operation["summary"]
        assert operation["description"].endswith("."), path
        assert all(each["description"] for each in operation.get("parameters", [])), (method, path)
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"


def test_every_error_is_listed_as_a_problem(api: Api) -> None:
    for name, (_, _, operation) in operations(api.document()).items():
        errors = {int(s): each for s, each in operation["responses"].items() if int(s) >= 400}
        assert list(errors) == ERRORS[name], name
        for status, error in errors.items():
            (kind,) = error["content"]
            assert kind == MEDIA_TYPE
            assert error["content"][kind]["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert Problem(**error["content"][kind]["example"]).status == status


def test_who_needs_a_key(api: Api) -> None:
    anyone = httpx.get(f"{api.server.url}/openapi.json").json()
    closed = "tiny" not in json.dumps(anyone)
    reading = [{"bearer": []}, {"basic": []}, *([] if closed else [{}])]
    for document in (anyone, api.document()):
        for name, (_, _, operation) in operations(document).items():
            expected = reading if name in READS else [{"bearer": []}] if name in WRITES else None
            assert operation.get("security") == expected, name
    status = httpx.get(f"{api.server.url}/indexes").status_code
    assert status == (401 if closed else 200)


def test_a_wrong_method_is_told_every_right_one(api: Api) -> None:
    for path, methods in (
        ("/cases", "GET, POST"), ("/cases/tiny/test/0", "DELETE, GET"), ("/search", "POST"),
    ):  # fmt: skip
        answer = httpx.request("PUT", f"{api.server.url}{path}", headers=api.head)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods)
        assert answer.json()["detail"] == f"this address takes {methods} only"


def test_examples_conform_to_their_schemas(api: Api) -> None:
    document = api.document()
    count = 0
    for name, (_, _, operation) in operations(document).items():
        for schema, example in examples_of(document, operation):
            whole = {**schema, "components": document["components"]}
            assert jsonschema_rs.is_valid(whole, example), (name, example)
            count += 1
    assert count > 100


def examples_of(document: Document, operation: Document) -> Iterator[tuple[Document, object]]:
    """Each with its schema."""
    for field in form_of(document, operation).values():
        yield from ((field, example) for example in field.get("examples", []))
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    contents = [content for body in bodies for content in body.get("content", {}).values()]
    for each in [*operation.get("parameters", []), *contents]:
        if "example" in each:
            yield each["schema"], each["example"]
        for example in each.get("examples", {}).values():
            yield each["schema"], example["value"]


def test_an_example_request_gets_the_example_answer(api: Api) -> None:
    """Every operation's, one after the other; what changes something comes last."""
    document = api.document()
    picture = send(api, document, *operations(document)["image"]).content
    assert picture.startswith(b"\x89PNG")
    for name in [*sorted(ERRORS.keys() - WRITES), "add", "erase"]:
        document = api.document()
        method, path, operation = operations(document)[name]
        answer = send(api, document, method, path, operation, picture)
        assert answer.status_code == (201 if name == "add" else 200), answer.text
        content = operation["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].partition(";")[0] in content
        if name not in {"image", "metrics", "livez", "readyz"}:
            assert_alike(answer.json(), content["application/json"]["example"])
    again = operations(api.document())["case"][2]["parameters"]
    assert [parameter["example"] for parameter in again] == ["tiny", "test", 1]


def send(
    api: Api, document: Document, method: str, path: str, operation: Document, picture: bytes = b""
) -> httpx.Response:
    """The example of an operation as a request."""
    query = {}
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif "example" in parameter:
            query[parameter["name"]] = parameter["example"]
    body: dict[str, Any] = {}
    form = form_of(document, operation)
    if form:
        body["files"] = {name: ("image.png", picture) for name in form if name.startswith("file")}
        body["data"] = {name: f["examples"][0] for name, f in form.items() if "examples" in f}
        assert body["files"].keys() | body["data"].keys() == form.keys()
    elif "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        body["json"] = examples["case"]["value"]
        assert set(examples) == {"case", "embedding"}
    url = f"{api.server.url}{path}"
    return httpx.request(method, url, params=query, headers=api.head, timeout=30, **body)


def assert_alike(found: object, example: object) -> None:
    """The same but for rounding, and for how long it took."""
    if isinstance(example, dict):
        assert isinstance(found, dict)
        assert found.keys() == example.keys()
        for name in example.keys() - {"timings"}:
            assert_alike(found[name], example[name])
    elif isinstance(example, list):
        assert isinstance(found, list)
        assert len(found) == len(example)
        for one, other in zip(found, example, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(example, abs=1e-5) if type(example) is float else example)


def test_the_example_of_an_embedding_finds_what_its_case_finds(api: Api) -> None:
    content = operations(api.document())["search"][2]["requestBody"]["content"]
    bodies = content["application/json"]["examples"]
    answers = [
        httpx.post(f"{api.server.url}/search", json=bodies[name]["value"], headers=api.head).json()
        for name in ("case", "embedding")
    ]
    names = [[case["id"] for case in answer["neighbours"]] for answer in answers]
    assert len(names[0]) == 11
    assert names[0] == names[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_commands_work(api: Api) -> None:
    found = operations(api.document())
    folder = api.folder / "curl"
    folder.mkdir()
    answers = {}
    for name in ["image", *sorted(ERRORS.keys() - WRITES - {"image"}), "add", "erase"]:
        (sample,) = found[name][2]["x-codeSamples"]
        command = sample["source"] + " --fail-with-body"
        done = subprocess.run(
            command, shell=True, cwd=folder, capture_output=True, text=True, timeout=60,
            env=environment(folder, CASEBOOK_KEY=api.key),
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers[name] = done.stdout
    assert json.loads(answers["classify"])["k"] == 11
    assert json.loads(answers["add"])["id"].startswith("tiny/added/")


SCHEMATHESIS = """
[auth.openapi]
bearer = { bearer = "${KEY}" }
basic = { username = "anyone", password = "${KEY}" }
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(api: Api) -> None:
    """All its checks, unrelaxed, with the help of ``schema_hooks``; each time the same requests."""
    config = api.folder / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)
    done = subprocess.run(
        [
            str(BIN / "schemathesis"), "--config-file", str(config), "run",
            f"{api.server.url}/openapi.json", "--header", f"Authorization: Bearer {api.key}",
            "--generation-deterministic", "--max-examples", "20", "--request-timeout", "20",
            "--continue-on-failure", "--no-color",
        ],
        cwd=api.folder, capture_output=True, text=True, timeout=300,
        env=environment(
            api.folder, KEY=api.key, SCHEMATHESIS_HOOKS="tests.service.schema_hooks",
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        ),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 selected / 12 total" in done.stdout
    assert "No issues found" in done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅  {phase} (in" in done.stdout, done.stdout
