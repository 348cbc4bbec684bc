"""From a dataset's name to its images: MedMNIST+, phantoms, ``.npz`` files and image folders."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from embedder import download
from embedder.datasets import DATASETS, MEDMNIST, SIZES, Dataset, ImageSource, is_path
from embedder.errors import DatasetError, UsageError
from embedder.folder import FolderSource
from embedder.npz import NpzSource
from embedder.phantom import PhantomSource
from embedder.registry import find
from embedder.types import Task

log = logging.getLogger("casebook")

_MEDMNIST = {row.name for row in MEDMNIST}


@dataclass(frozen=True)
class Library:
    """Where datasets come from: ``folder`` holds MedMNIST+ files, ``mirror`` is an address that
    replaces that of the official ones, ``task`` is that of datasets given by path."""

    folder: Path
    mirror: str | None = None
    task: Task | None = None
    _opened: dict[tuple[str, int], ImageSource] = field(default_factory=dict, compare=False)

    def known(self, name: str) -> Dataset | None:
        """The row of a dataset known by name; None for one given by path."""
        return None if is_path(name) else find(DATASETS, name, "dataset")

    def sizes(self, name: str, asked: tuple[int, ...] | None) -> tuple[int, ...]:
        """The sizes, in pixels, to use for a dataset where ``asked`` were asked for.

        None: 28, or a file's own size. Empty: all. Raises UsageError for one that does not exist.
        """
        if is_path(name) and not _is_folder(Path(name)):
            own = NpzSource(Path(name), task=self.task).size
            if asked and own not in asked:
                raise UsageError(f"{name} holds images of {own} px; use --res {own}, or leave it")
            if set(asked or ()) - {own}:
                log.warning("%s holds images of %d px only; other sizes are left out", name, own)
            return (own,)
        wrong = [size for size in asked or () if size not in SIZES]
        if wrong and not is_path(name):
            raise UsageError(f"{name} exists at 28, 64, 128 and 224 px, not {wrong[0]}")
        return asked or (SIZES if asked is not None else SIZES[:1])

    def path(self, name: str, size: int) -> Path:
        """Where a dataset's file or folder lies, or would lie once fetched."""
        if is_path(name):
            return Path(name)
        return self.folder / (f"{name}.npz" if size == SIZES[0] else f"{name}_{size}.npz")

    def is_here(self, name: str, size: int) -> bool:
        """Whether a dataset can be opened without a download."""
        return name not in _MEDMNIST or _mode(self.path(name, size)) > 0

    def open(self, name: str, size: int) -> ImageSource:
        """The images of a dataset at ``size``; a MedMNIST+ file that is not there is fetched.

        What was opened is kept. Raises DatasetError, DownloadError or UnknownNameError.
        """
        if (name, size) not in self._opened:
            self._opened[name, size] = self._open(name, size)
        return self._opened[name, size]

    def stamp(self, name: str, size: int) -> str:
        """Tells one state of a dataset's file from another; empty where there is no one file."""
        path = self.path(name, size)
        if (name in DATASETS and name not in _MEDMNIST) or _is_folder(path):
            return ""
        try:
            state = path.stat()
        except OSError as error:
            raise DatasetError(f"cannot read {path}: {error.strerror}") from error
        return f"{state.st_size} {state.st_mtime_ns}"

    def _open(self, name: str, size: int) -> ImageSource:
        path, row = self.path(name, size), self.known(name)
        if row is None:
            return self._open_path(path, size)
        if name not in _MEDMNIST:
            return PhantomSource(row, size)
        if not self.is_here(name, size):
            self._fetch(name, size, path)
        return _of_size(NpzSource(path, row), size)

    def _open_path(self, path: Path, size: int) -> ImageSource:
        """A file or folder; a file called as one of MedMNIST+ has to be that dataset."""
        if _is_folder(path):
            folder = FolderSource(path, size, self.task)
            if folder.dataset.name in DATASETS:
                raise DatasetError(f"{path} has the name of a known dataset; rename it")
            return folder
        source = _of_size(NpzSource(path, task=self.task), size)
        row = DATASETS.get(source.dataset.name)
        try:
            return NpzSource(path, row) if row else source
        except DatasetError as error:
            raise DatasetError(f"{error}; if it is another dataset, rename the file") from error

    def check_md5(self, name: str, size: int) -> None:
        """Warn where a MedMNIST+ file is not the official one, bit for bit."""
        if name in _MEDMNIST:
            path = self.path(name, size)
            expected, found = _official(name, size)[1], download.file_md5(path)
            if found != expected:
                log.warning(
                    "%s has MD5 %s, the official file %s; it is used as it is",
                    path, found, expected,
                )  # fmt: skip

    def _fetch(self, name: str, size: int, path: Path) -> None:
        url, md5 = _official(name, size)
        if self.mirror:
            url = f"{self.mirror.rstrip('/')}/{path.name}"
        download.fetch(url, path, md5)


def _of_size(source: NpzSource, size: int) -> NpzSource:
    if source.size != size:
        raise DatasetError(f"{source.path} holds images of {source.size} px; expected {size}")
    return source


def _mode(path: Path) -> int:
    """What lies at ``path``, as stat has it; 0 for nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def _official(name: str, size: int) -> tuple[str, str]:
    """Address and MD5 of a MedMNIST+ file, as the medmnist package has them."""
    from medmnist.info import INFO

    suffix = "" if size == SIZES[0] else f"_{size}"
    return INFO[name][f"url{suffix}"], INFO[name][f"MD5{suffix}"]


def library_from_environment(folder: Path | None, task: Task | None = None) -> Library:
    """``folder``, else ``CASEBOOK_DATA``, else ``~/.medmnist``; mirror from ``CASEBOOK_MIRROR``."""
    home = os.environ.get("CASEBOOK_DATA") or Path.home() / ".medmnist"
    return Library(
        Path(folder or home).expanduser(), os.environ.get("CASEBOOK_MIRROR") or None, task
    )
