"""The files of an audit: every finding as JSON and CSV, and sheets of the first ones."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from embedder.datasets import ImageSource
from embedder.files import write_whole
from embedder.store import Cell, store_errors
from evaluate.audit import Audit
from evaluate.sheets import draw_duplicates, draw_suspects

_COLUMNS = {
    "duplicates": (
        "case", "twin", "kind", "similarity", "same_embedding", "same_pixels", "same_label",
        "label", "twin_label",
    ),
    "suspects": (
        "case", "label", "given", "suggested", "strength", "share", "usual", "similarity",
        "own_similarity", "neighbours",
    ),
}  # fmt: skip

_SHEETS = {"duplicates": draw_duplicates, "suspects": draw_suspects}


def prepare(folder: Path) -> None:
    """Make the folder; raises StoreError where nothing can be written into it."""
    with store_errors(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write(
    folder: Path, answer: dict[str, Any], cell: Cell, found: Audit, source: ImageSource | None,
    show: int,
) -> Path:  # fmt: skip
    """Write what was found in a cell, each file whole or not at all; what their names begin with.

    ``answer`` is the audit as JSON has it. Sheets show the first ``show`` findings; one that has
    nothing to show, or no images, is removed where an earlier run left it.

    Raises StoreError or StoreFullError as the disk demands, DatasetError where the images cannot
    be read.
    """
    stem = f"{cell.dataset.name}-{cell.size}-{cell.header.variant}"
    with store_errors(folder, "--out"):
        for noun in _COLUMNS:
            write_whole(folder / f"{stem}-{noun}.csv", _csv(noun, answer[noun]).encode())
        write_whole(folder / f"{stem}.json", f"{json.dumps(answer, indent=1)}\n".encode())
    for noun, draw in _SHEETS.items():
        path = folder / f"{stem}-{noun}.png"
        if source is not None and answer[noun]:
            draw(cell, found, source, show, path)
        else:
            with store_errors(path, "--out"):
                path.unlink(missing_ok=True)
    return folder / stem


def _csv(noun: str, findings: list[dict[str, Any]]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _COLUMNS[noun], lineterminator="\n")
    writer.writeheader()
    for finding in findings:
        lists = {key: " ".join(v) for key, v in finding.items() if isinstance(v, list)}
        writer.writerow(finding | lists)
    return sink.getvalue()
