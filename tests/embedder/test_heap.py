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
import torch
from embedder.heap import keep_freed
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_is_freed_is_used_again() -> None:
    usual = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }  # fmt: skip

    def count(first: str) -> int:
        words = [sys.executable, "-c", BLOCKS.format(first=first)]
        return int(subprocess.check_output(words, env=usual))

    kept = count("keep_freed()")
    assert kept < 10 * 100_000_000 // 4096 / 100
    assert kept < count("")


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
