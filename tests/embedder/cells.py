"""A small cell to write and read: its header, labels and vectors; and a small disk for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedder.datasets import Dataset
from embedder.fingerprint import Fingerprint
from embedder.store import Cell, Header, Store
from embedder.types import Labels, Split, Task, Vectors
from embedder.writer import CellWriter

COUNTS = (20, 5, 8)
WIDTH = 6

DATASET = Dataset("tiny", Task.MULTICLASS, 1, COUNTS, ("a", "b", "c"), "CC0")

FINGERPRINT = Fingerprint(
    "tiny", "npz-crc:sha256:00", 28, "fake", "fake:one", "sha256:11", "rule", "none", WIDTH,
    "fp32", "float32",
)  # fmt: skip


def header(variant: str = "fake", **changes: object) -> Header:
    """``changes`` are to the fingerprint."""
    fingerprint = replace(FINGERPRINT, **changes)  # type: ignore[arg-type]
    return Header(DATASET, variant, fingerprint, {"numpy": "2.0"})


def labels() -> dict[Split, Labels]:
    rng = np.random.default_rng(1)
    return {s: rng.integers(0, 3, (DATASET.count(s), 1), np.uint8) for s in Split}


def vectors(split: Split) -> Vectors:
    rng = np.random.default_rng([2, list(Split).index(split)])
    return rng.normal(size=(DATASET.count(split), WIDTH)).astype(np.float32)


def store_cell(root: Path, dataset: Dataset, width: int, seed: int, backbone: str = "fake") -> Cell:
    """A complete cell of random embeddings, where it belongs in the store at ``root``."""
    rng = np.random.default_rng(seed)
    made = replace(FINGERPRINT, dataset=dataset.name, backbone=backbone, width=width)
    marks = {
        s: rng.integers(0, len(dataset.classes), (dataset.count(s), 1), np.uint8) for s in Split
    }
    store = Store(root)
    path = store.path(dataset.name, made.size, backbone)
    with CellWriter(path, Header(dataset, backbone, made, {}), marks) as writer:
        for split in Split:
            rows = rng.standard_normal((dataset.count(split), width)).astype(np.float32)
            writer.append(split, 0, rows)
        writer.finish()
    return store.read(path)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of so many bytes; skips the test where none can be mounted."""
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(asked, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
