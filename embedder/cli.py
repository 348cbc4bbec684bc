"""``embed``: images to stored embeddings."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from embedder import backbones, console, datasets
from embedder.errors import CasebookError, UsageError
from embedder.recipe import Precision, Recipe, Storage, Weights
from embedder.registry import find
from embedder.types import Task

if TYPE_CHECKING:
    from embedder.engine import Engine
    from embedder.plan import Plan, PlannedCell
    from embedder.sources import Library

_LISTED = 24


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "embed",
        "Embed datasets with frozen backbones. What is complete is skipped, what was interrupted "
        "goes on.",
    )
    console.add_list(
        parser, "--model", "NAME",
        f"backbone (default hog); repeatable or with commas; all: the ten of the benchmark; "
        f"known: {', '.join(backbones.BACKBONES)}, timm:NAME.TAG, open_clip:ARCH/TAG",
    )  # fmt: skip
    console.add_list(
        parser, "--dataset", "NAME",
        "dataset (default all: the twelve of MedMNIST+); repeatable or with commas; "
        "phantom: the built-in ones; or the path of an .npz file or of a folder",
    )  # fmt: skip
    console.add_list(
        parser, "--res", "PX", "side length: 28, 64, 128, 224 or all (default 28, or a file's own)"
    )
    console.add_folders(parser, data=True)
    parser.add_argument(
        "--task", metavar="TASK", help=f"task of a dataset given by path: {', '.join(Task)}"
    )
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--weights", type=Path, metavar="FILE", help="safetensors or torch file, no download"
    )
    weights.add_argument(
        "--random-weights", type=int, metavar="SEED", help="untrained, from this seed"
    )
    running = parser.add_argument_group("running")
    running.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    running.add_argument("--precision", choices=list(map(str, Precision)), default="fp32")
    running.add_argument("--storage", choices=list(map(str, Storage)), default="float32")
    running.add_argument(
        "--batch-size", default="auto", metavar="N", help="images at a time (default auto)"
    )
    running.add_argument(
        "--plain",
        action="store_true",
        help="convolutional backbones compute all of the 224 px canvas, also what no pixel of a "
        "smaller image can reach; slower, and the same but for the last bits",
    )
    running.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return parser


def _handle(options: argparse.Namespace) -> int:
    from embedder.engine import Engine
    from embedder.plan import plan
    from embedder.sources import library_from_environment
    from embedder.store import Store, default_root

    names = datasets.expand(console.words(options.dataset) or ["all"])
    models = backbones.expand(console.words(options.model) or ["hog"])
    batch_size = _batch_size(options.batch_size)
    task = find({str(t): t for t in Task}, options.task, "task") if options.task else None
    if task is not None and not any(map(datasets.is_path, names)):
        raise UsageError("--task is for datasets given by path; the others have theirs")
    recipes = _recipes(models, options)
    library = library_from_environment(options.data, task)
    store = Store(options.store or default_root())
    planned = plan(store, library, names, console.sizes(options.res), recipes)
    _print_plan(planned.cells, store.root)
    _print_fetches(planned.cells, library)
    if options.dry_run:
        return _refuse_failures(planned)
    return _run(planned, Engine(library, options.device, batch_size, plain=options.plain))


def _recipes(models: list[str], options: argparse.Namespace) -> list[Recipe]:
    weights = Weights(options.weights, options.random_weights)
    if weights.file is not None and not os.path.isfile(weights.file):
        raise UsageError(f"no weights at {weights.file}; check --weights")
    if options.weights is not None and len(models) > 1:
        raise UsageError("--weights fits one backbone; give a single --model")
    rows = []
    for name in models:
        if name.startswith(backbones.PREFIXES):
            from embedder.loading import describe

            rows.append(describe(name))
        else:
            rows.append(backbones.BACKBONES[name])
    if options.plain and all(row.library == "scikit-image" for row in rows):
        raise UsageError("hog is no network and has no canvas; drop --plain")
    return [
        Recipe(row, weights, Precision(options.precision), Storage(options.storage))
        for row in rows
    ]  # fmt: skip


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    numbers = console.numbers([text], "--batch-size")
    if len(numbers) != 1:
        raise UsageError("--batch-size takes one number")
    return numbers[0]


def _print_plan(cells: list[PlannedCell], root: Path) -> None:
    from embedder.plan import State

    left = _left(cells)
    if len(cells) <= _LISTED:
        rows = [
            (
                c.recipe.variant,
                c.dataset.name,
                c.size,
                f"{c.images:,}",
                console.size_text(c.bytes),
                _state_text(c),
            )
            for c in cells
        ]
        head = ("model", "dataset", "px", "images", "on disk", "state")
        print(console.table(rows, head, "llrrrl"), end="\n\n")
    complete = sum(c.state is State.COMPLETE for c in cells)
    others = len(cells) - len(left) - complete
    refused = f", {others} refused" if others else ""
    place = next(path for path in (root, *root.absolute().parents) if os.path.isdir(path))
    images, taken = sum(c.images - c.done for c in left), sum(c.bytes for c in left)
    print(
        f"plan: {console.cells_text(len(left))} to embed, {complete} complete{refused}; "
        f"{images:,} images, {console.size_text(taken)} in "
        f"{root} ({console.size_text(shutil.disk_usage(place).free)} free)",
    )


def _print_fetches(cells: list[PlannedCell], library: Library) -> None:
    """Which caches hold which weights, only the libraries know."""
    left = _left(cells)
    absent = {(c.source, c.size) for c in left if not library.is_here(c.source, c.size)}
    if absent:
        files = f"{len(absent)} dataset file{'s' * (len(absent) != 1)}"
        print(f"to fetch first: {files} into {library.folder}")
    pinned = dict.fromkeys(c.recipe.backbone.name for c in left if c.recipe.pinned)
    if pinned:
        print(f"to fetch where no cache has them: the weights of {', '.join(pinned)}")
    print(end="", flush=True)


def _left(cells: list[PlannedCell]) -> list[PlannedCell]:
    from embedder.plan import State

    return [cell for cell in cells if cell.state in (State.NEW, State.PARTIAL)]


def _state_text(cell: PlannedCell) -> str:
    from embedder.plan import State

    if cell.state is State.PARTIAL:
        return f"{cell.state}, {100 * cell.done // cell.images} % done"
    return str(cell.state)


def _refuse_failures(planned: Plan) -> int:
    for name, error in planned.failures:
        _report(name, error)
    if planned.failures:
        raise CasebookError(f"{len(planned.failures)} datasets cannot be embedded")
    return 0


def _run(planned: Plan, engine: Engine) -> int:
    from embedder.plan import State

    failed: list[str] = []
    embedded = images = 0
    began = time.monotonic()
    for name, error in planned.failures:
        failed.append(_report(name, error))
    for cell in planned.cells:
        if cell.state is State.COMPLETE:
            continue
        try:
            images += _embed(engine, cell)
            embedded += 1
        except UsageError:
            raise
        except Exception as error:  # whatever hinders one cell, the others go on
            failed.append(_report(cell.title, error))
    count = len(planned.cells) + len(planned.failures)
    complete = count - embedded - len(failed)
    print(
        f"done: {console.cells_text(embedded)} embedded ({images:,} images in "
        f"{time.monotonic() - began:.1f} s), {complete} were complete, {len(failed)} failed"
    )
    if failed:
        names = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if failed[3:] else "")
        raise CasebookError(f"{len(failed)} of {count} cells failed: {names}")
    return 0


def _report(title: str, error: Exception) -> str:
    known = isinstance(error, CasebookError)
    text = str(error) if known else console.unexpected(error)
    print(f"failed: {title}: {' '.join(text.split())}", file=sys.stderr)
    return title


def _embed(engine: Engine, cell: PlannedCell) -> int:
    """Embed one cell behind a progress bar, or with a line where nobody watches one.

    The number of images that were embedded now.
    """
    from tqdm import tqdm

    done = 0
    with tqdm(desc=cell.title, total=cell.images, unit=" images", disable=None) as bar:
        unseen = bar.disable
        with closing(engine.embed(cell)) as steps:
            bar.initial = next(steps)
            bar.update(bar.initial)
            bar.unpause()
            began = time.monotonic()
            for count in steps:
                bar.update(count)
                done += count
    if unseen:
        rate = done / max(time.monotonic() - began, 1e-9)
        print(f"embedded: {cell.title}: {done:,} images, {rate:,.0f}/s", file=sys.stderr)
    return done


if __name__ == "__main__":
    sys.exit(main())
