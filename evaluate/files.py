"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from embedder.store import sync_folder


def write_whole(path: Path, block: bytes) -> None:
    """Put ``block`` at ``path``; until all of it is on the disk, what was there before stays.

    Raises OSError.
    """
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
