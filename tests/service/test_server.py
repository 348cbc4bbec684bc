"""The whole service, as ``casebook serve`` starts it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embedder.datasets import ImageSource
from embedder.npz import NpzSource
from embedder.sources import Library
from embedder.store import Cell, read_cell
from embedder.types import Distance, Split, Task
from evaluate.knn import Protocol, find_neighbours
from evaluate.metrics import measure, predict
from index.reference import ReferenceIndex
from index.search import SupportSet
from index.vote import MajorityVote, count_votes
from tests.commands import run, start
from tests.conftest import write_npz
from tests.service.conftest import Server, serving
from tests.service.test_routes import picture, png

CLOSE = 1e-5
"""Neighbours may change places where their similarities differ by less."""


LARGE = png(np.kron(picture(), np.ones((250, 250, 1), np.uint8)))
"""49 megapixels in a small file: its decoding takes a while."""


def classify_all(server: Server, source: ImageSource, **form: object) -> list[dict[str, Any]]:
    """The answer for every image of the test split."""
    answers = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for batch in source.batches(Split.TEST, 64):
            files = [("files", (f"{n}.png", png(pixels))) for n, pixels in enumerate(batch)]
            answer = client.post("/classify/batch", files=files, data=form)
            assert answer.status_code == 200, answer.text
            answers += [item["answer"] for item in answer.json()["items"]]
    return answers


def compare(answers: list[dict[str, Any]], cell: Cell) -> None:
    """With what ``knn-eval`` finds and records for the cell, by its defaults."""
    dataset = cell.dataset
    found = find_neighbours(cell, Protocol())
    support, truth = cell.labels(Split.TRAIN), cell.labels(Split.TEST)
    scores = count_votes(
        found, support, dataset.task, len(dataset.classes), MajorityVote(), Distance.COSINE
    )
    predicted = predict(scores, dataset.task)
    served = np.zeros_like(predicted)
    for line, answer in enumerate(answers):
        for rank, case in enumerate(answer["neighbours"]):
            row = int(case["id"].rpartition("/")[2])
            assert case["similarity"] == pytest.approx(found.similarities[line, rank], abs=CLOSE)
            if row != found.rows[line, rank]:
                near = np.flatnonzero(
                    abs(found.similarities[line] - found.similarities[line, rank]) < CLOSE
                )
                edge = rank == 10  # one beyond the 11 may take the last place
                assert edge or row in found.rows[line, near]
        for label in answer["labels"]:
            if dataset.task is Task.MULTILABEL:
                served[line, label["index"]] = 1
            else:
                served[line, 0] = label["index"]
    assert served.tolist() == predicted.tolist()
    (path,) = cell.path.parents[2].glob(
        f"results/knn-{dataset.name}-{cell.size}-{cell.header.variant}-test-*.json"
    )
    record = json.loads(path.read_text())
    figures = measure(truth, scores, dataset.task, dataset.classes, with_auc=False)
    assert record["metrics"]["accuracy"] == figures.accuracy
    assert figures.accuracy == pytest.approx((served == truth).mean())


@pytest.mark.parametrize(
    ("dataset", "size"),
    [
        ("phantom-cells", 28),
        ("phantom-cells", 64),
        ("phantom-nodule", 28),
        ("phantom-findings", 28),
    ],
)
def test_a_whole_split_as_evaluated(server: Server, dataset: str, size: int) -> None:
    source = Library(Path("nowhere")).open(dataset, size)
    answers = classify_all(server, source, dataset=dataset, res=size)
    compare(answers, read_cell(server.store / dataset / str(size) / "hog.h5"))


@pytest.mark.slow
def test_the_real_split_as_evaluated(real_data: Path, tmp_path: Path) -> None:
    data = {"CASEBOOK_DATA": str(real_data)}
    run(tmp_path, "embed", "--model", "hog", "--dataset", "pneumoniamnist", **data)
    run(tmp_path, "knn-eval", "--k", "11")
    with serving(tmp_path, tmp_path / "store", "--data", str(real_data)) as server:
        answers = classify_all(server, NpzSource(real_data / "pneumoniamnist.npz"))
        compare(answers, read_cell(tmp_path / "store/pneumoniamnist/28/hog.h5"))


@pytest.mark.slow
def test_a_network_as_evaluated(tmp_path: Path) -> None:
    """An untrained one, whose embeddings nearly coincide: the hardest case for the rounding."""
    write_npz(tmp_path / "tiny.npz", counts=(30, 4, 16))
    model = ("--model", "resnet18", "--dataset", str(tmp_path / "tiny.npz"))
    run(tmp_path, "embed", *model, "--random-weights", "0")
    run(tmp_path, "knn-eval", "--k", "11")
    with serving(tmp_path, tmp_path / "store", *model) as server:
        answers = classify_all(server, NpzSource(tmp_path / "tiny.npz"))
        compare(answers, read_cell(tmp_path / "store/tiny/28/resnet18-random0.h5"))


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_npz(folder / "tiny.npz", counts=(40, 4, 12))
    run(folder, "embed", "--model", "hog", "--dataset", str(folder / "tiny.npz"))
    return folder


def copy_of(tiny_store: Path, folder: Path) -> Path:
    shutil.copytree(tiny_store, folder, dirs_exist_ok=True)
    return folder / "store"


def new_key(folder: Path, scope: str = "write") -> dict[str, str]:
    key = run(folder, "casebook", "keys", "add", "test", "--scope", scope).stdout.strip()
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.slow
def test_200_changes_and_kills_equal_a_rebuild(tiny_store: Path, tmp_path: Path) -> None:
    """Whatever was answered is kept; what a kill interrupted is whole, or is not there."""
    store = copy_of(tiny_store, tmp_path)
    head = new_key(tmp_path)
    rng = np.random.default_rng(0)
    alive = {f"tiny/train/{row}": None for row in range(40)}
    labels = read_cell(store / "tiny/28/hog.h5").labels(Split.TRAIN)[:, 0]
    known: dict[str, tuple[int, int | None]] = {
        f"tiny/train/{row}": (int(labels[row]), None) for row in range(40)
    }
    done = version = 0
    while done < 200:
        kill_after = done + int(rng.integers(20, 60))
        with serving(tmp_path, store) as server, httpx.Client(base_url=server.url) as client:
            served = client.get("/indexes").json()["indexes"][0]["index_version"]
            assert served in (version, version + 1)  # the interrupted change may be whole
            _take_in_what_a_kill_left(client, alive, known, version, served)
            version = served
            while done < min(kill_after, 200):
                done += 1
                if rng.random() < 0.5 or len(alive) < 15:
                    seed, label = done, int(rng.integers(3))
                    form = {"dataset": "tiny", "label": str(label)}
                    files = {"file": png(picture(seed))}
                    answer = client.post("/cases", files=files, data=form, headers=head)
                    assert answer.status_code == 201
                    name = answer.json()["id"]
                    alive[name], known[name] = None, (label, seed)
                else:
                    name = list(alive)[int(rng.integers(len(alive)))]
                    answer = client.delete(f"/cases/{name}", headers=head)
                    assert answer.status_code == 200
                    del alive[name]
                version += 1
                assert answer.json()["index_version"] == version
            _check_against_a_rebuild(client, store, alive, known)
            if done < 200:
                known["tiny/added/next"] = (1, 5000 + done)
                _kill_while_it_adds(client, server, head, 5000 + done, float(rng.random()) / 30)
    with serving(tmp_path, store) as server, httpx.Client(base_url=server.url) as client:
        _check_against_a_rebuild(client, store, alive, known)


def _kill_while_it_adds(
    client: httpx.Client, server: Server, head: dict[str, str], seed: int, seconds: float
) -> None:
    """Over the connection that is open already, so that the kill comes amid the request."""

    def send() -> None:
        files, form = {"file": png(picture(seed))}, {"dataset": "tiny", "label": "1"}
        with suppress(httpx.HTTPError):
            client.post("/cases", files=files, data=form, headers=head)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(seconds)
    server.process.send_signal(signal.SIGKILL)
    sender.join()
    server.process.wait()


def _take_in_what_a_kill_left(
    client: httpx.Client,
    alive: dict[str, None],
    known: dict[str, tuple[int, int | None]],
    version: int,
    served: int,
) -> None:
    if served == version:
        return
    cases = client.get("/cases", params={"dataset": "tiny", "split": "added", "count": 100})
    (name,) = {case["id"] for case in cases.json()["cases"]} - set(alive)
    alive[name], known[name] = None, known["tiny/added/next"]


def _check_against_a_rebuild(
    client: httpx.Client,
    store: Path,
    alive: dict[str, None],
    known: dict[str, tuple[int, int | None]],
) -> None:
    """Answers equal those of the definition over the cases that are left, in their order."""
    from embedder.hog import HogBackbone

    cell = read_cell(store / "tiny/28/hog.h5")
    base = cell.embeddings(Split.TRAIN)

    def order(name: str) -> tuple[bool, int]:
        return "added" in name, int(name.rpartition("/")[2])

    names = sorted(alive, key=order)
    vectors = []
    for name in names:
        seed = known[name][1]
        row = int(name.rpartition("/")[2])
        added = seed is not None and HogBackbone().embed(picture(seed)[None])[0]
        vectors.append(base[row] if seed is None else added)
    index = ReferenceIndex(SupportSet.of(np.array(vectors), Distance.COSINE, "anew"))
    for row in range(12):
        answer = client.post("/search", json={"id": f"tiny/test/{row}", "k": 11}).json()
        found = index.search(np.array(cell.embeddings(Split.TEST)[[row]]), 11)
        expected = [names[place] for place in found.rows[0]]
        assert [case["id"] for case in answer["neighbours"]] == expected
        assert [case["similarity"] for case in answer["neighbours"]] == pytest.approx(
            found.similarities[0].tolist(), abs=1e-7
        )
        marks = [case["labels"][0]["index"] for case in answer["neighbours"]]
        assert marks == [known[name][0] for name in expected]


def test_overload_is_said_and_the_admitted_are_answered(tiny_store: Path, tmp_path: Path) -> None:
    store = copy_of(tiny_store, tmp_path)
    block = LARGE

    def send(url: str) -> httpx.Response:
        return httpx.post(f"{url}/classify", files={"file": block}, timeout=60)

    with (
        serving(tmp_path, store, "--queue", "4") as server,
        ThreadPoolExecutor(32) as clients,
    ):
        answers = list(clients.map(send, [server.url] * 64))
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(answer.json()["title"] == "Too many requests" for answer in refused)
        assert send(server.url).status_code == 200


def test_a_deadline(tiny_store: Path, tmp_path: Path) -> None:
    store = copy_of(tiny_store, tmp_path)
    with serving(tmp_path, store, "--deadline", "0.001") as server:
        answer = httpx.post(f"{server.url}/classify", files={"file": LARGE})
        assert answer.status_code == 504
        assert "no answer within 0.001 s" in answer.json()["detail"]
        assert httpx.get(f"{server.url}/livez").status_code == 200


def test_a_client_that_leaves_is_logged(tiny_store: Path, tmp_path: Path) -> None:
    store = copy_of(tiny_store, tmp_path)
    with serving(tmp_path, store) as server:
        host, port = server.url.removeprefix("http://").split(":")
        form = httpx.Request("POST", server.url, files={"file": LARGE})
        body = form.read()
        head = (
            f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: {form.headers['content-type']}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as line:
            line.sendall(head.encode() + body)
        httpx.post(f"{server.url}/classify", files={"file": png(picture())})
        log = (tmp_path / "serve.log").read_text()
    statuses = [json.loads(line).get("status") for line in log.splitlines() if line[0] == "{"]
    assert 499 in statuses


def test_a_shutdown_answers_what_runs(tiny_store: Path, tmp_path: Path) -> None:
    store = copy_of(tiny_store, tmp_path)
    answers: list[httpx.Response] = []
    with serving(tmp_path, store) as server, httpx.Client(timeout=60) as client:

        def send() -> None:
            answers.append(client.post(f"{server.url}/classify", files={"file": LARGE}))

        client.get(f"{server.url}/livez")
        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        time.sleep(0.5)
        server.process.terminate()
        for sender in senders:
            sender.join()
        assert server.process.wait(timeout=30) == 0
    assert [answer.status_code for answer in answers] == [200] * 4


def test_another_address_needs_a_key(tiny_store: Path, tmp_path: Path) -> None:
    copy_of(tiny_store, tmp_path)
    words = ("casebook", "serve", "--host", "0.0.0.0", "--port", "0")
    refused = run(tmp_path, *words, status=2)
    assert "0.0.0.0 can be reached from other machines, and there is no API key" in refused.stderr
    head = new_key(tmp_path, "read")
    with serving(tmp_path, tmp_path / "store", "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/indexes").status_code == 401
        assert httpx.get(f"{url}/indexes", headers=head).status_code == 200


def test_a_port_in_use(tiny_store: Path, tmp_path: Path) -> None:
    copy_of(tiny_store, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run(tmp_path, "casebook", "serve", "--port", port, status=1)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in refused.stderr


def test_one_service_for_a_dataset_and_store(tiny_store: Path, tmp_path: Path) -> None:
    store = copy_of(tiny_store, tmp_path)
    with serving(tmp_path, store):
        second = run(tmp_path, "casebook", "serve", "--port", "0", status=1)
        assert "another process serves or compacts tiny from this store" in second.stderr
        compact = run(tmp_path, "casebook", "compact", status=1)
        assert "another process serves or compacts tiny from this store" in compact.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_loads(
    tiny_store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    copy_of(tiny_store, tmp_path)
    with start(tmp_path, "casebook", "serve", "--port", "0") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading hog\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number


_DEAF = """
import os, sys
import service.app
from service.cli import main

number, load = int(sys.argv[1]), service.app.load_context


class Last:
    def __del__(self):
        os.kill(os.getpid(), number)
        for _ in range(1000):
            str(_)


def deaf(*arguments):
    Last()
    return load(*arguments)


service.app.load_context = deaf
sys.exit(main(["--port", "0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_where_python_drops_it(
    tiny_store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """What is raised in a finaliser is only printed, and the process goes on."""
    copy_of(tiny_store, tmp_path)
    (tmp_path / "deaf.py").write_text(_DEAF)
    with start(tmp_path, "python", str(tmp_path / "deaf.py"), str(int(number))) as process:
        output, errors = process.communicate(timeout=60)
    assert output == ""
    assert "Exception ignored in" in errors
    assert "loading hog" in errors
    assert process.returncode == 128 + number


def test_stopped_as_soon_as_it_is_ready(tiny_store: Path, tmp_path: Path) -> None:
    copy_of(tiny_store, tmp_path)
    for _ in range(5):
        with start(tmp_path, "casebook", "serve", "--port", "0") as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0
    run(tmp_path, "casebook", "compact")
