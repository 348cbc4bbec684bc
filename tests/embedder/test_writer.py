from __future__ import annotations

import json
import os
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

import numpy as np
import pytest

from embedder.errors import (
    CellBusyError,
    DamagedCellError,
    EncodingError,
    FingerprintError,
    StoreError,
    StoreFullError,
)
from embedder.store import read_cell
from embedder.types import Split, Task
from embedder.writer import CellWriter, rows_done
from tests.embedder.cells import COUNTS, header, labels, small_disk, vectors

CHILD = Path(__file__).with_name("slow_writer.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "28" / "fake.h5"


def open_writer(path: Path, **changes: object) -> CellWriter:
    return CellWriter(path, header(**changes), labels())


def write_whole(path: Path, **changes: object) -> bytes:
    with open_writer(path, **changes) as writer:
        for split in Split:
            writer.append(split, writer.done[split], vectors(split)[writer.done[split] :])
        writer.finish()
    return path.read_bytes()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_finished_cell_holds_what_was_appended_and_leaves_nothing_beside(path: Path) -> None:
    write_whole(path)
    cell = read_cell(path)
    for split in Split:
        np.testing.assert_array_equal(cell.embeddings(split), vectors(split))
        np.testing.assert_array_equal(cell.labels(split), labels()[split])
    assert names(path) == ["fake.h5"]


def test_no_clock_goes_into_the_file(path: Path, tmp_path: Path) -> None:
    first = write_whole(path)
    time.sleep(1.1)
    assert write_whole(tmp_path / "other" / "28" / "fake.h5") == first


def test_float16_is_stored_as_float16(path: Path) -> None:
    write_whole(path, storage="float16")
    stored = read_cell(path).embeddings(Split.TRAIN)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, vectors(Split.TRAIN).astype(np.float16))


def test_rows_go_on_where_the_last_flush_left_them(path: Path, tmp_path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN)[:7])
    assert rows_done(path.with_name("fake.h5.partial")) == 7
    with open_writer(path) as writer:
        assert writer.done == {Split.TRAIN: 7, Split.VAL: 0, Split.TEST: 0}
    assert write_whole(path) == write_whole(tmp_path / "other" / "28" / "fake.h5")


def test_rows_that_were_not_flushed_are_asked_for_again(path: Path) -> None:
    writer = open_writer(path)
    writer.__enter__()
    writer.append(Split.TRAIN, 0, vectors(Split.TRAIN)[:4])
    writer.flush()
    writer.append(Split.TRAIN, 4, vectors(Split.TRAIN)[4:9])
    os.close(writer._file)  # as a kill would: no flush, and the lock goes with the process
    writer._file = -1
    writer.__exit__(None, None, None)
    with open_writer(path) as again:
        assert again.done[Split.TRAIN] == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"train": 99, "val": 0, "test": 0}', '{"train": -1}', "null"]
)
def test_an_unreadable_progress_file_costs_the_rows_and_no_more(path: Path, text: str) -> None:
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN)[:7])
    path.with_name("fake.h5.progress").write_text(text)
    with open_writer(path) as writer:
        assert writer.done[Split.TRAIN] == 0
    write_whole(path)
    np.testing.assert_array_equal(
        read_cell(path).embeddings(Split.TRAIN), vectors(Split.TRAIN)
    )  # fmt: skip


def test_another_state_of_the_dataset_begins_an_unfinished_split_anew(path: Path) -> None:
    with CellWriter(path, header(), labels(), "one") as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN))
        writer.append(Split.VAL, 0, vectors(Split.VAL)[:3])
    with CellWriter(path, header(), labels(), "one") as writer:
        assert list(writer.done.values()) == [20, 3, 0]
    with CellWriter(path, header(), labels(), "two") as writer:
        assert list(writer.done.values()) == [20, 0, 0]


def test_embeddings_of_another_width_are_refused(path: Path) -> None:
    with open_writer(path) as writer, pytest.raises(EncodingError, match="expected width 6"):
        writer.append(Split.TRAIN, 0, np.ones((2, 5), np.float32))


def test_another_task_or_other_classes_are_refused(path: Path) -> None:
    write_whole(path)
    plain = header()
    for changes, message in (
        ({"task": Task.ORDINAL}, "task is multi-class, asked is ordinal"),
        ({"classes": ("a", "b", "d")}, "classes are a, b, c, asked are a, b, d"),
    ):
        asked = replace(plain, dataset=replace(plain.dataset, **changes))
        with (
            pytest.raises(FingerprintError, match=message),
            CellWriter(path, asked, labels()),
        ):
            pass


def test_rows_out_of_order_are_refused(path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN)[:4])
        with pytest.raises(EncodingError, match="row 8 of train came where 4 is next"):
            writer.append(Split.TRAIN, 8, vectors(Split.TRAIN)[8:])
        with pytest.raises(EncodingError, match="train has 20 rows"):
            writer.append(Split.TRAIN, 4, vectors(Split.TRAIN))
        with pytest.raises(EncodingError, match="train ended after 4 images"):
            writer.finish()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_row(path: Path, value: float) -> None:
    block = vectors(Split.TRAIN)
    block[13, 2] = value
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, block[:10])
        with pytest.raises(EncodingError, match="tiny/train/13 by fake is not finite in float32"):
            writer.append(Split.TRAIN, 10, block[10:])
        assert writer.done[Split.TRAIN] == 10


def test_a_value_that_float16_cannot_hold_is_an_error(path: Path) -> None:
    with (
        open_writer(path, storage="float16") as writer,
        pytest.raises(EncodingError, match="tiny/train/0 by fake is not finite in float16"),
    ):
        writer.append(Split.TRAIN, 0, np.full((1, 6), 1e6, np.float32))


@pytest.mark.parametrize("finished", [True, False])
def test_another_fingerprint_is_refused_with_the_difference(path: Path, finished: bool) -> None:
    if finished:
        write_whole(path)
    else:
        with open_writer(path):
            pass
    message = "weights is sha256:11, asked is sha256:22; precision is fp32, asked is bf16"
    with (
        pytest.raises(FingerprintError, match=message),
        open_writer(path, weights="sha256:22", precision="bf16"),
    ):
        pass


def test_other_library_versions_only_warn(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_writer(path):
        pass
    theirs = header()
    newer = type(theirs)(theirs.dataset, theirs.variant, theirs.fingerprint, {"numpy": "2.1"})
    with CellWriter(path, newer, labels()) as writer:
        assert not writer.complete
    assert "begun with numpy 2.0, now 2.1" in caplog.text


def test_a_complete_cell_has_nothing_to_write(path: Path) -> None:
    before = write_whole(path)
    with open_writer(path) as writer:
        assert writer.complete
        assert list(writer.done.values()) == list(COUNTS)
    assert path.read_bytes() == before


def test_a_second_writer_is_refused_until_the_first_has_gone(path: Path) -> None:
    command = [sys.executable, str(CHILD), str(path), "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while not path.with_name("fake.h5.progress").exists():
            time.sleep(0.01)
        with pytest.raises(CellBusyError, match="another process is writing"), open_writer(path):
            pass
        child.stdout.read()
    assert child.returncode == 0
    with open_writer(path) as writer:
        assert writer.complete


def test_two_writers_at_once_leave_one_intact_cell(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(path), "0.01"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [child.communicate()[1] for child in children]
    assert any(child.returncode == 0 for child in children)
    for child, error in zip(children, errors, strict=True):
        assert child.returncode == 0 or "another process is writing" in error
    assert path.read_bytes() == write_whole(tmp_path / "other" / "28" / "fake.h5")


def test_twenty_kills_at_random_moments_change_no_byte(path: Path, tmp_path: Path) -> None:
    expected = write_whole(tmp_path / "whole" / "28" / "fake.h5")
    rng = random.Random(5)
    kills = finished = 0
    while kills < 20:
        command = [sys.executable, str(CHILD), str(path), "0.01"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()  # it is about to open the cell
            time.sleep(rng.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
        kills += child.returncode == -signal.SIGKILL
        for file in (path, path.with_name("fake.h5.partial")):
            if file.exists():
                read_cell(file)  # whatever is there can be read
        if path.exists():
            assert path.read_bytes() == expected
            finished += 1
            path.unlink()
    assert finished
    assert write_whole(path) == expected
    assert names(path) == ["fake.h5"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_the_cell_is_said_before_anything_is_embedded(path: Path) -> None:
    with (
        file_size_limit(4096),
        pytest.raises(StoreFullError, match="no room to write"),
        open_writer(path),
    ):
        pass
    assert not [name for name in names(path) if not name.endswith(".lock")]
    write_whole(path)


def test_a_disk_that_fills_midway_keeps_the_last_good_state(path: Path, tmp_path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN)[:9])
        writer.flush()
        offset = writer._cell.extents[Split.TRAIN].offset
        with (
            file_size_limit(offset + 10 * 24),
            pytest.raises(StoreFullError, match="run again to go on"),
        ):
            writer.append(Split.TRAIN, 9, vectors(Split.TRAIN)[9:])
    with open_writer(path) as writer:
        assert writer.done[Split.TRAIN] == 9
    assert write_whole(path) == write_whole(tmp_path / "other" / "28" / "fake.h5")


def test_a_full_file_system_is_a_clear_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "16k") as mount:
        path = mount / "tiny" / "28" / "fake.h5"
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(8192))
        with pytest.raises(StoreFullError, match="No space left"):
            write_whole(path)
        assert not path.with_name("fake.h5.partial").exists()
        ballast.unlink()
        write_whole(path)


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="check --store"):
        write_whole(tmp_path / "file" / "28" / "fake.h5")


def test_a_damaged_partial_file_is_named(path: Path) -> None:
    with open_writer(path):
        pass
    partial = path.with_name("fake.h5.partial")
    partial.write_bytes(partial.read_bytes()[:5000])
    with pytest.raises(DamagedCellError, match=r"fake\.h5\.partial"), open_writer(path):
        pass


def test_progress_says_rows_per_split(path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(Split.TRAIN, 0, vectors(Split.TRAIN))
        writer.append(Split.VAL, 0, vectors(Split.VAL)[:2])
    text = path.with_name("fake.h5.progress").read_text()
    assert json.loads(text) == {"train": 20, "val": 2, "test": 0, "stamp": ""}
