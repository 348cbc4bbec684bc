"""``knn-eval``: the accuracy of the nearest-neighbour vote on stored embeddings."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.types import Distance, Split
from index.vote import VOTES

if TYPE_CHECKING:
    from embedder.store import Cell, Store
    from evaluate.knn import Protocol
    from evaluate.results import Record

    Evaluation = Callable[[Cell, Callable[[], object]], list[Record]]

METRICS = ("accuracy", "balanced_accuracy", "kappa", "precision", "auc")
MOST_DRAWS = 1000


_FEWEST, _MOST = 50, 1_000_000
"""Resamples of the bootstrap: of fewer, percentiles mean nothing."""

_SHOWN = 5
"""The most unfinished cells that are named."""


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
    _add_corrections(parser)
    _add_shots(parser)
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


def _add_corrections(parser: argparse.ArgumentParser) -> None:
    correcting = parser.add_argument_group("correcting")
    correcting.add_argument(
        "--priors", choices=("uniform",),
        help="divide scores by the shares of the classes among the training cases",
    )  # fmt: skip
    correcting.add_argument(
        "--thresholds", choices=("balanced-accuracy", "f1"),
        help="multi-label: for each label the threshold that is the best by this on val",
    )  # fmt: skip


def _add_shots(parser: argparse.ArgumentParser) -> None:
    few = parser.add_argument_group("few-shot")
    few.add_argument(
        "--shots", action="append", metavar="N,...",
        help="only so many training cases of each class vote, drawn at random: 1,2,4,8,16",
    )  # fmt: skip
    few.add_argument("--draws", metavar="N", help="how often they are drawn (default 10)")


def add_intervals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--intervals", type=_resamples, nargs="?", const=1000, default=0, metavar="N",
        help="95 %% intervals of N bootstrap resamples (default 1000)",
    )  # fmt: skip


def _resamples(text: str) -> int:
    if not re.fullmatch("[0-9]{1,7}", text) or not _FEWEST <= int(text) <= _MOST:
        raise UsageError(f"--intervals takes a number from {_FEWEST} to {_MOST:,}")
    return int(text)


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


def _refuse_clashes(options: argparse.Namespace) -> None:
    """Raise UsageError for options of ``knn-eval`` that do not go together."""
    if options.choose_k and (options.k or options.split == "val"):
        raise UsageError("--choose-k chooses on val; drop --k, and --split val")
    if options.draws is not None and not options.shots:
        raise UsageError("--draws is how often --shots draws; give --shots too")
    if not options.shots:
        return
    if options.split == "train":
        raise UsageError("--shots draws from train; its queries come from --split val or test")
    if len(console.numbers(options.k, "--k")) > 1:
        raise UsageError("--shots takes one --k, of which it uses no more than the shots")
    clashes = {
        "choose_k": "takes k as it is given",
        "thresholds": "is of few labelled cases, and thresholds need all of val",
        "intervals": "gives the deviation over draws instead",
        "against": "has nothing published to stand against",
        "per_class": "has a matrix for each draw, see --json",
    }
    for name, reason in clashes.items():
        if getattr(options, name):
            raise UsageError(f"--shots {reason}; drop --{name.replace('_', '-')}")


def protocol_of(options: argparse.Namespace, ks: list[int]) -> Protocol:
    """The options of ``add_vote``, a ``--split`` and what else of a protocol is there."""
    from evaluate.knn import Protocol
    from evaluate.thresholds import Criterion
    from index.build import Kind
    from index.vote import vote_of

    criterion = getattr(options, "thresholds", None)
    return Protocol(
        tuple(ks), Distance(options.distance), vote_of(options.vote, options.temperature),
        Split(options.split), Kind(options.index), getattr(options, "intervals", 0),
        getattr(options, "priors", None) == "uniform", Criterion(criterion) if criterion else None,
    )  # fmt: skip


def _handle(options: argparse.Namespace) -> int:
    from embedder.selection import select_cells, title
    from embedder.store import Store, default_root
    from evaluate import results

    refuse_contradictions(options)
    _refuse_clashes(options)
    ks = options.k or ([options.choose_k] if options.choose_k else [])
    protocol = protocol_of(options, console.numbers(ks, "--k") or [11])
    if options.metric == "auc" and not protocol.vote.weighted:
        raise UsageError("a majority vote has no AUC; use --vote distance or softmax")
    evaluate, steps = _evaluation(protocol, options)
    store = Store(options.store or default_root())
    folder = options.results or store.root / "results"
    cells, failures = select_cells(store, options.dataset, options.model, options.res)
    count = len(cells) + len(failures)
    paths = []
    known: dict[str, tuple[str, ...]] = {}
    with _bar(len(cells) * steps, " records" if options.shots else " cells") as bar:
        for number, cell in enumerate(cells, 1):
            try:
                paths += results.append(folder, evaluate(cell, bar.update))
                known[cell.dataset.name] = cell.dataset.classes
            except CasebookError as error:
                failures.append(f"{title(cell)}: {error}")
            bar.update(number * steps - bar.n)
    for failure in failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    if paths:
        print(_render(results.read(paths), options, known))
        tell_missing(store, options, len(failures))
    if failures:
        raise EvaluationError(f"{len(failures)} of {count} cells failed")
    return 0


def tell_missing(store: Store, options: argparse.Namespace, failed: int) -> None:
    """Print what a table is without, below it; where the output is data, to standard error."""
    from embedder.selection import matches

    asked = options.dataset, options.model, options.res
    unfinished = [path for path in store.partial_paths() if matches(path, *asked)]
    names = [
        f"{path.name.partition('.h5')[0]} {path.parts[-3]} {path.parts[-2]} px"
        for path in unfinished[:_SHOWN]
    ]
    more = f" and {len(unfinished) - _SHOWN} more" if len(unfinished) > _SHOWN else ""
    sink = sys.stderr if options.json or options.csv else sys.stdout
    if names:
        print(f"\nnot finished, left out: {', '.join(names)}{more}; run embed again", file=sink)
    if failed and sink is sys.stdout:
        print(f"\nleft out, since they failed: {console.cells_text(failed)}", file=sink)


def _evaluation(protocol: Protocol, options: argparse.Namespace) -> tuple[Evaluation, int]:
    """What is done with each cell, and in how many steps."""
    from evaluate.knn import evaluate, evaluate_best
    from evaluate.shots import evaluate_shots

    if options.shots:
        shots = sorted(console.numbers(options.shots, "--shots"))
        draws = _number_of_draws(options.draws)
        steps = draws * len(shots)
        return lambda cell, watch: evaluate_shots(cell, protocol, shots, draws, watch), steps
    if options.choose_k:
        return lambda cell, _: evaluate_best(cell, protocol, options.metric), 1
    return lambda cell, _: evaluate(cell, protocol), 1


def _number_of_draws(text: str | None) -> int:
    found = [10] if text is None else console.numbers([text], "--draws")
    if len(found) > 1 or found[0] > MOST_DRAWS:
        raise UsageError(f"--draws takes one number from 1 to {MOST_DRAWS:,}")
    return found[0]


def _bar(total: int, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(desc="searching", total=total, unit=unit, disable=None, leave=False)


def _render(
    records: list[Record], options: argparse.Namespace, known: dict[str, tuple[str, ...]]
) -> str:
    from evaluate import classes, shot_tables, tables

    if options.json:
        return "[" + ",\n".join(record.to_json() for record in records) + "]"
    if options.csv:
        return tables.as_csv(records).rstrip("\n")
    if options.shots and options.per_dataset:
        return shot_tables.per_dataset(records)
    if options.shots:
        return shot_tables.summary(records, options.metric)
    if options.per_class:
        return "\n\n".join(classes.tables(record, known[record.dataset]) for record in records)
    several = options.intervals and len(known) > 1  # a mean over datasets has no interval here
    if options.per_dataset or options.against or several:
        return tables.per_dataset(records, against=bool(options.against))
    return tables.summary(records, options.metric)


if __name__ == "__main__":
    sys.exit(main())
