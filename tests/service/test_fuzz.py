"""A thousand hostile uploads, and requests broken in every other way, to a real process."""

from __future__ import annotations

import itertools
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.answers import Problem
from service.keyring import FILE, Keyring, Scope
from tests.service.broken import BROKEN, RAW, START
from tests.service.conftest import Server, serving
from tests.service.hostile import NAMED, noise, saved, uploads

ROUNDS = 6
PER_ROUND = 334
LARGE = saved(noise(1500, 2000, 3), "PNG")[:-5000]
LARGE_PER_ROUND = 10
CLIENTS = 8
REFUSALS = {413, 415, 422}

MOST_GROWTH = 120
"""Megabytes by which the process may grow after the first third, in which most of what it keeps of
freed memory has come. The large uploads alone have 90 in each round."""

MOST_MEMORY = 1500
"""Megabytes that it may have at any moment."""


@dataclass(frozen=True)
class Target:
    server: Server
    head: dict[str, str]
    log: Path

    def memory(self, name: str) -> int:
        """``VmRSS`` or ``VmHWM``, in megabytes."""
        text = Path(f"/proc/{self.server.process.pid}/status").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1]) // 1000

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, headers=self.head, timeout=60)

    def neighbours(self) -> list[dict[str, Any]]:
        """Of a good image and of a stored case."""
        with self.client() as client:
            answers = [
                client.post("/classify", files={"file": saved(noise(50, 70), "PNG")}),
                client.post("/search", json={"id": "phantom-cells/test/3", "k": 20}),
            ]
        for answer in answers:
            assert answer.status_code == 200, answer.text
        return [case for answer in answers for case in answer.json()["neighbours"]]


@pytest.fixture
def target(phantom_store: Path, tmp_path: Path) -> Iterator[Target]:
    store = tmp_path / "store"
    shutil.copytree(phantom_store, store)
    key = Keyring(store / FILE).add("writer", Scope.WRITE)
    with serving(tmp_path, store, "--dataset", "phantom-cells", "--res", "28") as server:
        yield Target(server, {"Authorization": f"Bearer {key}"}, tmp_path / "serve.log")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_thousand_hostile_uploads(target: Target) -> None:
    expected = target.neighbours()
    seen: Counter[int] = Counter()
    sizes = []
    for seed in range(ROUNDS):
        seen += send_uploads(target, seed)
        send_broken(target)
        sizes.append(target.memory("VmRSS"))
    assert sum(seen.values()) == ROUNDS * (PER_ROUND + LARGE_PER_ROUND) > 1000
    assert all(seen[status] > 100 for status in (200, *REFUSALS)), seen
    assert target.neighbours() == expected
    assert '"level": "error"' not in target.log.read_text()
    assert target.server.process.poll() is None
    assert min(sizes[-2:]) - sizes[1] < MOST_GROWTH, sizes
    assert target.memory("VmHWM") < MOST_MEMORY


def send_uploads(target: Target, seed: int) -> Counter[int]:
    """One round of uploads by all clients, and the statuses of what became of each."""
    items = itertools.chain(uploads(PER_ROUND, seed), [("cut short", LARGE)] * LARGE_PER_ROUND)
    jobs: list[tuple[Callable[..., list[int]], list[tuple[str, bytes]]]] = []
    ways = itertools.cycle([(classify, 1), (add_and_erase, 1), (classify_batch, 4), (classify, 1)])
    for way, count in ways:
        chosen = list(itertools.islice(items, count))
        if not chosen:
            break
        jobs.append((way, chosen))
    with ExitStack() as stack:
        clients = [stack.enter_context(target.client()) for _ in range(CLIENTS)]
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        work = [
            pool.submit(lambda part, client: [way(client, each) for way, each in part],
                        jobs[number::CLIENTS], client)
            for number, client in enumerate(clients)
        ]  # fmt: skip
        return Counter(status for one in work for statuses in one.result() for status in statuses)


def classify(client: httpx.Client, items: list[tuple[str, bytes]]) -> list[int]:
    ((name, block),) = items
    answer = client.post("/classify", files={"file": (name, block)})
    if answer.status_code == 200:
        assert len(answer.json()["neighbours"]) == 11
    return [judge(name, answer.status_code, answer)]


def add_and_erase(client: httpx.Client, items: list[tuple[str, bytes]]) -> list[int]:
    ((name, block),) = items
    form = {"dataset": "phantom-cells", "label": "0"}
    answer = client.post("/cases", files={"file": (name, block)}, data=form)
    if answer.status_code != 201:
        return [judge(name, answer.status_code, answer)]
    assert client.delete(answer.headers["Location"]).status_code == 200
    return [200]


def classify_batch(client: httpx.Client, items: list[tuple[str, bytes]]) -> list[int]:
    answer = client.post("/classify/batch", files=[("files", item) for item in items])
    assert answer.status_code == 200, answer.text
    found = answer.json()["items"]
    assert [item["name"] for item in found] == [name for name, _ in items]
    return [
        judge(name, item["problem"]["status"] if item["problem"] else 200)
        for (name, _), item in zip(items, found, strict=True)
    ]


def judge(name: str, status: int, answer: httpx.Response | None = None) -> int:
    """A named one must get the status of its name; a black image is read, but has no cosine."""
    if name not in NAMED:
        assert status in {200, *REFUSALS}, name
    elif NAMED[name][0] == 200:
        assert status in {200, 422}, name
    else:
        assert status == NAMED[name][0], name
    if status >= 400 and answer is not None:
        assert_problem(answer)
    return status


def assert_problem(answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = Problem(**answer.json())
    assert problem.status == answer.status_code
    assert problem.detail
    assert problem.request_id == answer.headers["x-request-id"]


def send_broken(target: Target) -> None:
    address = target.server.url.removeprefix("http://").split(":")
    place = (address[0], int(address[1]))
    with ExitStack() as stack:
        for _ in range(50):  # of whom nothing is ever heard
            silent = stack.enter_context(closing(socket.create_connection(place)))
            silent.sendall(START)
        with target.client() as client:
            for method, path, head, body in BROKEN:
                assert_refused(client, method, path, head, body)
        for message in RAW:
            for resets in (False, True):
                assert_refused_or_hung_up(place, message, resets)


def assert_refused(
    client: httpx.Client, method: str, path: str, head: dict[str, str], body: bytes
) -> None:
    url = client.base_url.copy_with(raw_path=path.encode())
    headers = {name: value.encode("latin-1") for name, value in head.items()}
    answer = client.send(client.build_request(method, url, headers=headers, content=body))
    what = (method, path[:100], head, body[:100], answer.status_code, answer.text[:500])
    assert 400 <= answer.status_code < 500, what
    assert answer.headers["content-type"] == "application/problem+json", what
    assert_problem(answer)


def assert_refused_or_hung_up(place: tuple[str, int], message: bytes, resets: bool) -> None:
    answer = b""
    with closing(socket.create_connection(place, timeout=20)) as connection:
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            connection.sendall(message)
            if not resets:
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except TimeoutError:
            raise
        except OSError:  # it hung up first
            return
    assert answer[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.1 1"), (message[:200], answer)
    assert b"HTTP/1.1 5" not in answer, (message[:200], answer)
