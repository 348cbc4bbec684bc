from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from embedder.datasets import Dataset
from embedder.errors import CellBusyError, StoreError, StoreFullError
from embedder.types import Split, Task
from service.overlay import Overlay, overlay_path
from tests.commands import start

TOY = Dataset("toy", Task.MULTICLASS, 1, (5, 2, 3), ("a", "b"), "CC0")
LABELS = np.array([1], np.uint8)
VECTOR = np.array([1, 2.5], np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return overlay_path(tmp_path, "toy")


def add(overlay: Overlay, labels: int = 1) -> int:
    vectors = {"sha256:one": VECTOR, "sha256:two": -VECTOR}
    images = {28: b"small", 224: b"large"}
    with overlay.adding(np.array([labels], np.uint8), images, vectors) as (case, version):
        assert version == overlay.version
    return case.number


def erase(overlay: Overlay, split: Split | None, row: int) -> int:
    with overlay.erasing(split, row) as version:
        return version


def test_changes_outlive_the_process(path: Path) -> None:
    overlay = Overlay(path, TOY)
    assert (overlay.version, overlay.cases()) == (0, [])
    assert [add(overlay), add(overlay, 0), add(overlay)] == [1, 2, 3]
    assert erase(overlay, Split.TRAIN, 4) == 4
    assert erase(overlay, Split.TEST, 0) == 5
    assert erase(overlay, None, 2) == 6
    overlay.close()
    again = Overlay(path, TOY)
    assert again.version == 6
    assert again.erased() == {Split.TRAIN: [4], Split.VAL: [], Split.TEST: [0]}
    cases = again.cases()
    assert [(case.number, case.labels.tolist()) for case in cases] == [(1, [1]), (3, [1])]
    assert cases[0].added.startswith("20")
    assert cases[0].added.endswith("+00:00")
    assert cases[0].id("toy") == "toy/added/1"
    vectors = again.vectors("sha256:two")
    assert {number: vector.tolist() for number, vector in vectors.items()} == {
        1: [-1, -2.5],
        3: [-1, -2.5],
    }
    assert again.vectors("sha256:other") == {}
    again.put_vectors("sha256:other", {3: VECTOR})
    assert list(again.vectors("sha256:other")) == [3]
    assert (again.image(1, 28), again.image(1, 64), again.image(2, 28)) == (
        b"small",
        b"large",
        None,
    )
    again.close()


def test_a_number_is_never_used_again(path: Path) -> None:
    overlay = Overlay(path, TOY)
    assert add(overlay) == 1
    erase(overlay, None, 1)
    overlay.compact()
    overlay.close()
    again = Overlay(path, TOY)
    assert add(again) == 2
    again.close()


def test_what_raises_within_is_not_kept(path: Path) -> None:
    overlay = Overlay(path, TOY)
    with (
        pytest.raises(KeyError),
        overlay.adding(LABELS, {28: b"x"}, {"sha256:one": VECTOR}),
    ):
        raise KeyError
    with pytest.raises(KeyError), overlay.erasing(Split.VAL, 1):
        raise KeyError
    assert (overlay.version, overlay.cases(), overlay.erased()[Split.VAL]) == (0, [], [])
    assert add(overlay) == 1
    overlay.close()


def test_one_process_at_a_time(path: Path) -> None:
    overlay = Overlay(path, TOY)
    with pytest.raises(CellBusyError, match="another process serves or compacts toy"):
        Overlay(path, TOY)
    overlay.close()
    Overlay(path, TOY).close()


def test_another_state_of_the_dataset_is_refused(path: Path) -> None:
    Overlay(path, TOY).close()
    longer = Dataset("toy", Task.MULTICLASS, 1, (6, 2, 3), ("a", "b"), "CC0")
    with pytest.raises(StoreError, match="another state of toy; its cases, classes or task"):
        Overlay(path, longer)
    Overlay(path, TOY).close()
    Overlay(path).close()


def test_erasures_are_of_one_content(path: Path) -> None:
    overlay = Overlay(path, TOY)
    overlay.pin(28, "npz-crc:one")
    overlay.pin(64, "npz-crc:two")
    overlay.pin(28, "npz-crc:new")  # nothing was erased by its row yet
    add(overlay)
    erase(overlay, Split.TRAIN, 0)
    overlay.close()
    again = Overlay(path, TOY)
    again.pin(28, "npz-crc:new")
    again.pin(128, "npz-crc:more")
    for call in (again.pin, again.check):
        with pytest.raises(StoreError, match="from another state of toy at 64 px; its file has"):
            call(64, "npz-crc:other")
    again.close()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE about SET value = '2' WHERE name = 'schema'", "has schema 2; this casebook reads"),
        ("UPDATE about SET value = 'x' WHERE name = 'format'", "is no casebook overlay"),
        ("DROP TABLE about", "is no casebook overlay"),
    ],
)
def test_other_databases_are_refused(path: Path, sql: str, message: str) -> None:
    Overlay(path, TOY).close()
    file = sqlite3.connect(path)
    file.execute(sql)
    file.commit()
    file.close()
    with pytest.raises(StoreError, match=message):
        Overlay(path, TOY)


def test_a_damaged_file(path: Path) -> None:
    Overlay(path, TOY).close()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"overlay.sqlite is damaged or no database"):
        Overlay(path, TOY)


def test_a_first_start_that_was_killed(path: Path) -> None:
    """The file is there, without tables."""
    path.parent.mkdir()
    sqlite3.connect(path).close()
    overlay = Overlay(path)
    assert (overlay.version, overlay.erased_added()) == (0, 0)
    overlay.close()
    overlay = Overlay(path, TOY)
    assert add(overlay) == 1
    overlay.close()


def test_the_file_is_as_the_words_say(path: Path) -> None:
    """docs/store-format.md, The overlay; read by plain SQLite."""
    overlay = Overlay(path, TOY)
    add(overlay)
    erase(overlay, Split.TRAIN, 3)
    overlay.close()
    file = sqlite3.connect(path)
    about = dict(file.execute("SELECT name, value FROM about"))
    assert (about["format"], about["schema"]) == ("casebook-overlay", "1")
    assert json.loads(about["dataset"]) == {
        "name": "toy", "task": "multi-class", "channels": 1, "counts": [5, 2, 3],
        "classes": ["a", "b"],
    }  # fmt: skip
    changes = file.execute("SELECT version, action, id FROM changes").fetchall()
    assert changes == [(1, "add", "toy/added/1"), (2, "erase", "toy/train/3")]
    assert file.execute("SELECT number, labels FROM cases").fetchall() == [(1, b"\x01")]
    assert file.execute("SELECT number, size, png FROM images ORDER BY size").fetchall() == [
        (1, 28, b"small"),
        (1, 224, b"large"),
    ]
    rows = file.execute("SELECT number, fingerprint, vector FROM embeddings").fetchall()
    assert rows[0] == (1, "sha256:one", np.array([1, 2.5], "<f4").tobytes())
    assert file.execute("SELECT split, row FROM erased").fetchall() == [("train", 3)]
    assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


def test_compacting_leaves_no_byte_of_what_was_erased(path: Path) -> None:
    overlay = Overlay(path, TOY)
    secret = b"SECRET-PIXELS" * 1000
    vector = np.full(500, 1.2345678, np.float32)
    with overlay.adding(LABELS, {28: secret}, {"sha256:one": vector}) as (case, _):
        pass
    add(overlay)
    files = [path, path.with_name("overlay.sqlite-wal")]
    assert any(b"SECRET-PIXELS" in file.read_bytes() for file in files)
    erase(overlay, None, case.number)
    overlay.compact()
    for file in path.parent.iterdir():
        block = file.read_bytes()
        assert b"SECRET" not in block
        assert vector[:4].tobytes() not in block
    assert overlay.image(2, 28) == b"small"
    overlay.close()


def test_compacting_needs_the_file_alone(path: Path) -> None:
    overlay = Overlay(path, TOY)
    number = add(overlay)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM cases").fetchall()
    erase(overlay, None, number)
    with pytest.raises(StoreError, match=r"another program reads|is locked"):
        overlay.compact()
    reader.close()
    overlay.compact()
    assert path.with_name("overlay.sqlite-wal").stat().st_size == 0
    overlay.close()


@pytest.mark.parametrize(("moment", "kept"), [("within", 0), ("after", 1)])
def test_a_kill_within_or_after_a_change(
    path: Path, tmp_path: Path, moment: str, kept: int
) -> None:
    script = tmp_path / "kill.py"
    script.write_text(_KILL)
    with start(tmp_path, "python", str(script), str(tmp_path), moment) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    overlay = Overlay(path, TOY)
    assert (overlay.version, len(overlay.cases()), len(overlay.vectors("f"))) == (kept,) * 3
    overlay.close()


_KILL = """
import os, signal, sys
from pathlib import Path
from service.overlay import Overlay, overlay_path
from tests.service.test_overlay import TOY, LABELS, VECTOR

overlay = Overlay(overlay_path(Path(sys.argv[1]), "toy"), TOY)
with overlay.adding(LABELS, {28: b"png"}, {"f": VECTOR}):
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_there(path: Path, tmp_path: Path) -> None:
    """The file may not grow past a limit, as on a full disk or a quota."""
    script = tmp_path / "fill.py"
    script.write_text(_FILL)
    with start(tmp_path, "python", str(script), str(tmp_path)) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    kept = int(output.split()[0])
    assert output.split()[1:] == [StoreFullError.__name__]
    overlay = Overlay(path, TOY)
    assert len(overlay.cases()) == kept == overlay.version
    assert all(overlay.image(case.number, 28) == b"x" * 50_000 for case in overlay.cases())
    overlay.close()


_FILL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from service.overlay import Overlay, overlay_path
from tests.service.test_overlay import TOY, LABELS, VECTOR

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
overlay = Overlay(overlay_path(Path(sys.argv[1]), "toy"), TOY)
for count in range(100):
    try:
        with overlay.adding(LABELS, {28: b"x" * 50_000}, {"f": VECTOR}):
            pass
    except Exception as error:
        print(count, type(error).__name__)
        break
assert len(overlay.cases()) == count, len(overlay.cases())
"""
