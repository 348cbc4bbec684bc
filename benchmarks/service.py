"""How much of ``embed``'s rate the service reaches, and what it does when it is asked for too much.

    python benchmarks/service.py [--model resnet18] [--images 640] [--rounds 5]

Both sides embed the same test images on the same machine, by turns, in processes of their own: the
``embed`` command, timed without loading its backbone, and ``casebook serve`` asked by 32 clients at
once, each sending its next image when the last is answered. Figures are ratios. Then 64 clients ask
a service whose queue has 16 places.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from embedder.datasets import DATASETS
from embedder.phantom import PhantomSource
from embedder.types import Split

BIN = Path(sys.executable).parent
SIZE = 28
DEADLINE = 30.0


@dataclass(frozen=True)
class Outcome:
    """Seconds for all requests together, how many had each status, and the slowest that had 200."""

    seconds: float
    statuses: Counter[int]
    slowest: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for model in options.model or ["resnet18", "vit"]:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), model, options.images, options.rounds)


def compare(folder: Path, model: str, count: int, rounds: int) -> None:
    blocks = write_images(folder, count)
    words = ("--model", model, "--dataset", "bench.npz", "--random-weights", "0")
    warm_up = embed(folder, words, "store")
    print(f"{model}, {count} images of {SIZE} px, {os.cpu_count()} cores, {rounds} rounds")
    rates, shares = [], []
    with serving(folder, "--queue", "64") as port:
        ask(port, blocks[:64], 32)
        for _ in range(rounds):
            rate = embed(folder, words, "again")
            found = ask(port, blocks, 32)
            refuse_errors(found, {200})
            rates.append(rate)
            shares.append(count / found.seconds / rate)
    low, high = min(shares), max(shares)
    print(f"  embed: {statistics.median(rates):.1f} images/s (first run {warm_up:.1f})")
    print(
        f"  32 clients: {statistics.median(shares):.2f} of embed's rate ({low:.2f} to {high:.2f})"
    )
    with serving(folder, "--queue", "16", "--deadline", str(DEADLINE)) as port:
        found = ask(port, blocks, 64)
        refuse_errors(found, {200, 429})
    print(
        f"  64 clients, 16 places: {found.statuses[200]} answered, {found.statuses[429]} refused "
        f"by 429, the slowest answer took {found.slowest / DEADLINE:.2f} of the deadline"
    )


def refuse_errors(found: Outcome, allowed: set[int]) -> None:
    if not set(found.statuses) <= allowed or not found.statuses[200]:
        raise SystemExit(f"statuses {dict(found.statuses)}; expected {allowed}")


def write_images(folder: Path, count: int) -> list[bytes]:
    """A dataset whose test split has ``count`` images, and these as uploads."""
    source = PhantomSource(DATASETS["phantom-cells"], SIZE)
    some = source.pick(Split.TEST, range(32))
    rng = np.random.default_rng(0)
    test = some[rng.integers(0, len(some), count)]
    labels = {f"{split}_labels": np.zeros((n, 1), np.uint8) for split, n in sizes(count).items()}
    for array in labels.values():
        array[1::2] = 1
    train = source.pick(Split.TRAIN, range(32))
    np.savez(
        folder / "bench.npz", train_images=train, val_images=train[:2], test_images=test, **labels
    )
    blocks = []
    for pixels in test:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        blocks.append(stream.getvalue())
    return blocks


def sizes(count: int) -> dict[Split, int]:
    return {Split.TRAIN: 32, Split.VAL: 2, Split.TEST: count}


def embed(folder: Path, words: Sequence[str], store: str) -> float:
    """Images per second, as the command says; what it wrote to ``again`` is removed."""
    done = subprocess.run(
        [BIN / "embed", *words, "--store", store],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    if store == "again":
        for path in (folder / store).rglob("*.h5"):
            path.unlink()
    found = re.search(r"([\d,]+)/s", done.stderr)
    assert found is not None, done.stderr
    return float(found[1].replace(",", ""))


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[int]:
    command = [BIN / "casebook", "serve", "--store", "store", "--port", "0", *options]
    process = subprocess.Popen(
        [*command, "--rate-limit", "none", "--log-level", "error"],
        cwd=folder, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.rstrip("/\n").rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()


def ask(port: int, blocks: list[bytes], clients: int) -> Outcome:
    """Send every upload once, by so many clients, each over one connection that it keeps."""
    return asyncio.run(_ask(port, [request_of(block) for block in blocks], clients))


async def _ask(port: int, requests: list[bytes], clients: int) -> Outcome:
    left = iter(requests)
    statuses: Counter[int] = Counter()
    slowest = [0.0]

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            began = time.perf_counter()
            writer.write(request)
            status = await read_answer(reader)
            statuses[status] += 1
            if status == 200:
                slowest.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Outcome(time.perf_counter() - began, statuses, max(slowest))


async def read_answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    await reader.readexactly(int(length[1]))
    return int(head.split(b" ", 2)[1])


def request_of(block: bytes) -> bytes:
    edge = b"casebook-benchmark"
    body = (
        b"--" + edge + b'\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + block + b"\r\n--" + edge + b"--\r\n"
    )  # fmt: skip
    head = (
        b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
        b"boundary=" + edge + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    )
    return head + body


if __name__ == "__main__":
    main()
