"""``casebook compact``: what was erased leaves the stored files for good."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedder import console
from embedder.errors import CasebookError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from embedder.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook compact",
        "Remove the bytes of erased cases from every stored cell and from the overlay. "
        "Datasets must not be served meanwhile; their own files are not touched.",
    )
    console.add_folders(parser)
    return parser


def _handle(options: argparse.Namespace) -> int:
    from embedder.store import Store, default_root

    store = Store(options.store or default_root())
    if not store.root.is_dir():
        raise StoreError(f"there is no store at {store.root}; check --store")
    overlays = sorted(store.root.glob("*/overlay.sqlite"))
    if not overlays:
        print(f"nothing was added or erased in {store.root}")
    failed = []
    for path in overlays:
        try:
            print(_compact(store, path))
        except CasebookError as error:
            failed.append(path.parent.name)
            print(f"failed: {error}", file=sys.stderr)
    if failed:
        raise CasebookError(f"{len(failed)} of {len(overlays)} datasets were not compacted")
    return 0


def _compact(store: Store, path: Path) -> str:
    """Compact the dataset of one overlay; a line that says what was done.

    Raises StoreError where a cell of it is not finished, CellBusyError where it is in use.
    """
    from embedder.erase import erase
    from service.overlay import Overlay

    name = path.parent.name
    begun = [part for part in store.partial_paths() if part.parts[-3] == name]
    if begun:
        raise StoreError(f"{begun[0]} is not complete; run embed again to finish it, or delete it")
    cells = [store.read(cell) for cell in store.paths() if cell.parts[-3] == name]
    overlay = Overlay(path, cells[0].dataset if cells else None)
    try:
        for cell in cells:
            overlay.check(cell.size, cell.header.fingerprint.dataset_checksum)
        erased = overlay.erased()
        changed = sum(erase(store, cell.path, erased) > 0 for cell in cells)
        overlay.compact()
        added = overlay.erased_added()
    finally:
        overlay.close()
    stored = sum(map(len, erased.values()))
    if not stored + added:
        return f"{name}: nothing was erased"
    return (
        f"{name}: of the cases erased so far, {stored} stored and {added} added, nothing is left; "
        f"{console.cells_text(changed)} rewritten"
    )


if __name__ == "__main__":
    sys.exit(main())
