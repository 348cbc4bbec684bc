"""``casebook profile``: what each backbone costs on this machine."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from embedder import backbones, console
from embedder.backbones import CANVAS
from embedder.errors import BackboneError, CasebookError, EvaluationError, UsageError
from embedder.loading import describe
from embedder.recipe import Recipe, Weights

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from evaluate.profile import Profile


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook profile",
        f"Parameters, multiply-adds, activations, memory and latency of backbones at {CANVAS} px.",
    )
    console.add_list(
        parser, "--model", "NAME", "a backbone (default all: the ten of the benchmark)"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--random-weights", type=int, metavar="SEED", help="untrained, from this seed (default 0)"
    )
    weights.add_argument(
        "--pinned", action="store_true", help="the pinned checkpoints, fetched where absent"
    )
    parser.add_argument(
        "--batch", default="1", metavar="N", help="images that are run at once (default 1)"
    )
    parser.add_argument(
        "--rounds", default="10", metavar="N", help="forward passes that are timed (default 10)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, to standard output")
    form.add_argument("--csv", action="store_true", help="a line per backbone, to standard output")
    return parser


def _handle(options: argparse.Namespace) -> int:
    batch, rounds = _number(options.batch, "--batch"), _number(options.rounds, "--rounds")
    names = backbones.expand(console.words(options.model) or ["all"])
    recipes = [_recipe(name, options) for name in names]
    profiles: list[Profile] = []
    failures = 0
    for recipe in _watched(recipes):
        try:
            profiles.append(measure_apart(recipe, options.device, batch, rounds))
        except CasebookError as error:
            failures += 1
            print(f"failed: {error}", file=sys.stderr)
    if profiles:
        print(_render(profiles, options))
    if failures:
        raise EvaluationError(f"{failures} of {len(recipes)} backbones failed")
    return 0


def _number(text: str, option: str) -> int:
    found = console.numbers([text], option)
    if len(found) != 1:
        raise UsageError(f"{option} takes one number")
    return found[0]


def _recipe(name: str, options: argparse.Namespace) -> Recipe:
    row = describe(name)
    if options.pinned or (row.library == "scikit-image" and options.random_weights is None):
        return Recipe(row)
    return Recipe(row, Weights(random_seed=options.random_weights or 0))


def _watched(recipes: list[Recipe]) -> Iterable[Recipe]:
    from tqdm import tqdm

    watched: Iterable[Recipe] = tqdm(
        recipes, "measuring", unit=" backbones", disable=None, leave=False
    )
    return watched


def measure_apart(recipe: Recipe, device: str, batch: int, rounds: int) -> Profile:
    """``evaluate.profile.measure`` in a process of its own, whose memory is that of one backbone.

    Raises as it does, and BackboneError where the process ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer, args=(sender, recipe, device, batch, rounds), daemon=True
    )
    process.start()
    sender.close()
    try:
        answer: Profile | Exception = receiver.recv()
    except EOFError as error:
        process.join()
        raise BackboneError(
            f"the process that measured {recipe.backbone.name} ended with status "
            f"{process.exitcode}; it may have run out of memory: make --batch smaller"
        ) from error
    finally:
        process.terminate()
        process.join()
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(sender: Connection, recipe: Recipe, device: str, batch: int, rounds: int) -> None:
    """In the other process; an interruption ends it from without."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        from evaluate.profile import measure

        sender.send(measure(recipe, device, batch, rounds))
    except CasebookError as error:
        sender.send(error)
    except Exception as error:  # a defect of ours, told by the process that asked
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _render(profiles: Sequence[Profile], options: argparse.Namespace) -> str:
    if options.json:
        return json.dumps([asdict(profile) for profile in profiles], indent=1)
    return as_csv(profiles) if options.csv else as_text(profiles)


def as_csv(profiles: Sequence[Profile]) -> str:
    """A line per backbone; what is unknown is empty, ``versions`` is left to the JSON."""
    sink = io.StringIO()
    names = [field.name for field in fields(profiles[0]) if field.name != "versions"]
    writer = csv.DictWriter(sink, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(profile) for profile in profiles)
    return sink.getvalue().rstrip("\n")


def as_text(profiles: Sequence[Profile]) -> str:
    """The table, in the given order, under what it was measured with."""
    head = (
        "model", "params (M)", "built (M)", "multiply-adds (G)", "activations (M)", "width",
        "weights", "memory", "ms per image", "quartiles",
    )  # fmt: skip
    rows = [
        (
            p.model, _scaled(p.parameters, 1e6), _scaled(p.parameters_built, 1e6),
            _scaled(p.multiply_adds, 1e9), _scaled(p.activations, 1e6), p.width,
            console.size_text(p.weights_bytes),
            "-" if p.memory_bytes is None else console.size_text(p.memory_bytes),
            f"{p.median_ms:.1f}", f"{p.lower_quartile_ms:.1f} to {p.upper_quartile_ms:.1f}",
        )
        for p in profiles
    ]  # fmt: skip
    lines = [f"{CANVAS} px, batch of {profiles[0].batch}, {profiles[0].rounds} rounds"]
    lines += dict.fromkeys(_place(profile) for profile in profiles)
    untrained = [p.model for p in profiles if p.checkpoint.startswith("random:")]
    if untrained:
        lines.append(f"random weights: {', '.join(untrained)}")
    return "\n".join(lines) + f"\n\n{console.table(rows, head, 'l' + 'r' * (len(head) - 1))}"


def _place(profile: Profile) -> str:
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    libraries = ", ".join(f"{name} {version}" for name, version in profile.versions.items())
    return f"{profile.device}: {profile.device_name}, {threads}; {libraries}"


def _scaled(count: int | None, unit: float) -> str:
    return "-" if count is None else f"{count / unit:.2f}"


if __name__ == "__main__":
    sys.exit(main())
