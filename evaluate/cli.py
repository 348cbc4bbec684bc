"""``knn-eval``: the accuracy of the nearest-neighbour vote on stored embeddings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from embedder import console
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.types import Distance, Split
from index.vote import VOTES

if TYPE_CHECKING:
    from embedder.store import Cell
    from evaluate.knn import Protocol
    from evaluate.results import Record

METRICS = ("accuracy", "balanced_accuracy", "kappa", "precision", "auc")


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "knn-eval", "Evaluate the vote of the nearest training cases on every stored cell."
    )
    console.add_list(
        parser, "--k", "K", "neighbours that vote (default 11); several share one search: 1,5,11"
    )
    console.add_list(
        parser,
        "--model",
        "NAME",
        "only this variant or, where none is called so, every variant of this backbone; "
        "all: the ten of the benchmark",
    )
    console.add_list(parser, "--dataset", "NAME", "only this dataset; phantom: the built-in ones")
    console.add_list(parser, "--res", "PX", "only this side length")
    parser.add_argument(
        "--choose-k", metavar="K,...",
        help="of these k the most accurate on val, chosen for each cell",
    )  # fmt: skip
    add_vote(parser)
    parser.add_argument(
        "--split", choices=list(map(str, Split)), default="test",
        help="queries (default test); train: each left out of its own search",
    )  # fmt: skip
    add_intervals(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--per-dataset", action="store_true", help="a line per cell, every metric")
    output.add_argument(
        "--per-class", action="store_true", help="a line per class, and the confusion matrix"
    )
    output.add_argument("--metric", choices=METRICS, default="accuracy")
    add_against(output)
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the records, to standard output")
    form.add_argument("--csv", action="store_true", help="a line per record, to standard output")
    console.add_folders(parser)
    parser.add_argument(
        "--results",
        type=console.folder,
        metavar="DIR",
        help="result records (default STORE/results)",
    )
    return parser


def add_vote(parser: argparse.ArgumentParser) -> None:
    """The options of how neighbours are found and counted."""
    voting = parser.add_argument_group("voting")
    voting.add_argument("--distance", choices=list(map(str, Distance)), default="cosine")
    voting.add_argument("--vote", choices=VOTES, default="majority")
    voting.add_argument(
        "--temperature", type=float, metavar="T", help="of --vote softmax (default 0.07)"
    )
    voting.add_argument(
        "--index", choices=("auto", "faiss", "faiss-gpu", "reference"), default="auto",
        help="what searches; all give the same neighbours",
    )  # fmt: skip


def add_intervals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--intervals", type=int, nargs="?", const=1000, default=0, metavar="N",
        help="95 %% intervals of N bootstrap resamples (default 1000)",
    )  # fmt: skip


def add_against(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--against", choices=("published",),
        help="a line per cell, with the published figure and the rank among its ten models",
    )  # fmt: skip


def refuse_contradictions(options: argparse.Namespace) -> None:
    """Raise UsageError for options of which one would be ignored."""
    if options.per_dataset and options.metric != "accuracy":
        raise UsageError("--per-dataset shows every metric; drop --metric")
    if getattr(options, "per_class", False) and (
        options.per_dataset or options.against or options.intervals or options.json or options.csv
    ):
        raise UsageError("--per-class is a table of its own; drop the others")
    if options.against and options.metric != "accuracy":
        raise UsageError("--against compares accuracies; drop --metric")
    if options.against and (options.json or options.csv):
        raise UsageError("--against is for tables; drop --json and --csv")
    if not 0 <= options.intervals <= 1_000_000:
        raise UsageError("--intervals takes a number from 1 to 1,000,000")


def protocol_of(options: argparse.Namespace, ks: list[int]) -> Protocol:
    """The options of ``add_vote`` and a ``--split`` as a protocol."""
    from evaluate.knn import Protocol
    from index.build import Kind
    from index.vote import vote_of

    return Protocol(
        tuple(ks), Distance(options.distance), vote_of(options.vote, options.temperature),
        Split(options.split), Kind(options.index), getattr(options, "intervals", 0),
    )  # fmt: skip


def _handle(options: argparse.Namespace) -> int:
    from embedder.selection import select_cells, title
    from embedder.store import Store, default_root
    from evaluate import results

    refuse_contradictions(options)
    if options.choose_k and (options.k or options.split == "val"):
        raise UsageError("--choose-k chooses on val; drop --k, and --split val")
    ks = options.k or ([options.choose_k] if options.choose_k else [])
    protocol = protocol_of(options, console.numbers(ks, "--k") or [11])
    if options.metric == "auc" and not protocol.vote.weighted:
        raise UsageError("a majority vote has no AUC; use --vote distance or softmax")
    store = Store(options.store or default_root())
    folder = options.results or store.root / "results"
    cells, failures = select_cells(store, options.dataset, options.model, options.res)
    count = len(cells) + len(failures)
    paths = []
    known: dict[str, tuple[str, ...]] = {}
    for cell in _watched(cells):
        try:
            paths += results.append(folder, _evaluate(cell, protocol, options))
            known[cell.dataset.name] = cell.dataset.classes
        except CasebookError as error:
            failures.append(f"{title(cell)}: {error}")
    for failure in failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    if paths:
        print(_render(results.read(paths), options, known))
    if failures:
        raise EvaluationError(f"{len(failures)} of {count} cells failed")
    return 0


def _evaluate(cell: Cell, protocol: Protocol, options: argparse.Namespace) -> list[Record]:
    from evaluate.knn import evaluate, evaluate_best

    if options.choose_k:
        return evaluate_best(cell, protocol, options.metric)
    return evaluate(cell, protocol)


def _watched(cells: list[Cell]) -> Iterable[Cell]:
    from tqdm import tqdm

    watched: Iterable[Cell] = tqdm(cells, "searching", unit=" cells", disable=None, leave=False)
    return watched


def _render(
    records: list[Record], options: argparse.Namespace, known: dict[str, tuple[str, ...]]
) -> str:
    from evaluate import classes, tables

    if options.json:
        return "[" + ",\n".join(record.to_json() for record in records) + "]"
    if options.csv:
        return tables.as_csv(records).rstrip("\n")
    if options.per_class:
        return "\n\n".join(classes.tables(record, known[record.dataset]) for record in records)
    several = options.intervals and len(known) > 1  # a mean over datasets has no interval here
    if options.per_dataset or options.against or several:
        return tables.per_dataset(records, against=bool(options.against))
    return tables.summary(records, options.metric)


if __name__ == "__main__":
    sys.exit(main())
