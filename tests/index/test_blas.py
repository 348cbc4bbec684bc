"""What FAISS's OpenBLAS is told, seen in processes of their own: it is told once, as it loads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from index.blas import core_type

PROGRAM = """
import os
import index.flat
from threadpoolctl import threadpool_info
libraries = [found for found in threadpool_info() if found["internal_api"] == "openblas"]
for found in libraries:
    if "faiss" in found["filepath"]:
        print(found["architecture"], os.environ.get("OPENBLAS_CORETYPE"))
"""

CPUINFO = "processor\t: 0\nmodel name\t: any\nflags\t\t: {}\nbugs\t\t: none\n"
ZEN_3 = "fpu sse sse2 avx avx2 fma bmi2"
ZEN_4 = f"{ZEN_3} avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (CPUINFO.format(ZEN_4), "SkylakeX"),
        (CPUINFO.format(ZEN_3), None),
        (CPUINFO.format("fpu avx512f avx512cd avx512er avx512pf"), None),  # Knights Landing
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_avx512_as_skylake_x_has_it(cpuinfo: str, expected: str | None) -> None:
    assert core_type(cpuinfo) == expected


def architecture(**variables: str) -> str:
    """OpenBLAS's core in FAISS, and what is left in the environment."""
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**kept, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if not done.stdout:
        pytest.skip("FAISS has another BLAS here")
    return done.stdout.strip()


needs_avx512 = pytest.mark.skipif(
    platform.system() != "Linux" or core_type(Path("/proc/cpuinfo").read_text()) is None,
    reason="this processor has no AVX-512",
)


@needs_avx512
def test_faiss_multiplies_with_avx512_where_there_is_some() -> None:
    assert architecture() == "SkylakeX None"


@needs_avx512
def test_what_a_user_chose_is_left() -> None:
    assert architecture(OPENBLAS_CORETYPE="Haswell") == "Haswell Haswell"
