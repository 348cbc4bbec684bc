"""Fetching one file: with resume, a checksum and a progress bar."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from tqdm import tqdm

from embedder.errors import DownloadError

log = logging.getLogger("casebook")

_BLOCK = 1 << 20
_TIMEOUT_S = 60


def fetch(url: str, path: Path, md5: str) -> None:
    """Download ``url`` to ``path``, unless it is there already.

    Bytes go to ``path.part`` first, which a later call goes on from where the server allows it.
    Raises DownloadError, which says where to put the file by hand; ``path.part`` is kept where
    its bytes may still be good.
    """
    part, lock = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.lock")
    with _download_errors(url, path):
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock, path):
            if not path.exists():
                _transfer(url, part)
                _verify(url, part, path, md5)
                os.replace(part, path)
            lock.unlink(missing_ok=True)  # whoever still waits for it finds the file there


def file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)  # which a system in FIPS mode allows


def _verify(url: str, part: Path, path: Path, md5: str) -> None:
    found = file_md5(part)
    if found != md5:
        part.unlink()
        raise DownloadError(
            f"{url} gave a file of MD5 {found}, expected {md5}; run again, {_hint(path)}"
        )


@contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    """Holds the lock; says so where another process has to end first."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.warning("waiting for another process that is fetching %s", path)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _transfer(url: str, part: Path) -> None:
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "casebook"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # nothing follows: the part is whole, or not ours
            return
        raise
    with answer:
        resumed = answer.status == 206 and _starts_at(answer, offset)
        length = answer.headers.get("Content-Length")
        total = int(length) + (offset if resumed else 0) if length else None
        with part.open("ab" if resumed else "wb") as sink:
            _copy(answer, sink, part, offset if resumed else 0, total)


def _starts_at(answer: IO[bytes], offset: int) -> bool:
    headers = answer.headers  # type: ignore[attr-defined]
    return str(headers.get("Content-Range", "")).startswith(f"bytes {offset}-")


def _copy(answer: IO[bytes], sink: IO[bytes], part: Path, offset: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with tqdm(
        desc=f"fetching {name}", initial=offset, total=total, unit="B", unit_scale=True,
        disable=None,
    ) as bar:  # fmt: skip
        while block := answer.read(_BLOCK):
            sink.write(block)
            bar.update(len(block))
    if total is not None and sink.tell() < total:
        raise ConnectionError(f"the connection ended after {sink.tell():,} of {total:,} bytes")


@contextmanager
def _download_errors(url: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        remote = isinstance(error, urllib.error.URLError)
        if isinstance(error, OSError) and not remote and error.filename is not None:
            raise DownloadError(
                f"cannot write {error.filename}: {error.strerror}; give another --data"
            ) from error
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        text = "".join(char if char.isprintable() else " " for char in str(reason)).strip()
        raise DownloadError(f"cannot fetch {url}: {text}; run again, {_hint(path)}") from error


def _hint(path: Path) -> str:
    return f"or fetch it by hand and put it at {path}"
