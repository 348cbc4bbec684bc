"""How the service's SQLite files are opened, and their errors said in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedder.errors import StoreError, StoreFullError


def connect(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; transactions are begun by hand.

    Write-ahead log, synced at each commit, and what is deleted is overwritten.
    """
    with database_errors(path):
        file = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            for pragma in (
                "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON",
                "foreign_keys = ON", "trusted_schema = OFF",
            ):  # fmt: skip
                file.execute(f"PRAGMA {pragma}")
        except BaseException:
            file.close()
            raise
    return file


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Say in words what SQLite says by code."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):  # the latter at a quota or size limit
            raise StoreFullError(
                f"no room to write {path} ({error}); free some space and try again"
            ) from error
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise StoreError(f"{path} is damaged or no database; restore it from backup") from error
        raise StoreError(f"cannot use {path}: {error}; check --store") from error
