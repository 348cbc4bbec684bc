"""Exact search against the bare float32 matrix product of the same shape, interleaved.

    python benchmarks/search.py [--queries 4000] [--support 20000] [--width 768] [--rounds 5]

Prints the median seconds of each side and their ratio. The neighbours are first compared with the
NumPy reference on a sample of the queries.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

from embedder.types import Distance
from index.build import Kind, build
from index.search import SupportSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--support", type=int, default=20000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--k", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    support = rng.normal(size=(options.support, options.width)).astype(np.float32)
    queries = rng.normal(size=(options.queries, options.width)).astype(np.float32)
    ready = SupportSet.of(support, Distance.COSINE, "random")
    index, reference = build(ready, Kind.CPU), build(ready, Kind.REFERENCE)
    np.testing.assert_array_equal(
        index.search(queries[:20], options.k).rows, reference.search(queries[:20], options.k).rows
    )
    searches, products = [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        index.search(queries, options.k)
        searches.append(time.perf_counter() - began)
        began = time.perf_counter()
        for first in range(0, options.queries, 1024):
            queries[first : first + 1024] @ support.T
        products.append(time.perf_counter() - began)
    ratio = median(searches) / median(products)
    print(f"search {median(searches):.2f} s, product {median(products):.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
