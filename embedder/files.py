"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, block: bytes) -> None:
    """Put ``block`` at ``path``; until all of it is on the disk, what was there before stays.

    Raises OSError.
    """
    # Not by tempfile: its files are their owner's alone, and others may serve these.
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with new.open("xb") as stream:
            stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put on disk which files ``folder`` holds. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
