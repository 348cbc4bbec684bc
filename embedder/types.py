"""The vocabulary that every package shares: tasks, splits, distances and array types."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Images, uint8 (N, H, W, C) with C = 1 or 3."""

Labels = NDArray[np.uint8]
"""Class indices, uint8 (N, 1); for a multi-label task 0 or 1 per label, uint8 (N, L)."""

Vectors = NDArray[np.float32]
"""Embeddings, float32 (N, D)."""

Scores = NDArray[np.float64]
"""A score per class, float64 (N, C); for a multi-label task per label, float64 (N, L)."""

Rows = NDArray[np.int64]
"""Row numbers within one split, int64."""


class Task(StrEnum):
    BINARY = "binary"
    MULTICLASS = "multi-class"
    ORDINAL = "ordinal"
    MULTILABEL = "multi-label"


class Split(StrEnum):
    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Distance(StrEnum):
    COSINE = "cosine"
    EUCLIDEAN = "euclidean"


def case_id(dataset: str, split: Split, row: int) -> str:
    """The stable name of one image, ``dataset/split/row``: the same at every resolution."""
    return f"{dataset}/{split}/{row}"
