"""A service in a process of its own, and clients that ask it."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.processes import command, environment
from embedder.errors import EvaluationError
from embedder.types import Pixels

_EDGE = b"casebook-benchmark"


@dataclass(frozen=True)
class Service:
    """``seconds`` from the start of the process to its ready line, ``loading`` those of them that
    went by while the backbone was loaded.
    """

    port: int
    process: int
    seconds: float
    loading: float


@dataclass(frozen=True)
class Answered:
    """Of all requests: their answers, in order, the seconds of each, and of all together."""

    answers: list[dict[str, Any]]
    latencies: list[float]
    seconds: float


@contextmanager
def serving(folder: Path, store: Path) -> Iterator[Service]:
    """Serve the only cell of ``store``; raises EvaluationError where that does not begin."""
    words = (
        "casebook", "serve", "--store", str(store), "--port", "0", "--queue", "64",
        "--deadline", "3600", "--rate-limit", "none", "--log-level", "error",
    )  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(
        command(words), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        loading = _seconds_of_loading(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready: "):
            raise EvaluationError("casebook serve does not start; run it by hand to see why")
        seconds = time.perf_counter() - began
        yield Service(int(line.rstrip("/\n").rpartition(":")[2]), process.pid, seconds, loading)
    finally:
        process.terminate()
        process.communicate()


def _seconds_of_loading(process: subprocess.Popen[str]) -> float:
    """Between the lines that say that the backbone is loaded, and that cases are indexed."""
    assert process.stderr is not None
    began = ended = 0.0
    for line in process.stderr:
        if line.startswith("loading "):
            began = time.perf_counter()
        if line.startswith("indexing "):
            ended = time.perf_counter()
            break
    return ended - began


def upload(pixels: Pixels) -> bytes:
    """The request of one image, uint8 (H, W, 3), as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    body = (
        b"--" + _EDGE + b'\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + stream.getvalue() + b"\r\n--" + _EDGE + b"--\r\n"
    )  # fmt: skip
    head = (
        b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
        b"boundary=" + _EDGE + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    )
    return head + body


def ask(port: int, requests: Sequence[bytes], clients: int) -> Answered:
    """Send every request once, by so many clients, each over one connection that it keeps.

    Raises EvaluationError for an answer that is not 200.
    """
    return asyncio.run(_ask(port, requests, clients))


async def _ask(port: int, requests: Sequence[bytes], clients: int) -> Answered:
    left = iter(enumerate(requests))
    answers = [b""] * len(requests)
    latencies = [0.0] * len(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, request in left:
            began = time.perf_counter()
            writer.write(request)
            answers[number] = await _answer(reader)
            latencies[number] = time.perf_counter() - began
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Answered([json.loads(answer) for answer in answers], latencies, seconds)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    status = int(head.split(b" ", 2)[1])
    body = await reader.readexactly(int(length[1])) if length else b""
    if status != 200:
        raise EvaluationError(f"the service answers {status}; it cannot be measured")
    return body
