"""``knn-eval``: the accuracy of the nearest-neighbour vote on stored embeddings."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedder import console
from embedder.backbones import BENCHMARK
from embedder.datasets import FAMILIES, is_path, name_of_path
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.registry import find
from embedder.types import Distance, Split

if TYPE_CHECKING:
    from embedder.store import Cell, Store
    from evaluate.knn import Protocol
    from evaluate.results import Record
    from index.vote import Vote

VOTES = ("majority", "distance", "softmax")
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
    add_vote(parser)
    parser.add_argument(
        "--split", choices=list(map(str, Split)), default="test",
        help="queries (default test); train: each left out of its own search",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--per-dataset", action="store_true", help="a line per cell, every metric")
    output.add_argument("--metric", choices=METRICS, default="accuracy")
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


def protocol_of(options: argparse.Namespace, ks: list[int]) -> Protocol:
    """The options of ``add_vote`` and a ``--split`` as a protocol."""
    from evaluate.knn import Protocol
    from index.build import Kind

    return Protocol(
        tuple(ks), Distance(options.distance), _vote(options), Split(options.split),
        Kind(options.index),
    )  # fmt: skip


def _handle(options: argparse.Namespace) -> int:
    from embedder.store import Store, default_root
    from evaluate import results

    if options.per_dataset and options.metric != "accuracy":
        raise UsageError("--per-dataset shows every metric; drop --metric")
    protocol = protocol_of(options, console.numbers(options.k, "--k") or [11])
    if options.metric == "auc" and not protocol.vote.weighted:
        raise UsageError("a majority vote has no AUC; use --vote distance or softmax")
    store = Store(options.store or default_root())
    folder = options.results or store.root / "results"
    cells, failures = select_cells(store, options)
    count = len(cells) + len(failures)
    paths = []
    for cell in _watched(cells):
        try:
            paths += results.append(folder, _evaluate(cell, protocol))
        except CasebookError as error:
            failures.append(f"{title(cell)}: {error}")
    for failure in failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    if paths:
        print(_render(results.read(paths), options))
    if failures:
        raise EvaluationError(f"{len(failures)} of {count} cells failed")
    return 0


def _evaluate(cell: Cell, protocol: Protocol) -> list[Record]:
    from evaluate.knn import evaluate

    return evaluate(cell, protocol)


def _vote(options: argparse.Namespace) -> Vote:
    from index.vote import DistanceVote, MajorityVote, SoftmaxVote

    if options.temperature is not None and options.vote != "softmax":
        raise UsageError("--temperature belongs to --vote softmax")
    if options.vote == "softmax":
        return SoftmaxVote() if options.temperature is None else SoftmaxVote(options.temperature)
    return DistanceVote() if options.vote == "distance" else MajorityVote()


def select_cells(store: Store, options: argparse.Namespace) -> tuple[list[Cell], list[str]]:
    """The complete cells that match ``--model --dataset --res``, and why others cannot be read.

    Raises UnknownNameError for a name that no cell has, EvaluationError where none matches.
    """
    everything = list(store.paths())
    if not everything:
        raise EvaluationError(f"no embeddings in {store.root}; run embed first, or see --store")
    sizes = console.sizes(options.res)
    datasets = _dataset_names(options.dataset, {path.parts[-3] for path in everything})
    asked = set(console.words(options.model))
    models = (asked - {"all"}) | (set(BENCHMARK) if "all" in asked else set())
    _refuse_absent_sizes(sizes, {int(path.parts[-2]) for path in everything})
    cells: list[Cell] = []
    failures: list[str] = []
    known: set[str] = set()
    for path in everything:
        dataset, size, _ = path.parts[-3:]
        wanted = (not datasets or dataset in datasets) and (not sizes or int(size) in sizes)
        try:
            cell = store.read(path)
        except CasebookError as error:
            if wanted and (not models or _may_be(path.stem, models)):
                failures.append(str(error))
            continue
        known |= _names(cell)
        if wanted and (not models or _names(cell) & models):
            cells.append(cell)
    if not failures:
        for model in sorted(asked - {"all"}):
            find(dict.fromkeys(sorted(known)), model, "stored model")
    exact = {cell.header.variant for cell in cells} & models
    cells = [cell for cell in cells if not models or _is_meant(cell, exact, models)]
    if not cells and not failures:
        raise EvaluationError(f"no stored cell matches; see casebook info --store {store.root}")
    return cells, failures


def _names(cell: Cell) -> set[str]:
    return {cell.header.variant, cell.header.fingerprint.backbone}


def _is_meant(cell: Cell, exact: set[str], models: set[str]) -> bool:
    """A name means the variant of exactly that name or, where there is none, all of a backbone."""
    return cell.header.variant in exact or bool(_names(cell) & (models - exact))


def _refuse_absent_sizes(asked: tuple[int, ...] | None, stored: set[int]) -> None:
    absent = sorted(set(asked or ()) - stored)
    if absent:
        known = ", ".join(map(str, sorted(stored)))
        raise UsageError(f"nothing is stored at {absent[0]} px; stored are {known}")


def _may_be(variant: str, models: set[str]) -> bool:
    """Whether a file that cannot be read is named as a variant of one of ``models`` would be."""
    names = {model.replace(":", "--").replace("/", "--") for model in models}
    return any(variant == name or variant.startswith(f"{name}-") for name in names)


def title(cell: Cell) -> str:
    return f"{cell.header.variant} {cell.dataset.name} {cell.size} px"


def _dataset_names(values: list[str] | None, stored: set[str]) -> set[str]:
    """Names as the store has them, families written out; empty for every one."""
    names: set[str] = set()
    for word in console.words(values):
        if word in FAMILIES:
            names |= {row.name for row in FAMILIES[word]}
        elif is_path(word):
            names.add(_stored_name(word, stored))
        else:
            find(dict.fromkeys(sorted(stored)), word, "stored dataset")
            names.add(word)
    return names


def _stored_name(word: str, stored: set[str]) -> str:
    """What a dataset given by path is called in the store, whether or not it is there still."""
    from embedder.npz import NpzSource

    path = Path(word)
    if os.path.isdir(path):
        return name_of_path(path, None)
    if os.path.isfile(path):
        return name_of_path(path, NpzSource(path).size)
    found = re.search(r"_([0-9]+)\.npz$", word)
    plain, short = name_of_path(path, 0), name_of_path(path, int(found[1]) if found else 0)
    if plain != short and {plain, short} <= stored:
        raise UsageError(f"{word} may be {plain} or {short}, both stored; give the name")
    return short if short in stored else plain


def _watched(cells: list[Cell]) -> Iterable[Cell]:
    from tqdm import tqdm

    watched: Iterable[Cell] = tqdm(cells, "searching", unit=" cells", disable=None, leave=False)
    return watched


def _render(records: list[Record], options: argparse.Namespace) -> str:
    from evaluate import tables

    if options.json:
        return "[" + ",\n".join(record.to_json() for record in records) + "]"
    if options.csv:
        return tables.as_csv(records).rstrip("\n")
    if options.per_dataset:
        return tables.per_dataset(records)
    return tables.summary(records, options.metric)


if __name__ == "__main__":
    sys.exit(main())
