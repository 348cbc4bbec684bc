"""Freed memory is kept: asking for as much again makes the system clear no page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
    counted = {
        first: int(subprocess.check_output([sys.executable, "-c", BLOCKS.format(first=first)]))
        for first in ("", "keep_freed()")
    }
    pages = 10 * 100_000_000 // 4096
    assert counted["keep_freed()"] < pages / 100
    assert counted[""] > 10 * counted["keep_freed()"]


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedder import heap

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(heap.ctypes, "CDLL")
    heap.keep_freed()
