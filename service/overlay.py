"""What changed in a dataset since it was embedded: cases added and erased, in SQLite.

One file per dataset, ``<store>/<dataset>/overlay.sqlite``, specified in docs/store-format.md. Each
change is one transaction, on disk before it is answered.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from embedder.datasets import Dataset
from embedder.errors import CellBusyError, StoreError
from embedder.store import store_errors
from embedder.types import Labels, Split, Vectors, case_id
from service.database import connect, database_errors

FORMAT = "casebook-overlay"
SCHEMA = 1

ADDED = "added"
"""Stands for the split in the id of a case that was added."""

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE changes (
    version INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, action TEXT NOT NULL,
    id TEXT NOT NULL
) STRICT;
CREATE TABLE cases (
    number INTEGER PRIMARY KEY AUTOINCREMENT, added TEXT NOT NULL, labels BLOB NOT NULL
) STRICT;
CREATE TABLE images (
    number INTEGER NOT NULL REFERENCES cases ON DELETE CASCADE, size INTEGER NOT NULL,
    png BLOB NOT NULL, PRIMARY KEY (number, size)
) STRICT;
CREATE TABLE embeddings (
    number INTEGER NOT NULL REFERENCES cases ON DELETE CASCADE, fingerprint TEXT NOT NULL,
    vector BLOB NOT NULL, PRIMARY KEY (number, fingerprint)
) STRICT;
CREATE TABLE erased (split TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (split, row)) STRICT;
"""


@dataclass(frozen=True)
class AddedCase:
    """``number`` is never used again; ``labels`` uint8 (1,) or (L,); ``added`` ISO 8601, UTC."""

    number: int
    labels: Labels
    added: str

    def id(self, dataset: str) -> str:
        return f"{dataset}/{ADDED}/{self.number}"


class Overlay:
    """The changes of one dataset; the only process that has them open.

    With ``dataset`` None it may be of any. Raises CellBusyError where another process has it,
    StoreError where it is not an overlay of this dataset.
    """

    def __init__(self, path: Path, dataset: Dataset | None = None) -> None:
        self.path = path
        self._name = path.parent.name
        self._change = threading.RLock()
        self._lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        with store_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # It will hold pictures: for its owner alone, as are the log and index beside it then.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            try:
                self._lock.acquire()
            except Timeout as error:
                raise CellBusyError(
                    f"another process serves or compacts {self._name} from this store; stop it, "
                    "or use another --store"
                ) from error
        try:
            self._file = connect(path)
            try:
                self._prepare(dataset)
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Waits for a change that is under way; a second time to no effect."""
        with self._change, database_errors(self.path):
            self._file.close()
        self._lock.release()

    def pin(self, size: int, checksum: str | None) -> None:
        """Hold on to the content of the dataset at one size, in pixels; raises as ``check``."""
        self.check(size, checksum)
        row = (f"checksum {size}", str(checksum))
        if self._about().get(row[0]) != row[1]:
            with self._transaction():
                self._file.execute("REPLACE INTO about VALUES (?, ?)", row)

    def check(self, size: int, checksum: str | None) -> None:
        """Raise StoreError where cases were erased by their row in another content than this."""
        known = self._about().get(f"checksum {size}")
        if known not in (None, checksum) and any(self.erased().values()):
            raise StoreError(
                f"{self.path} holds erasures from another state of {self._name} at {size} px; its "
                "file has changed since, so that they may mean other cases. Move it away to begin "
                "without them"
            )

    @property
    def version(self) -> int:
        """The number of changes so far."""
        ((version,),) = self._select("SELECT coalesce(max(version), 0) FROM changes")
        return int(version)

    def erased(self) -> dict[Split, list[int]]:
        """The erased rows of each split, ascending."""
        found: dict[Split, list[int]] = {split: [] for split in Split}
        for split, row in self._select("SELECT split, row FROM erased ORDER BY row"):
            found[Split(split)].append(row)
        return found

    def cases(self) -> list[AddedCase]:
        """Those added and not erased, in the order of their numbers."""
        rows = self._select("SELECT number, labels, added FROM cases ORDER BY number")
        return [AddedCase(n, np.frombuffer(block, np.uint8), at) for n, block, at in rows]

    def image(self, number: int, size: int) -> bytes | None:
        """The PNG of an added case at ``size``, in pixels, else its largest; None if erased."""
        rows = self._select(
            "SELECT png FROM images WHERE number = ? ORDER BY size = ? DESC, size DESC LIMIT 1",
            number, size,
        )  # fmt: skip
        return bytes(rows[0][0]) if rows else None

    def vectors(self, fingerprint: str) -> dict[int, Vectors]:
        """The embedding, float32 (D,), of each added case that has one of this fingerprint."""
        rows = self._select(
            "SELECT number, vector FROM embeddings WHERE fingerprint = ?", fingerprint
        )
        return {number: np.frombuffer(block, "<f4") for number, block in rows}

    def put_vectors(self, fingerprint: str, vectors: Mapping[int, Vectors]) -> None:
        """Keep embeddings of cases that were added before this fingerprint was served."""
        with self._transaction():
            self._insert_vectors((n, fingerprint, vector) for n, vector in vectors.items())

    @contextmanager
    def adding(
        self, labels: Labels, images: Mapping[int, bytes], vectors: Mapping[str, Vectors]
    ) -> Iterator[tuple[AddedCase, int]]:
        """Add a case: its labels, PNGs by size, embeddings by fingerprint.

        Gives the case and the version; it is kept when the block ends, and not if that raises.
        """
        with self._transaction():
            now = _now()
            run = self._file.execute
            block = labels.astype(np.uint8).tobytes()
            number = run("INSERT INTO cases (added, labels) VALUES (?, ?)", (now, block)).lastrowid
            assert number is not None
            self._file.executemany(
                "INSERT INTO images VALUES (?, ?, ?)",
                ((number, size, png) for size, png in images.items()),
            )
            self._insert_vectors((number, name, vector) for name, vector in vectors.items())
            case = AddedCase(number, np.frombuffer(block, np.uint8), now)
            yield case, self._count("add", case.id(self._name))

    @contextmanager
    def erasing(self, split: Split | None, row: int) -> Iterator[int]:
        """Erase a stored case or, with ``split`` None, an added one. Gives the version; kept when
        the block ends, and not if that raises.
        """
        with self._transaction():
            if split is None:
                self._file.execute("DELETE FROM cases WHERE number = ?", (row,))
                name = f"{self._name}/{ADDED}/{row}"
            else:
                self._file.execute("INSERT INTO erased VALUES (?, ?)", (str(split), row))
                name = case_id(self._name, split, row)
            yield self._count("erase", name)

    def erased_added(self) -> int:
        """How many cases that had been added were erased."""
        sql = "SELECT count(*) FROM changes WHERE action = 'erase' AND id LIKE ?"
        ((count,),) = self._select(sql, f"%/{ADDED}/%")
        return int(count)

    def compact(self) -> None:
        """Leave no byte of what was erased in the file or its log.

        Raises CellBusyError where another program reads the file.
        """
        with database_errors(self.path):
            self._file.execute("VACUUM")
            ((busy, *_),) = self._select("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise CellBusyError(
                f"another program reads {self.path}, which keeps what was erased in its log; end "
                "it, then run again"
            )

    def _prepare(self, dataset: Dataset | None) -> None:
        about = self._about()
        facts = dataset and {
            "name": dataset.name, "task": str(dataset.task), "channels": dataset.channels,
            "counts": list(dataset.counts), "classes": list(dataset.classes),
        }  # fmt: skip
        if not about:
            self._create()
        elif about.get("format") != FORMAT:
            raise StoreError(f"{self.path} is no casebook overlay; move it away")
        elif about.get("schema") != str(SCHEMA):
            raise StoreError(
                f"{self.path} has schema {about.get('schema')}; this casebook reads {SCHEMA}"
            )
        if facts is None:
            return
        if "dataset" not in about:
            with self._transaction():
                row = ("dataset", json.dumps(facts))
                self._file.execute("INSERT INTO about VALUES (?, ?)", row)
        elif json.loads(about["dataset"]) != facts:
            raise StoreError(
                f"{self.path} holds additions and erasures of another state of "
                f"{self._name}; its cases, classes or task have changed since. Move it away "
                "to begin without them"
            )

    def _create(self) -> None:
        with self._transaction():
            for statement in _TABLES.split(";")[:-1]:
                self._file.execute(statement)
            rows = (("format", FORMAT), ("schema", str(SCHEMA)))
            self._file.executemany("INSERT INTO about VALUES (?, ?)", rows)

    def _about(self) -> dict[str, str]:
        named = "SELECT count(*) FROM sqlite_master WHERE name = 'about'"
        ((known,),) = self._select(named)
        if not known:
            ((others,),) = self._select("SELECT count(*) FROM sqlite_master")
            return {"format": "unknown"} if others else {}
        return dict(self._select("SELECT name, value FROM about"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._change, database_errors(self.path):
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def _insert_vectors(self, rows: Iterator[tuple[int, str, Vectors]]) -> None:
        self._file.executemany(
            "INSERT INTO embeddings VALUES (?, ?, ?)",
            ((number, name, vector.astype("<f4").tobytes()) for number, name, vector in rows),
        )

    def _count(self, action: str, name: str) -> int:
        sql = "INSERT INTO changes (at, action, id) VALUES (?, ?, ?)"
        version = self._file.execute(sql, (_now(), action, name)).lastrowid
        assert version is not None
        return version

    def _select(self, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._change, database_errors(self.path):
            return self._file.execute(sql, values).fetchall()


def overlay_path(root: Path, dataset: str) -> Path:
    return root / dataset / "overlay.sqlite"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
