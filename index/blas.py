"""FAISS, loaded so that its matrix product uses the processor's widest vectors.

The wheels of faiss-cpu bring OpenBLAS 0.3.15, of 2021 (facebookresearch/faiss, issue 4750), which
takes younger processors of AMD for ones without AVX-512, or even without AVX (xianyi/OpenBLAS,
issue 3620). An environment variable tells it better; it reads that once, when it is loaded. So
FAISS is imported from here only. docs/performance.md has what is gained.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401  before FAISS: its OpenBLAS is younger, and is not to be told

_CORE = "OPENBLAS_CORETYPE"
_SKYLAKEX = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_CPUINFO = Path("/proc/cpuinfo")


def core_type(cpuinfo: str) -> str | None:
    """OpenBLAS's name for a core with AVX-512, where the system says that there is one."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "SkylakeX" if set(line.split()) >= _SKYLAKEX else None


def _load() -> Any:
    chosen = None
    if _CORE not in os.environ and _CPUINFO.is_file():
        chosen = core_type(_CPUINFO.read_text())
    if chosen:
        os.environ[_CORE] = chosen
    try:
        import faiss
    finally:
        if chosen:
            del os.environ[_CORE]
    return faiss


faiss = _load()
