"""The first candidates of each query: a matrix product by blocks, and FAISS's heaps over them.

``faiss.knn`` does the same with the BLAS that its wheel was built with. NumPy's is newer, and its
product of larger blocks faster: ``benchmarks/knn.py`` compares this with the bare product.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from embedder.types import Rows, Vectors

_QUERIES, _POINTS = 2048, 8192
"""A block of products, which takes 64 MB."""

_Floats = NDArray[np.float32]


def propose(
    queries: Vectors, points: Vectors, squares: _Floats | None, take: int
) -> tuple[Rows, _Floats]:
    """The ``take`` rows of ``points`` with the highest inner product, int64 (Q, take), and these.

    With ``squares``, the points' squared norms, float32 (N,): those at the least Euclidean
    distance, and the inner products less half of the squares. All as float32 has it; where it
    overflows, some may be missing, and -1 stands for them.
    """
    found = np.empty((len(queries), take), np.int64)
    values = np.empty((len(queries), take), np.float32)
    space = np.empty(min(_QUERIES, len(queries)) * min(_POINTS, len(points)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(queries), _QUERIES):
            part = slice(first, first + _QUERIES)
            _fill(queries[part], points, squares, found[part], values[part], space)
    return found, values


def _fill(
    queries: Vectors, points: Vectors, squares: _Floats | None, rows: Rows, values: _Floats,
    space: _Floats,
) -> None:  # fmt: skip
    count = len(queries)
    heap: Any = faiss.float_minheap_array_t()
    heap.nh, heap.k = rows.shape
    heap.val, heap.ids = faiss.swig_ptr(values), faiss.swig_ptr(rows)
    heap.heapify()
    for first in range(0, len(points), _POINTS):
        block = points[first : first + _POINTS]
        products = space[: count * len(block)].reshape(count, len(block))
        np.matmul(queries, block.T, out=products)
        if squares is not None:
            products -= squares[first : first + _POINTS] / 2
        heap.addn(len(block), faiss.swig_ptr(products), first, 0, count)
    heap.reorder()
