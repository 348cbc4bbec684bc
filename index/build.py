"""From a support set to an index of the kind that is asked for and installed."""

from __future__ import annotations

import importlib.util
from enum import StrEnum

from embedder.errors import SearchError
from index.reference import ReferenceIndex
from index.search import SearchIndex, SupportSet


class Kind(StrEnum):
    """Which index answers; all of them exactly and alike."""

    AUTO = "auto"
    CPU = "faiss"
    GPU = "faiss-gpu"
    REFERENCE = "reference"


def resolve(kind: Kind) -> Kind:
    """What answers here: ``auto`` is FAISS on a GPU where there is one, else on the CPU.

    Raises SearchError where FAISS is not installed, or has no GPU to use.
    """
    if kind is Kind.REFERENCE:
        return kind
    if importlib.util.find_spec("faiss") is None:
        raise SearchError(
            "FAISS is not installed; pip install faiss-cpu, or faiss-gpu-cu12 for a GPU, "
            "or use --index reference"
        )
    from index.blas import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if kind is Kind.GPU and not gpus:
        raise SearchError(
            "no GPU for FAISS; on a machine with one pip install faiss-gpu-cu12 in place of "
            "faiss-cpu, or use --index faiss"
        )
    return Kind.GPU if gpus and kind is not Kind.CPU else Kind.CPU


def build(support: SupportSet, kind: Kind = Kind.AUTO) -> SearchIndex:
    """An index of this kind; raises SearchError as ``resolve`` does."""
    kind = resolve(kind)
    if kind is Kind.REFERENCE:
        return ReferenceIndex(support)
    from index.flat import FlatIndex

    return FlatIndex(support, gpu=kind is Kind.GPU)
