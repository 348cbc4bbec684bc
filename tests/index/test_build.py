from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from embedder.errors import SearchError
from embedder.types import Distance
from index.build import Kind, build, resolve
from index.flat import FlatIndex
from index.reference import ReferenceIndex
from index.search import SupportSet

SUPPORT = SupportSet.of(np.eye(3, dtype=np.float32), Distance.COSINE, "toy/train")


@pytest.fixture
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "faiss" else find(name)
    )


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.blas.faiss.get_num_gpus", lambda: 0)


@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.CPU, Kind.GPU])
@pytest.mark.usefixtures("no_faiss")
def test_without_faiss_says_what_to_install(kind: Kind) -> None:
    with pytest.raises(SearchError) as caught:
        build(SUPPORT, kind)
    message = str(caught.value)
    assert "FAISS is not installed" in message
    assert "pip install faiss-cpu" in message
    assert "faiss-gpu-cu12" in message
    assert "--index reference" in message
    assert "\n" not in message


@pytest.mark.usefixtures("no_faiss")
def test_the_reference_needs_no_faiss() -> None:
    assert isinstance(build(SUPPORT, Kind.REFERENCE), ReferenceIndex)


@pytest.mark.usefixtures("no_gpu")
def test_faiss_on_a_gpu_that_is_not_there() -> None:
    with pytest.raises(SearchError, match=r"no GPU for FAISS; .*faiss-gpu-cu12.*--index faiss$"):
        build(SUPPORT, Kind.GPU)


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_processor_without_a_gpu() -> None:
    assert isinstance(build(SUPPORT), FlatIndex)
    assert resolve(Kind.AUTO) is Kind.CPU
    assert resolve(Kind.REFERENCE) is Kind.REFERENCE


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(StandardGpuResources=object, get_num_gpus=lambda: 2)
    monkeypatch.setattr("index.blas.faiss", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert resolve(Kind.AUTO) is Kind.GPU
    assert resolve(Kind.GPU) is Kind.GPU
    assert resolve(Kind.CPU) is Kind.CPU


@pytest.mark.parametrize("kind", [Kind.CPU, Kind.REFERENCE])
def test_every_kind_finds_the_same(kind: Kind) -> None:
    found = build(SUPPORT, kind).search(np.array([[0, 2, 1]], np.float32), 3)
    assert found.rows.tolist() == [[1, 2, 0]]
