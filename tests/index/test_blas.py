"""What FAISS's OpenBLAS is told, seen in processes of their own: it is told once, as it loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedder import processor
from index import blas
from index.blas import core_type

CORE = "OPENBLAS_CORETYPE"

PROGRAM = """
import os
import index.flat
from threadpoolctl import threadpool_info
libraries = [found for found in threadpool_info() if found["internal_api"] == "openblas"]
for found in libraries:
    if "faiss" in found["filepath"]:
        print(found["architecture"], os.environ.get("OPENBLAS_CORETYPE"))
"""

ZEN_3 = "fpu sse sse2 avx avx2 fma bmi2"
ZEN_4 = f"{ZEN_3} avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (ZEN_4, "SkylakeX"),
        (ZEN_3, None),
        ("fpu avx512f avx512cd avx512er", None),  # Knights Landing
        ("", None),
    ],
)
def test_avx512_as_skylake_x_has_it(flags: str, expected: str | None) -> None:
    assert core_type(flags) == expected


@pytest.mark.parametrize("before", [None, "", "Haswell"])
def test_the_environment_is_as_before_where_faiss_fails(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv(CORE, raising=False)
    else:
        monkeypatch.setenv(CORE, before)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError):
        blas._load()
    assert os.environ.get(CORE) == before


def architecture(**variables: str) -> str:
    """OpenBLAS's core in FAISS, and what is left in the environment."""
    kept = {name: value for name, value in os.environ.items() if name != CORE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**kept, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if not done.stdout:
        pytest.skip("FAISS has another BLAS here")
    return done.stdout.strip()


needs_avx512 = pytest.mark.skipif(
    core_type(processor.field("flags")) is None,
    reason="this processor has no AVX-512",
)


@needs_avx512
def test_faiss_multiplies_with_avx512_where_there_is_some() -> None:
    assert architecture() == "SkylakeX None"


@needs_avx512
def test_an_empty_choice_is_none() -> None:
    assert architecture(OPENBLAS_CORETYPE="") == "SkylakeX"


@needs_avx512
def test_what_a_user_chose_is_left() -> None:
    assert architecture(OPENBLAS_CORETYPE="Haswell") == "Haswell Haswell"
