"""FAISS, loaded so that its matrix product uses the processor's widest vectors.

The wheels of faiss-cpu, seen at 1.15.1, bring OpenBLAS 0.3.15 of 2021, which takes AMD's Zen 4 for
a Zen without AVX-512. A variable tells it better, which it reads once, when it is loaded; by a name
that it does not know it falls back to a core of 2004. So FAISS is imported from here only, and
before anybody else does. docs/performance.md has what is gained.
"""

from __future__ import annotations

import os
from typing import Any

from embedder import processor

_CORE = "OPENBLAS_CORETYPE"
_SKYLAKEX = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})


def core_type(flags: str) -> str | None:
    """OpenBLAS's name for a core with AVX-512, where these flags of a processor say so."""
    return "SkylakeX" if set(flags.split()) >= _SKYLAKEX else None


def _load() -> Any:
    """What a user has chosen is left; the environment is as before once FAISS is there."""
    before = os.environ.pop(_CORE, None)
    chosen = before or core_type(processor.field("flags"))
    if chosen:
        os.environ[_CORE] = chosen
    try:
        import faiss
    finally:
        os.environ.pop(_CORE, None)
        if before is not None:
            os.environ[_CORE] = before
    return faiss


faiss = _load()
