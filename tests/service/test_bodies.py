"""How much is taken of request bodies, by an application that reads all it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service import bodies
from service.bodies import BodyLimit


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    count, more = 0, True
    while more:
        message = await receive()
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
        if scope.get("hold") is not None and not more:
            await scope["hold"].wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(count).encode()})


def scope_of(path: str, **more: Any) -> Scope:
    headers = [(name.encode(), value.encode()) for name, value in more.pop("headers", ())]
    return {
        "type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"",
        "state": {"request_id": "r"}, **more,
    }  # fmt: skip


async def ask(limit: BodyLimit, scope: Scope, parts: Iterable[bytes], pause: float = 0) -> int:
    """The status of the answer to a body that comes in parts."""
    left = iter(parts)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(pause)
        part = next(left, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Message) -> None:
        sent.append(message)

    await limit(scope, receive, send)
    status: int = sent[0]["status"]
    return status


def limits() -> BodyLimit:
    return BodyLimit(read_all, max_upload=100_000, max_batch=300_000)


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/classify", 100_000 + 65_536, 200), ("/classify", 100_001 + 65_536, 413),
        ("/classify/batch", 300_000, 200), ("/classify/batch", 300_001, 413),
        ("/search", 1_000_000, 200), ("/search", 1_000_001, 413),
    ],
)  # fmt: skip
def test_each_path_has_its_limit(path: str, size: int, status: int) -> None:
    assert asyncio.run(ask(limits(), scope_of(path), [bytes(size)])) == status
    announced = scope_of(path, headers=[("content-length", str(size))])
    assert asyncio.run(ask(limits(), announced, [bytes(size)])) == status


def test_a_form_that_is_not_multipart_is_short() -> None:
    head = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")]
    for size, status in ((65_536, 200), (65_537, 413)):
        scope = scope_of("/classify", headers=head)
        assert asyncio.run(ask(limits(), scope, [b"&" * size])) == status


def test_all_bodies_together_have_a_limit() -> None:
    """4 batches' worth, 1.2 MB, are held by those that are not answered yet."""

    async def run() -> tuple[list[int], int, int]:
        limit, hold = limits(), asyncio.Event()
        parts = [bytes(100_000)] * 3
        held = [
            asyncio.create_task(ask(limit, scope_of("/classify/batch", hold=hold), parts))
            for _ in range(4)
        ]
        await asyncio.sleep(0.05)
        refused = await ask(limit, scope_of("/classify"), [bytes(1000)])
        hold.set()
        answered = await asyncio.gather(*held)
        return answered, refused, await ask(limit, scope_of("/classify"), [bytes(1000)])

    assert asyncio.run(run()) == ([200] * 4, 429, 200)


def test_a_body_that_comes_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.05)
    monkeypatch.setattr("service.problems._LINGER", 0.02)
    slow = ask(limits(), scope_of("/classify"), [b"x"] * 100, pause=0.02)
    assert asyncio.run(slow) == 408
    assert asyncio.run(ask(limits(), scope_of("/classify"), [b"x"] * 100)) == 200
