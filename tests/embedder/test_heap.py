"""Freed memory is kept: asking for as much again makes the system clear no page."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from embedder import engine, heap
from embedder.cli import main
from tests.conftest import NpzMaker

BLOCKS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import torch
from embedder.heap import give_back, keep_freed
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()
{then}
"""
IN_MAIN = "faults(); print(faults())"
IN_A_THREAD = (
    "work = ThreadPoolExecutor(1).submit; work(faults).result(); print(work(faults).result())"
)
LEFT = "before = resident(); np.ones(25_000_000, np.float32); {} print(resident() - before)"

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def run(first: str, then: str) -> int:
    """What a new process prints."""
    usual = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }  # fmt: skip
    words = [sys.executable, "-c", BLOCKS.format(first=first, then=then)]
    return int(subprocess.check_output(words, env=usual))


@needs_glibc
@pytest.mark.parametrize("then", [IN_MAIN, IN_A_THREAD], ids=["main", "thread"])
@pytest.mark.parametrize("most", ["", "2**30"])
def test_what_is_freed_is_used_again(then: str, most: str) -> None:
    assert run(f"keep_freed({most})", then) < run("", then) / 10


@needs_glibc
def test_much_that_is_free_at_the_end_of_the_heap_is_given_back() -> None:
    assert run("keep_freed()", LEFT.format("")) > 90_000_000
    assert run("keep_freed(2**30)", LEFT.format("")) > 90_000_000
    assert run("keep_freed(50_000_000)", LEFT.format("")) < 10_000_000
    assert run("keep_freed()", LEFT.format("give_back();")) < 10_000_000


def test_embed_keeps_it(
    make_npz: NpzMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr(engine, "keep_freed", lambda: asked.append(None))
    words = ["--dataset", str(make_npz()), "--model", "hog", "--store", str(tmp_path / "store")]
    assert main(words) == 0
    assert asked == [None]


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(heap.ctypes, "CDLL")
    heap.keep_freed()
    heap.give_back()
