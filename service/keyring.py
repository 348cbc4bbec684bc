"""API keys: shown once, kept as hashes in ``<store>/keys.sqlite``, as docs/service.md specifies."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from embedder.errors import CasebookError, StoreError, UnknownNameError, UsageError
from embedder.registry import find
from embedder.store import store_errors
from service.database import database_errors

FILE = "keys.sqlite"
"""Its name in the store."""

SCHEMA = 1
NAME_LIMIT = 100

_KEY = re.compile("cb_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_LENGTH = len("cb_01234567_") + 43
_NO_HASH = "-" * 64
_PATIENCE = 5
"""Seconds to wait for another process that writes."""

_TABLE = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL, created TEXT NOT NULL,
    revoked TEXT, sha256 TEXT NOT NULL
)
"""
_SELECT = "SELECT id, name, scope, created, revoked, sha256 FROM keys"


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"

    def covers(self, asked: Scope) -> bool:
        """Writing includes reading."""
        return self in (asked, Scope.WRITE)


@dataclass(frozen=True)
class KeyRow:
    """What is known of a key; times are ISO 8601, UTC, ``revoked`` None for one that is valid."""

    id: str
    name: str
    scope: Scope
    created: str
    revoked: str | None


class Keyring:
    """The keys in one file, read anew at each call, so that a change counts at once.

    A file that is missing holds no keys; only ``add`` makes it, for its owner alone to read. Any
    thread may call, and other processes may write meanwhile. Every method raises StoreError where
    the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, scope: Scope) -> str:
        """A new key, which is told only here; UsageError for a name that cannot be shown."""
        name = name.strip()
        if not name or len(name) > NAME_LIMIT or not name.isprintable():
            raise UsageError(
                f"a key's name is one line of 1 to {NAME_LIMIT} printable characters; say whose "
                "key it is"
            )
        self._create()
        with self._changing() as file:
            while True:
                key_id = secrets.token_hex(4)
                key = f"cb_{key_id}_{secrets.token_urlsafe(32)}"
                done = file.execute(
                    "INSERT OR IGNORE INTO keys (id, name, scope, created, sha256) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (key_id, name, str(scope), _now(), _hash(key)),
                )
                if done.rowcount == 1:  # else the id is taken
                    return key

    def rows(self) -> list[KeyRow]:
        """Every key, the oldest first, revoked ones too."""
        return [self._row(*found) for *found, _ in self._select(f"{_SELECT} ORDER BY rowid")]

    def revoke(self, key_id: str) -> KeyRow:
        """Make a key invalid from now on.

        Raises UnknownNameError for one that is not there, CasebookError for one that is revoked.
        """
        if match := _KEY.fullmatch(key_id):  # a message must not tell the secret
            raise UsageError(f"name the key by its id alone: {match[1]}")
        known = {row.id: row for row in self.rows()}
        if not known:
            raise UnknownNameError(f"{self.path} holds no keys; casebook keys add makes one")
        row = replace(find(known, key_id, "key"), revoked=_now())
        with self._changing() as file:
            done = file.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL",
                (row.revoked, row.id),
            )
            if done.rowcount == 0:
                raise CasebookError(f"key {row.id} ({row.name}) is revoked already")
        return row

    def check(self, text: str) -> KeyRow | None:
        """The valid key that ``text`` is; None for any other text, a revoked key included."""
        match = _KEY.fullmatch(text) if len(text) == _LENGTH else None
        if match is None:
            return None
        found = self._select(f"{_SELECT} WHERE id = ?", match[1])
        stored = str(found[0][-1]) if found else _NO_HASH  # an unknown id is compared as well
        if not hmac.compare_digest(_hash(text).encode(), stored.encode()):
            return None
        row = self._row(*found[0][:-1])
        return row if row.revoked is None else None

    def is_empty(self) -> bool:
        """Whether no key is valid."""
        return all(row.revoked is not None for row in self.rows())

    def _row(self, key_id: str, name: str, scope: str, created: str, revoked: str | None) -> KeyRow:
        if scope not in set(Scope):
            raise StoreError(
                f"{self.path}: key {key_id} has scope {scope!r}, not read or write; mend its row"
            )
        return KeyRow(key_id, name, Scope(scope), created, revoked)

    def _create(self) -> None:
        """SQLite gives a new file the permissions of the ``modeof`` one: its owner's alone."""
        with _errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                with NamedTemporaryFile(dir=self.path.parent, prefix=f"{FILE}.") as model:
                    name = Path(model.name).absolute().as_uri().removeprefix("file://")
                    self._open(f"mode=rwc&modeof={name}").close()

    def _open(self, how: str = "mode=rw") -> sqlite3.Connection:
        place = f"{self.path.absolute().as_uri()}?{how}"
        return sqlite3.connect(place, uri=True, isolation_level=None, timeout=_PATIENCE)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; an exception undoes it."""
        with _errors(self.path), closing(self._open()) as file:
            file.execute("BEGIN IMMEDIATE")
            if not self._is_begun(file):
                file.execute(_TABLE)
                file.execute(f"PRAGMA user_version = {SCHEMA}")
            yield file
            file.execute("COMMIT")

    def _select(self, query: str, *values: str) -> list[Any]:
        with _errors(self.path):
            try:
                self.path.stat()
            except FileNotFoundError:
                return []
            with closing(self._open()) as file:
                return file.execute(query, values).fetchall() if self._is_begun(file) else []

    def _is_begun(self, file: sqlite3.Connection) -> bool:
        """False for a new file, which is empty."""
        (schema,) = file.execute("PRAGMA user_version").fetchone()
        if schema == SCHEMA:
            return True
        if schema == 0 and file.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            return False
        raise StoreError(
            f"{self.path} is no keyring of schema {SCHEMA}; move it away, or use the casebook that "
            "made it"
        )


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    with store_errors(path), database_errors(path):
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise StoreError(f"another process is writing {path}; try again") from error


def _hash(key: str) -> str:
    """One round is enough: a secret of 256 random bits cannot be guessed, however fast."""
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
