"""``embed`` takes the memory of a few batches, however large the dataset."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from benchmarks.processes import peak_bytes

ROW = 224 * 224 * 3
PEAK_MB = 500


def write_large(path: Path, count: int) -> Path:
    """A deflated dataset of ``count`` training images, written without holding them."""
    rng = np.random.default_rng(0)
    block = np.repeat(rng.integers(0, 256, (16, ROW // 256), np.uint8), 256, axis=1).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for split, rows in (("train", count), ("val", 16), ("test", 16)):
            with archive.open(f"{split}_images.npy", "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 224, 224, 3)}
                npy.write_array_header_1_0(stream, header)
                for first in range(0, rows, 16):
                    stream.write(block[: min(16, rows - first) * ROW])
            with archive.open(f"{split}_labels.npy", "w") as stream:
                npy.write_array(stream, np.arange(rows, dtype=np.uint8)[:, None] % 3)
    return path


def peak_megabytes(folder: Path, dataset: Path) -> float:
    """Embed ``dataset`` in a process of its own; its largest resident size."""
    asked = ("--model", "timm:test_vit.r160_in1k", "--random-weights", "0")
    return peak_bytes(folder, "embed", *asked, "--dataset", str(dataset), "--store", "store") / 1e6


@pytest.mark.slow
def test_four_gigabytes_take_no_more_memory_than_forty_megabytes(tmp_path: Path) -> None:
    small = write_large(tmp_path / "small.npz", 40_000_000 // ROW)
    large = write_large(tmp_path / "large.npz", 4_000_000_000 // ROW)
    low = peak_megabytes(tmp_path, small)
    high = peak_megabytes(tmp_path, large)
    assert high < low + PEAK_MB, f"{high:.0f} MB against {low:.0f} MB"
