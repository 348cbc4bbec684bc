"""``casebook info``: what is stored, what it takes, what is incomplete, what is known."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.backbones import BENCHMARK, CHECKPOINTS
from embedder.datasets import DATASETS
from embedder.errors import CasebookError

if TYPE_CHECKING:
    from embedder.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser("casebook info", "What is stored and what is known.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    console.add_folders(parser)
    return parser


def _handle(options: argparse.Namespace) -> int:
    from embedder.store import Store, default_root

    store = Store(options.store or default_root())
    stored = [_describe(store, path) for path in store.paths()]
    begun = [_describe_partial(store, path) for path in store.partial_paths()]
    if options.json:
        facts = {
            "store": str(store.root),
            "cells": stored,
            "incomplete": begun,
            "backbones": [asdict(row) for row in CHECKPOINTS],
            "datasets": [asdict(row) for row in DATASETS.values()],
        }
        print(json.dumps(facts, indent=1))
        return 0
    print("\n\n".join((_stored_text(store, stored, begun), _backbones_text(), _datasets_text())))
    return 0


def _describe(store: Store, path: Path) -> dict[str, Any]:
    taken = path.stat().st_size if path.exists() else 0
    try:
        cell = store.read(path)
    except CasebookError as error:
        return {"path": str(path), "bytes": taken, "error": str(error)}
    fingerprint = cell.header.fingerprint
    return {
        "model": cell.header.variant,
        "dataset": cell.dataset.name,
        "res": cell.size,
        "images": sum(cell.dataset.counts),
        "width": fingerprint.width,
        "bytes": taken,
        "checkpoint": fingerprint.checkpoint,
        "path": str(path),
    }


def _describe_partial(store: Store, path: Path) -> dict[str, Any]:
    from embedder.writer import rows_done

    facts = _describe(store, path)
    if "error" not in facts:
        facts["done"] = rows_done(path)
    return facts


def _stored_text(store: Store, stored: list[dict[str, Any]], begun: list[dict[str, Any]]) -> str:
    if not stored and not begun:
        return f"{store.root} holds no embeddings yet; run embed, or see --store"
    rows = [
        (
            c["model"], c["dataset"], c["res"], f"{c['images']:,}", c["width"],
            console.size_text(c["bytes"]), _state(c), c["checkpoint"],
        )
        for c in (*stored, *begun)
        if "error" not in c
    ]  # fmt: skip
    head = ("model", "dataset", "px", "images", "width", "on disk", "state", "checkpoint")
    taken = console.size_text(sum(c["bytes"] for c in (*stored, *begun)))
    lines = [f"{store.root}: {console.cells_text(len(stored))}, {len(begun)} incomplete, {taken}"]
    lines.append(console.table(rows, head, "llrrrrll"))
    lines += [f"unreadable: {c['error']}" for c in (*stored, *begun) if "error" in c]
    return "\n\n".join(lines)


def _state(cell: dict[str, Any]) -> str:
    return "complete" if "done" not in cell else f"{100 * cell['done'] // cell['images']} % done"


def _backbones_text() -> str:
    rows = [
        (r.name, r.library, r.checkpoint, r.width, r.input_size or "any", r.licence)
        for r in CHECKPOINTS
    ]
    head = ("backbone", "library", "checkpoint", "width", "native px", "licence")
    return (
        f"backbones (--model; all: the {len(BENCHMARK)} of the benchmark, {BENCHMARK[0]} to "
        f"{BENCHMARK[-1]}; also timm:NAME.TAG and open_clip:ARCH/TAG)\n\n"
        f"{console.table(rows, head, 'lllrrl')}"
    )


def _datasets_text() -> str:
    rows = [
        (r.name, str(r.task), len(r.classes), r.channels, *(f"{n:,}" for n in r.counts), r.licence)
        for r in DATASETS.values()
    ]
    head = ("dataset", "task", "classes", "channels", "train", "val", "test", "licence")
    return (
        "datasets (--dataset; all: the twelve of MedMNIST+; phantom: the built-in four; "
        f"also an .npz file or a folder)\n\n{console.table(rows, head, 'llrrrrrl')}"
    )


if __name__ == "__main__":
    sys.exit(main())
