"""What FAISS's OpenBLAS is told, seen in processes of their own: it is told once, as it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

CPUINFO = "processor\t: 0\nmodel name\t: any\nflags\t\t: {}\nbugs\t\t: none\n"
ZEN_3 = "fpu sse sse2 avx avx2 fma bmi2"
ZEN_4 = f"{ZEN_3} avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (CPUINFO.format(ZEN_4).encode(), "SkylakeX"),
        (b"model name\t: \xff\n" + CPUINFO.format(ZEN_4).encode(), "SkylakeX"),
        (CPUINFO.format(ZEN_3).encode(), None),
        (CPUINFO.format("fpu avx512f avx512cd avx512er").encode(), None),  # Knights Landing
        (b"processor\t: 0\nFeatures\t: fp asimd\n", None),
        (b"", None),
    ],
)
def test_avx512_as_skylake_x_has_it(cpuinfo: bytes, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_bytes(cpuinfo)
    assert core_type(tmp_path / "cpuinfo") == expected


def test_a_list_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert core_type(tmp_path / "none") is None
    assert core_type(tmp_path) is None


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
    core_type(Path("/proc/cpuinfo")) is None,
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
