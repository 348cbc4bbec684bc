"""``probe-eval``: linear probes on stored embeddings."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedder import console
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.types import Split
from evaluate.cli import METRICS, add_against, add_intervals, refuse_contradictions, tell_missing

if TYPE_CHECKING:
    from pathlib import Path

    from embedder.store import Cell
    from evaluate.probe import ProbeProtocol
    from evaluate.probing import Probing
    from evaluate.results import Record

SWEEP = ((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0.0, 0.01, 0.1))
"""Learning rates and weight decays of ``--sweep``."""


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "probe-eval",
        "Train linear probes on every stored cell, choose on val, and measure them. The heads are "
        "kept in the store.",
    )
    console.add_list(parser, "--model", "NAME", "only this variant or backbone; all: the ten")
    console.add_list(parser, "--dataset", "NAME", "only this dataset; phantom: the built-in ones")
    console.add_list(parser, "--res", "PX", "only this side length")
    training = parser.add_argument_group("training")
    training.add_argument("--solver", choices=("adamw", "lbfgs"), default="adamw")
    console.add_list(
        parser, "--seeds", "SEED,...", "of --solver adamw (default: the published three)"
    )
    training.add_argument("--epochs", type=int, metavar="N", help="at most (default 100)")
    training.add_argument(
        "--patience", type=int, metavar="N", help="epochs without a lower loss (default 5)"
    )
    training.add_argument(
        "--learning-rate", type=float, metavar="X", help="of AdamW (default 0.0001)"
    )
    training.add_argument("--weight-decay", type=float, metavar="X", help="of AdamW (default 0.01)")
    training.add_argument(
        "--sweep", action="store_true",
        help="a grid of learning rates and weight decays, trained together, chosen on val",
    )  # fmt: skip
    training.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--split", choices=list(map(str, Split)), default="test", help="measured (default test)"
    )
    add_intervals(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--per-dataset", action="store_true", help="a line per cell, every metric")
    output.add_argument("--metric", choices=METRICS, default="accuracy")
    add_against(output)
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the records, to standard output")
    form.add_argument("--csv", action="store_true", help="a line per record, to standard output")
    console.add_folders(parser)
    parser.add_argument(
        "--results", type=console.folder, metavar="DIR",
        help="result records (default STORE/results)",
    )  # fmt: skip
    return parser


def _handle(options: argparse.Namespace) -> int:
    from embedder.selection import select_cells, title
    from embedder.store import Store, default_root
    from evaluate import results

    refuse_contradictions(options)
    probing = _probing(options)
    store = Store(options.store or default_root())
    folder = options.results or store.root / "results"
    cells, failures = select_cells(store, options.dataset, options.model, options.res)
    count = len(cells) + len(failures)
    paths: list[Path] = []
    for cell in cells:
        try:
            paths += results.append(folder, _evaluate(cell, probing, store.root))
        except CasebookError as error:
            failures.append(f"{title(cell)}: {error}")
    for failure in failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    if paths:
        print(_render(results.read(paths), options))
        tell_missing(store, options, len(failures))
    if failures:
        raise EvaluationError(f"{len(failures)} of {count} cells failed")
    return 0


def _evaluate(cell: Cell, probing: Probing, root: Path) -> list[Record]:
    from tqdm import tqdm

    from embedder.selection import title
    from evaluate.probing import evaluate

    with tqdm(
        desc=title(cell),
        total=probing.steps(cell.dataset),
        unit=" steps",
        disable=None,
        leave=False,
    ) as bar:
        return evaluate(cell, probing, root, bar.update)


def _probing(options: argparse.Namespace) -> Probing:
    from evaluate.logistic import LogisticProtocol
    from evaluate.probing import Probing

    if options.solver == "lbfgs":
        given = ("seeds", "epochs", "patience", "learning_rate", "weight_decay")
        unused = [name for name in given if getattr(options, name) is not None]
        if options.sweep or options.device != "cpu":
            unused.append("sweep" if options.sweep else "device")
        if unused:
            raise UsageError(f"--{unused[0].replace('_', '-')} belongs to --solver adamw; drop it")
        return Probing(LogisticProtocol(), Split(options.split), options.intervals)
    from embedder.network import choose_device

    device = choose_device(options.device)
    protocol = _adamw(options)
    if options.against and options.intervals and len(protocol.seeds) > 1:
        raise UsageError(
            "--against compares the mean over seeds, which has no interval; drop --intervals, or "
            "give one of --seeds"
        )
    return Probing(protocol, Split(options.split), options.intervals, device)


def _adamw(options: argparse.Namespace) -> ProbeProtocol:
    from evaluate.probe import SEEDS, Grid, ProbeProtocol

    if options.sweep and (options.learning_rate, options.weight_decay) != (None, None):
        raise UsageError("--sweep tries a grid; drop --learning-rate and --weight-decay")
    plain = Grid()
    rates = plain.learning_rates if options.learning_rate is None else (options.learning_rate,)
    decays = plain.weight_decays if options.weight_decay is None else (options.weight_decay,)
    return ProbeProtocol(
        _seeds(options.seeds) or SEEDS,
        Grid(*SWEEP) if options.sweep else Grid(rates, decays),
        epochs=100 if options.epochs is None else options.epochs,
        patience=5 if options.patience is None else options.patience,
    )


def _seeds(values: Sequence[str] | None) -> tuple[int, ...]:
    found = []
    for word in console.words(values):
        if not re.fullmatch("[0-9]{1,19}", word) or int(word) >= 2**63:
            raise UsageError(f"--seeds {word[:20]!r} is no number from 0 to {2**63 - 1}")
        found.append(int(word))
    return tuple(dict.fromkeys(found))


def _render(records: list[Record], options: argparse.Namespace) -> str:
    from evaluate import probe_tables

    if options.json:
        return "[" + ",\n".join(record.to_json() for record in records) + "]"
    if options.csv:
        return probe_tables.as_csv(records).rstrip("\n")
    table = _table(records, options)
    return f"{table}\n\n{_flattery(options)}" if options.split == "val" else table


def _flattery(options: argparse.Namespace) -> str:
    chosen = "C" if options.solver == "lbfgs" else "the epoch"
    if options.sweep:
        chosen = "the learning rate, the weight decay and the epoch"
    return f"val chose {chosen} of each head: its figures flatter; see --split test"


def _table(records: list[Record], options: argparse.Namespace) -> str:
    from evaluate import probe_tables

    if options.intervals and not options.against:
        shown = METRICS if options.per_dataset else (options.metric,)
        return probe_tables.intervals(records, shown)
    if options.per_dataset or options.against:
        return probe_tables.per_dataset(records, against=bool(options.against))
    return probe_tables.summary(records, options.metric)


if __name__ == "__main__":
    sys.exit(main())
