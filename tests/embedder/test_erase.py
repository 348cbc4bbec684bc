"""Erasing rows: their bytes go, everything else stays, and a kill leaves a whole cell."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.erase import erase
from embedder.errors import CellBusyError, DamagedCellError, StoreError, StoreFullError
from embedder.store import Cell, Header, Store, read_cell
from embedder.types import Split, Vectors
from embedder.writer import CellWriter
from tests.commands import PEAK
from tests.embedder.cells import COUNTS, header, labels, small_disk, vectors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, **changes: object) -> Path:
    path = store.path("tiny", 28, "fake")
    with CellWriter(path, header(**changes), labels()) as writer:
        for split in Split:
            writer.append(split, 0, vectors(split))
        writer.finish()
    return path


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def assert_erased(cell: Cell, expected: dict[Split, list[int]]) -> None:
    """These rows are zeros and listed, and all others as they were written."""
    for split in Split:
        rows = expected.get(split, [])
        embeddings, classes = vectors(split), labels()[split]
        embeddings[rows] = 0
        classes[rows] = 0
        np.testing.assert_array_equal(cell.embeddings(split), embeddings)
        np.testing.assert_array_equal(cell.labels(split), classes)
        assert cell.erased[split].tolist() == rows


def test_erased_rows_are_zeros_and_listed(store: Store) -> None:
    path = write(store)
    before = read_cell(path)
    assert erase(store, path, {Split.TRAIN: [19, 0, 7], Split.TEST: iter([3, 3])}) == 4
    cell = store.read(path)
    assert_erased(cell, {Split.TRAIN: [0, 7, 19], Split.TEST: [3]})
    assert cell.live(Split.TEST).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert cell.header == before.header
    assert cell.extents == before.extents
    assert names(path) == ["fake.h5"]


def test_the_file_is_read_with_plain_h5py_from_the_words_of_the_specification(
    store: Store,
) -> None:
    """Follows docs/store-format.md and uses nothing of casebook."""
    path = write(store)
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    erase(store, path, {Split.VAL: [4, 1]})
    with h5py.File(path) as file:
        assert dict(file.attrs) == {**attributes, "schema": 2}
        assert set(file) == {"train", "val", "test"}
        assert set(file["train"]) == set(file["test"]) == {"embeddings", "labels"}
        assert set(file["val"]) == {"embeddings", "labels", "erased"}
        erased = file["val/erased"]
        assert erased.dtype == np.dtype("<i8")
        assert erased.shape == (2,)
        assert erased[:].tolist() == [1, 4]
        embeddings = file["val/embeddings"]
        assert embeddings.chunks is None
        offset = embeddings.id.get_offset()
        assert offset % 64 == 0
        plain = np.fromfile(path, "<f4", embeddings.size, offset=offset).reshape(5, 6)
        assert not plain[[1, 4]].any()
        assert not file["val/labels"][:][[1, 4]].any()
        np.testing.assert_array_equal(plain[[0, 2, 3]], vectors(Split.VAL)[[0, 2, 3]])


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_no_byte_of_an_erased_embedding_is_left(store: Store, storage: str) -> None:
    path = write(store, storage=storage)
    stored = {split: vectors(split).astype(storage) for split in Split}
    gone = {Split.TRAIN: [0, 11], Split.VAL: [4], Split.TEST: list(range(8))}
    erase(store, path, gone)
    whole = path.read_bytes()
    for split in Split:
        for row in range(len(stored[split])):
            assert (stored[split][row].tobytes() in whole) == (row not in gone[split])
            parts = stored[split][row].reshape(3, 2)
            assert any(part.tobytes() in whole for part in parts) == (row not in gone[split])


row_lists = st.fixed_dictionaries(
    {s: st.lists(st.integers(0, n - 1), max_size=4) for s, n in zip(Split, COUNTS, strict=True)}
)


@settings(max_examples=25)
@given(first=row_lists, second=row_lists)
def test_erasing_twice_gives_the_bytes_of_erasing_once(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[Split, list[int]],
    second: dict[Split, list[int]],
) -> None:
    folder = tmp_path_factory.mktemp("erase")
    one, two = Store(folder / "one"), Store(folder / "two")
    write(one)
    path = write(two)
    union = {split: sorted({*first[split], *second[split]}) for split in Split}
    counts = [erase(two, path, rows) for rows in (first, second)]
    assert counts[0] == sum(len(set(rows)) for rows in first.values())
    assert sum(counts) == sum(map(len, union.values()))
    erase(one, one.path("tiny", 28, "fake"), union)
    assert path.read_bytes() == one.path("tiny", 28, "fake").read_bytes()
    assert_erased(read_cell(path), union)


def test_a_file_is_not_touched_where_all_are_erased_already(store: Store) -> None:
    path = write(store)
    assert erase(store, path, {}) == 0
    assert path.read_bytes() == write(Store(store.root / "other")).read_bytes()
    erase(store, path, {Split.TRAIN: [3, 4]})
    before = path.stat()
    assert erase(store, path, {Split.TRAIN: [4], Split.VAL: []}) == 0
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(path) == ["fake.h5"]


def test_a_cell_that_was_read_before_goes_on_with_what_it_mapped(store: Store) -> None:
    path = write(store)
    cell = read_cell(path)
    mapped = cell.embeddings(Split.TRAIN)
    erase(store, path, {Split.TRAIN: [2]})
    np.testing.assert_array_equal(mapped, vectors(Split.TRAIN))
    assert not cell.embeddings(Split.TRAIN)[2].any()


def test_an_erased_cell_is_complete_for_whoever_would_write_it(store: Store) -> None:
    path = write(store)
    erase(store, path, {Split.TRAIN: [2]})
    with CellWriter(path, header(), labels()) as writer:
        assert writer.complete


def test_the_permissions_stay(store: Store) -> None:
    path = write(store)
    path.chmod(0o640)
    erase(store, path, {Split.TRAIN: [2]})
    assert path.stat().st_mode & 0o777 == 0o640


def test_of_a_link_the_file_itself_is_erased(store: Store, tmp_path: Path) -> None:
    path = write(store)
    real = path.rename(tmp_path / "real.h5")
    path.symlink_to(real)
    erase(store, path, {Split.TRAIN: [2]})
    assert path.is_symlink()
    assert_erased(read_cell(real), {Split.TRAIN: [2]})
    assert not list(tmp_path.glob("*.new"))


# What is refused


@pytest.mark.parametrize(
    ("split", "row", "count"), [(Split.TRAIN, 20, 20), (Split.VAL, -1, 5), (Split.TEST, 10**30, 8)]
)
def test_a_row_that_is_not_there_erases_nothing(
    store: Store, split: Split, row: int, count: int
) -> None:
    path = write(store)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"no row {row} of {split}, only {count} from 0 on"):
        erase(store, path, {Split.TRAIN: [1], split: [2, row]})
    assert path.read_bytes() == before
    assert names(path) == ["fake.h5"]


def test_a_cell_that_is_not_there_gets_no_lock(store: Store) -> None:
    with pytest.raises(StoreError, match="embed it first"):
        erase(store, store.path("tiny", 28, "fake"), {Split.TRAIN: [1]})
    assert not store.root.exists()


def test_a_cell_that_is_not_finished_is_refused(store: Store) -> None:
    path = store.path("tiny", 28, "fake")
    with CellWriter(path, header(), labels()):
        pass
    partial = path.with_name("fake.h5.partial")
    before = partial.read_bytes()
    with pytest.raises(StoreError, match="is not finished"):
        erase(store, partial, {Split.TRAIN: [1]})
    assert partial.read_bytes() == before


def test_a_damaged_cell_is_left_as_it_is(store: Store) -> None:
    path = write(store)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamagedCellError):
        erase(store, path, {Split.TRAIN: [1]})
    assert path.stat().st_size == 5000
    assert names(path) == ["fake.h5"]


def test_a_cell_that_someone_writes_is_busy(store: Store) -> None:
    path = write(store)
    before = path.read_bytes()
    with (
        FileLock(f"{path}.lock"),
        pytest.raises(CellBusyError, match="another process is writing"),
    ):
        erase(store, path, {Split.TRAIN: [1]})
    assert path.read_bytes() == before
    assert erase(store, path, {Split.TRAIN: [1]}) == 1


def test_a_flipped_byte_of_the_structure_is_refused_or_harmless(store: Store) -> None:
    path = write(store)
    erase(store, path, {split: [1, 2] for split in Split})
    whole, messages = path.read_bytes(), []
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            cell = read_cell(path)
            for split in Split:
                assert len(cell.live(split)) + len(cell.erased[split]) == len(
                    cell.embeddings(split)
                )
        except StoreError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


# A full disk


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 4096])
def test_without_room_for_a_second_file_the_first_one_stays(store: Store, room: int) -> None:
    path = write(store)
    before = path.read_bytes()
    with file_size_limit(room), pytest.raises(StoreFullError, match="no room to write"):
        erase(store, path, {Split.TRAIN: [1]})
    assert path.read_bytes() == before
    assert names(path) == ["fake.h5"]
    assert erase(store, path, {Split.TRAIN: [1]}) == 1


def test_a_full_file_system_leaves_the_old_file_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "24k") as mount:
        path = write(Store(mount))
        before = path.read_bytes()
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(8192))
        with pytest.raises(StoreFullError, match="No space left"):
            erase(Store(mount), path, {Split.TRAIN: [1]})
        assert path.read_bytes() == before
        assert names(path) == ["fake.h5"]
        ballast.unlink()
        assert erase(Store(mount), path, {Split.TRAIN: [1]}) == 1


# Kills, company, and size

WIDE, ROWS = 40_000, 150

_ERASE_ONE_BY_ONE = """
import sys
from pathlib import Path
from embedder.erase import erase
from embedder.errors import CellBusyError
from embedder.store import Store
from embedder.types import Split

store, first, step = Store(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
path = store.path("tiny", 28, "fake")
print("ready", flush=True)
for row in range(first, int(sys.argv[4]), step):
    while True:
        try:
            erase(store, path, {Split.TRAIN: [row]})
            break
        except CellBusyError:
            continue
    print(row, flush=True)
"""


def wide_header() -> Header:
    plain = header(width=WIDE)
    return replace(plain, dataset=replace(plain.dataset, counts=(ROWS, 1, 1)))


def wide_vectors() -> Vectors:
    return np.random.default_rng(6).normal(size=(ROWS, WIDE)).astype(np.float32)


def write_wide(store: Store) -> Path:
    """24 MB of training rows: several blocks are copied."""
    path = store.path("tiny", 28, "fake")
    empty = {
        split: np.zeros((n, 1), np.uint8) for split, n in zip(Split, (ROWS, 1, 1), strict=True)
    }
    with CellWriter(path, wide_header(), empty) as writer:
        writer.append(Split.TRAIN, 0, wide_vectors())
        for split in (Split.VAL, Split.TEST):
            writer.append(split, 0, np.ones((1, WIDE), np.float32))
        writer.finish()
    return path


def child(store: Store, *words: int) -> subprocess.Popen[str]:
    asked = [sys.executable, "-c", _ERASE_ONE_BY_ONE, str(store.root), *map(str, words)]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_kill_at_any_moment_leaves_a_whole_cell(store: Store) -> None:
    path, plain, rng = write_wide(store), wide_vectors(), random.Random(5)
    between = left = 0
    for _ in range(15):
        done = len(read_cell(path).erased[Split.TRAIN])
        with child(store, done, 1, ROWS) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 4)):  # it is ready, then a line for each row
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        cell = store.read(path)
        erased = cell.erased[Split.TRAIN].tolist()
        assert erased == list(range(len(erased)))
        found = np.array(cell.embeddings(Split.TRAIN))
        assert not found[erased].any()
        np.testing.assert_array_equal(found[len(erased) :], plain[len(erased) :])
        assert set(names(path)) <= {"fake.h5", "fake.h5.lock", "fake.h5.new"}
        between += len(erased) > done
        left += "fake.h5.new" in names(path)
    assert between
    assert left, "no kill came while a file was being copied"
    rest = [row for row in range(ROWS) if row not in erased]
    assert erase(store, path, {Split.TRAIN: rest}) == len(rest)
    assert names(path) == ["fake.h5"]


def test_several_at_once_lose_no_row(store: Store) -> None:
    path = write(store)
    children = [child(store, first, 4, 20) for first in range(4)]
    for process in children:
        process.communicate()
        assert process.returncode == 0
    assert_erased(read_cell(path), {Split.TRAIN: list(range(20))})
    assert names(path) == ["fake.h5"]


def test_rows_of_every_block_are_erased(store: Store) -> None:
    path, plain = write_wide(store), wide_vectors()
    rows = [0, 25, 26, 27, 51, 52, 53, 149]
    assert erase(store, path, {Split.TRAIN: rows}) == 8
    plain[rows] = 0
    np.testing.assert_array_equal(read_cell(path).embeddings(Split.TRAIN), plain)


_MEASURE = """
import sys
from pathlib import Path
from embedder.erase import erase
from embedder.store import Store
from embedder.types import Split

store = Store(Path(sys.argv[1]))
path = store.path("tiny", 28, "fake")
store.read(path).labels(Split.TRAIN)
before = peak()
assert erase(store, path, {Split.TRAIN: [0, 100]}) == 2
print(peak() - before)
"""


def test_memory_is_that_of_a_few_blocks(store: Store) -> None:
    write_wide(store)
    run = subprocess.run(
        [sys.executable, "-c", PEAK + _MEASURE, str(store.root)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 16  # MB, of 24
