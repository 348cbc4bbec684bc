"""Deterministic fakes of the three seams, and small real files for every test."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from embedder.types import Distance, Labels, Pixels, Rows, Split, Vectors
from index.search import Neighbours
from tests.commands import run

# What a script runs in its background ignores interruptions, and so does all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


class FakeBackbone:
    """Four numbers of each image: its mean, its corners, and a one, so that none is a zero row."""

    width = 4

    def embed(self, pixels: Pixels) -> Vectors:
        plain = pixels.astype(np.float32)
        mean = plain.mean(axis=(1, 2, 3))
        ones = np.ones(len(pixels), np.float32)
        return np.stack([mean, plain[:, 0, 0, 0], plain[:, -1, -1, -1], ones], axis=1)


class FakeIndex:
    """Answers every query with rows 0, 1, 2 ... at similarities 1, 1/2, 1/3 ..."""

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        rows = np.tile(np.arange(k, dtype=np.int64), (len(queries), 1))
        return Neighbours(rows, (1 / (rows + 1)).astype(np.float32))


class FirstVote:
    """Only the nearest neighbour counts."""

    weighted = True

    def weights(self, similarities: NDArray[np.float32], distance: Distance) -> NDArray[np.float64]:
        weights = np.zeros(similarities.shape)
        weights[:, 0] = 1
        return weights


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the home folder, or is led by the caller's environment."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("CASEBOOK_STORE", "CASEBOOK_DATA", "CASEBOOK_MIRROR", "CASEBOOK_DEBUG"):
        monkeypatch.delenv(name, raising=False)


NpzMaker = Callable[..., Path]


@pytest.fixture
def make_npz(tmp_path: Path) -> NpzMaker:
    return lambda name="tiny.npz", **changes: write_npz(tmp_path / name, **changes)


def write_npz(
    path: Path,
    *,
    counts: tuple[int, int, int] = (12, 4, 6),
    size: int = 28,
    channels: int = 1,
    classes: int = 3,
    label_count: int = 1,
    seed: int = 0,
    compressed: bool = True,
    **replaced: NDArray[np.generic] | None,
) -> Path:
    """A dataset file of random images; ``replaced`` arrays take the place of generated ones.

    An array replaced by None is left out.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic] | None] = {}
    for split, count in zip(Split, counts, strict=True):
        shape = (count, size, size) if channels == 1 else (count, size, size, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, np.uint8)
        labels: Labels = rng.integers(0, classes, (count, label_count), np.uint8)
        labels[:classes, 0] = np.arange(min(count, classes))
        arrays[f"{split}_labels"] = labels
    arrays |= replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compressed else np.savez
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of phantoms embedded by hog, nothing of it evaluated. Not to be written to.

    The first process of a run that needs it makes it for all.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "phantoms"
    folder.mkdir(exist_ok=True)
    made = folder / "made"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for names, sizes in (
                ("phantom-cells", "28,64"),
                ("phantom-nodule,phantom-findings", "28"),
            ):
                run(folder, "embed", "--model", "hog", "--dataset", names, "--res", sizes)
            made.touch()
    return folder / "store"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real PneumoniaMNIST; skips where there is none."""
    folder = _REAL
    if not folder:
        pytest.skip("CASEBOOK_DATA is not set: no real MedMNIST files")
    if not (Path(folder) / "pneumoniamnist.npz").exists():
        pytest.skip(f"no pneumoniamnist.npz in {folder}")
    return Path(folder)


_REAL = os.environ.get("CASEBOOK_DATA", "")
