"""A report's files in a folder: the page, the text, tables and pictures."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedder.errors import EvaluationError, UsageError
from embedder.files import write_whole
from embedder.store import store_errors
from evaluate.canvas import png_bytes, svg_bytes
from evaluate.grid import as_csv, as_latex
from evaluate.report import Report, as_html, as_markdown_text

PAGE = "report.html"

_LIST = "files.json"
_FORMAT = "casebook-report"
_OTHERS = ("report.md", "figures.csv", "statistics.json")

_NAME = re.compile(r"(tables|figures)/[A-Za-z0-9_][A-Za-z0-9._-]*\.(csv|tex|png|svg)")
"""Of tables and pictures, whose names hold those of datasets."""


def write(
    report: Report,
    figures: str,
    statistics: Mapping[str, Any],
    folder: Path,
    watch: Callable[[str], object],
) -> Path:
    """Write the report into ``folder``; the path of its page, which is written last.

    ``figures`` is the CSV of all figures, ``statistics`` plain JSON values. Files of an earlier
    report that this one has not are removed; no other file is touched. ``watch`` is told the name
    of each file.

    Raises UsageError where the folder holds files but no report, StoreError where it cannot be
    written, EvaluationError for a table or picture whose name is no file's.
    """
    with store_errors(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        before = _listed(folder)
        names = {PAGE, *_OTHERS, *_names(report)}
        _put(folder / _LIST, _list_of(before | names))
        for name, block in _files(report, figures, statistics):
            watch(name)
            _put(folder / name, block)
        for name in sorted(before - names):
            (folder / name).unlink(missing_ok=True)
        watch(PAGE)
        _put(folder / PAGE, as_html(report).encode())
        _put(folder / _LIST, _list_of(names))
    return folder / PAGE


def check(folder: Path) -> None:
    """Raise, as ``write`` would, where the folder cannot take a report; nothing is made."""
    with store_errors(folder, "--out"):
        if folder.exists():
            _listed(folder)
            return
        parent = next(path for path in folder.absolute().parents if path.exists())
        if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder that can be written", str(parent))


def _names(report: Report) -> Iterator[str]:
    """Of tables and pictures; raises EvaluationError for one that is no plain name."""
    for grid in report.grids():
        yield from (_checked(f"tables/{grid.name}.{kind}") for kind in ("csv", "tex"))
    for picture in report.pictures():
        yield from (_checked(f"figures/{picture.stem}.{kind}") for kind in ("png", "svg"))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise EvaluationError(f"{name!r} is no name for a file; leave that dataset out")
    return name


def _files(
    report: Report, figures: str, statistics: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all but the page."""
    yield "report.md", as_markdown_text(report).encode()
    yield "figures.csv", figures.encode()
    yield "statistics.json", json.dumps(statistics, indent=1).encode()
    for grid in report.grids():
        yield f"tables/{grid.name}.csv", as_csv(grid).encode()
        yield f"tables/{grid.name}.tex", as_latex(grid).encode()
    for picture in report.pictures():
        yield f"figures/{picture.stem}.png", png_bytes(picture.figure)
        yield f"figures/{picture.stem}.svg", svg_bytes(picture.figure)


def _listed(folder: Path) -> set[str]:
    """The files of the report that the folder holds; none where it is empty.

    Only names that a report can have count, so that a list that was tampered with names no other.
    """
    try:
        facts = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        names = facts["files"] if facts["format"] == _FORMAT else None
    except FileNotFoundError:
        names = None if any(folder.iterdir()) else []
    except (ValueError, KeyError, TypeError):
        names = None
    if not isinstance(names, list):
        raise UsageError(f"{folder} holds other files; give --out a new folder")
    return {name for name in names if isinstance(name, str) and _NAME.fullmatch(name)}


def _list_of(names: set[str]) -> bytes:
    return json.dumps({"format": _FORMAT, "files": sorted(names)}, indent=1).encode()


def _put(path: Path, block: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_whole(path, block)
