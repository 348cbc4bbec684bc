"""``casebook published``: the benchmark's figures, its statistics, and where a new value stands."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.backbones import BENCHMARK
from embedder.datasets import SIZES
from embedder.errors import EvaluationError, UsageError
from embedder.registry import find
from evaluate import published
from evaluate.published import Averaged, Published

if TYPE_CHECKING:
    from evaluate.statistics import Analysis, PostHoc

_Rows = Sequence[Published | Averaged]

_FEW = 10
"""The most pairs that are listed; more become a matrix."""


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook published",
        "The published figures of ten models on MedMNIST+, in percent.",
    )
    console.add_list(parser, "--dataset", "NAME", "only this dataset")
    console.add_list(parser, "--model", "NAME", "only this model")
    console.add_list(parser, "--res", "PX", "only this side length")
    console.add_list(
        parser, "--scheme", "NAME",
        "only end_to_end, linear_probe or knn (default knn in tables, every one elsewhere)",
    )  # fmt: skip
    console.add_list(
        parser, "--metric", "NAME", "only acc or auc (default acc; in --csv and --json, both)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--statistics", action="store_true", help="do resolutions, schemes, models differ?"
    )
    what.add_argument(
        "--rank", type=float, metavar="VALUE",
        help="where a value in percent stands, for one --dataset, --res and --scheme",
    )  # fmt: skip
    what.add_argument(
        "--averages", action="store_true",
        help="instead, averages: auc (default), balanced_accuracy, kappa; multi-task too",
    )  # fmt: skip
    parser.add_argument(
        "--correction", choices=("bonferroni", "holm"),
        help="of --statistics for many comparisons (default bonferroni)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--csv", action="store_true", help="a line per figure, mean and deviation")
    return parser


def _handle(options: argparse.Namespace) -> int:
    if options.correction and not options.statistics:
        raise UsageError("--correction is of --statistics; add that, or drop it")
    if options.csv and (options.statistics or options.rank is not None):
        raise UsageError("--csv is of figures; for statistics and ranks, use --json")
    if options.rank is not None:
        print(_rank(options))
    elif options.statistics:
        print(_statistics(options))
    else:
        print(_figures(options))
    return 0


def _figures(options: argparse.Namespace) -> str:
    rows: _Rows
    if options.averages:
        if options.dataset:
            raise UsageError("--averages are over all datasets; drop --dataset")
        rows = published.averages()
        schemes, metrics = published.AVERAGES_SCHEMES, published.AVERAGES_METRICS
        usual = list(schemes)
    else:
        rows, schemes, metrics = published.table(), published.SCHEMES, published.METRICS
        usual = ["knn"]
    raw = options.csv or options.json
    kinds = _chosen(options.scheme, schemes, "scheme") or ([] if raw else usual)
    asked = _chosen(options.metric, metrics, "metric") or ([] if raw else list(metrics)[:1])
    chosen = _select(rows, options, kinds, asked)
    lacking = _lacking(chosen, kinds or list(schemes), asked)
    if raw and lacking:
        print(*lacking, file=sys.stderr)
    if options.json:
        return json.dumps([asdict(row) for row in chosen], indent=1)
    if options.csv:
        return _csv(chosen)
    source = published.AVERAGES_SOURCE if options.averages else published.SOURCE
    return "\n\n".join([*published.summaries(chosen), *lacking, f"source: {source}"])


def _lacking(rows: _Rows, schemes: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """A line that names what was asked for and is in no row, if anything is."""
    found = {(row.scheme, row.metric) for row in rows}
    nouns = published.SCHEMES | published.AVERAGES_SCHEMES
    terms = published.METRICS | published.AVERAGES_METRICS
    absent = [f"{terms[m]} of {nouns[s]}" for s in schemes for m in metrics if (s, m) not in found]
    return [f"not published, and left out: {', '.join(absent)}"] if absent else []


def _chosen(values: Sequence[str] | None, known: Mapping[str, object], noun: str) -> list[str]:
    """The names meant, each once; empty for every one. Raises UnknownNameError."""
    names = [published.ALIASES.get(word, word) for word in console.words(values)]
    for name in names:
        find({**known, "all": None}, name, f"published {noun}")
    return list(known) if "all" in names else list(dict.fromkeys(names))


def _select(
    rows: _Rows, options: argparse.Namespace, schemes: Sequence[str], metrics: Sequence[str]
) -> _Rows:
    models = _chosen(options.model, dict.fromkeys(BENCHMARK), "model")
    datasets = _chosen(options.dataset, dict.fromkeys(published.DATASETS), "dataset")
    sizes = console.sizes(options.res) or SIZES
    for size in sizes:
        find(dict.fromkeys(map(str, SIZES)), str(size), "published size")
    found = [
        row
        for row in rows
        if (not schemes or row.scheme in schemes)
        and (not metrics or row.metric in metrics)
        and (not models or row.model in models)
        and row.resolution in sizes
        and (isinstance(row, Averaged) or not datasets or row.dataset in datasets)
    ]
    if not found:
        raise EvaluationError("nothing is published for this; k-NN has acc only, and no auc")
    return found


def _csv(rows: _Rows) -> str:
    sink = io.StringIO()
    lines = [asdict(row) for row in rows]
    writer = csv.DictWriter(sink, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue().rstrip("\n")


def _rank(options: argparse.Namespace) -> str:
    if options.model:
        raise UsageError("--rank is among all ten models; drop --model")
    dataset = _single(options.dataset, "--dataset")
    size = _single(options.res, "--res")
    (resolution,) = console.numbers([size], "--res")
    scheme = _single(options.scheme, "--scheme")
    metric = _single(options.metric or ["acc"], "--metric")
    rank = published.rank_among(dataset, resolution, scheme, metric, options.rank)
    if options.json:
        return json.dumps(asdict(rank), indent=1)
    lines = [
        f"{rank.value:.2f} % is rank {rank.rank} of {rank.of}:"
        f" {published.METRICS[rank.metric]}, {published.SCHEMES[rank.scheme]}, {dataset} at"
        f" {resolution} px"
    ]
    for noun, names in (("above", rank.above), ("equal", rank.equal), ("below", rank.below)):
        figures = [_named(rank, name) for name in names]
        lines += [f"{noun}: {', '.join(figures)}"] if names else []
    return "\n".join([*lines, "", f"source: {published.SOURCE}"])


def _named(rank: published.Rank, model: str) -> str:
    row = published.find(rank.dataset, rank.scheme, model, rank.resolution, rank.metric)
    return model if row is None else f"{model} {row.mean:.2f}"


def _single(values: Sequence[str] | None, option: str) -> str:
    names = console.words(values)
    if len(names) != 1:
        raise UsageError(f"--rank needs one {option}; it stands for one dataset, size and scheme")
    return names[0]


def _statistics(options: argparse.Namespace) -> str:
    from evaluate.findings import analysis_facts
    from evaluate.statistics import FACTORS, Correction, Figure, analyse, table_by

    metric = _single_metric(options.metric)
    schemes = _chosen(options.scheme, published.SCHEMES, "scheme")
    rows = _select(published.table(), options, schemes, [metric])
    figures = [
        Figure(r.dataset, r.scheme, r.model, r.resolution, r.mean)
        for r in rows
        if isinstance(r, Published)
    ]
    correction = Correction(options.correction or "bonferroni")
    facts: dict[str, Any] = {}
    texts = [f"{published.METRICS[metric]} (%), published"]
    texts += _lacking(rows, schemes or list(published.SCHEMES), [metric])
    failures = []
    for factor in FACTORS:
        try:
            analysis = analyse(table_by(figures, factor), correction)
        except EvaluationError as error:
            failures.append(str(error))
            facts[factor] = {"error": str(error)}
            texts.append(f"{factor}: not compared; {error}")
            continue
        facts[factor] = analysis_facts(analysis)
        texts.append(statistics_text(analysis))
    if len(failures) == len(FACTORS):
        raise EvaluationError(failures[0])
    if options.json:
        return json.dumps(facts, indent=1)
    return "\n\n".join([*texts, f"source: {published.SOURCE}"])


def _single_metric(values: Sequence[str] | None) -> str:
    metrics = _chosen(values, published.METRICS, "metric") or ["acc"]
    if len(metrics) > 1:
        raise UsageError("--statistics are of one --metric")
    return metrics[0]


def statistics_text(analysis: Analysis) -> str:
    """An analysis in words and numbers."""
    from evaluate.statistics import ALPHA

    table, after = analysis.table, analysis.post_hoc
    n = len(table.blocks)
    lines = [f"{table.factor}: n = {n} {table.unit}s, each value the {table.over}"]
    if table.left_out:
        lines.append(f"left out, since they lack figures: {', '.join(table.left_out)}")
    if analysis.friedman is not None:
        test = analysis.friedman
        verdict = "differ" if test.p < ALPHA else "do not differ significantly"
        lines.append(
            f"Friedman: chi2({test.df}) = {test.chi2:.2f}, p = {test.p:.2g}, Kendall's W = "
            f"{test.w:.2f}: the {table.factor}s {verdict}"
        )
    ranks = analysis.friedman.mean_ranks if analysis.friedman else ("",) * len(table.treatments)
    spread = [
        (row.name, *(f"{x:.2f}" for x in (row.q1, row.median, row.q3)), rank and f"{rank:.2f}")
        for row, rank in zip(analysis.quartiles, ranks, strict=True)
    ]
    head = (table.factor, "Q1", "median", "Q3", "mean rank")
    bound = f"p < {after.threshold:.4f}" if after.threshold else f"adjusted p < {ALPHA}"
    how = (
        f"Wilcoxon signed-rank, two-sided, {after.correction.title()} over {len(after.pairs)} pairs"
    )
    found = _matrix(after) if len(after.pairs) > _FEW else _pairs(after)
    return "\n\n".join(
        ["\n".join(lines), console.table(spread, head, "lrrrr"), f"{how} ({bound}):", found]
    )


def _pairs(after: PostHoc) -> str:
    rows = [
        (
            pair.first, pair.second, f"{pair.test.above} of {pair.test.n}", _decimals(pair.test.z),
            f"{pair.test.p:.2g}", f"{pair.adjusted_p:.2g}", _decimals(pair.test.r),
            "no" if pair.higher is None else f"{pair.higher} is higher",
        )
        for pair in after.pairs
    ]  # fmt: skip
    head = ("first", "second", "second higher", "Z", "p", "adjusted p", "r", "significant")
    return console.table(rows, head, "llrrrrrl")


def _matrix(after: PostHoc) -> str:
    """A row per treatment: + where it is significantly above the column, - below."""
    signs = {1: "+", -1: "-", 0: "."}
    cells = [[signs[int(sign)] for sign in row] for row in after.matrix()]
    rows = [[name, *line] for name, line in zip(after.treatments, cells, strict=True)]
    count = sum(pair.higher is not None for pair in after.pairs)
    table = console.table(rows, ["", *after.treatments], "l" + "r" * len(rows))
    return (
        f"{table}\n\n{count} of {len(after.pairs)} pairs differ; + the row is significantly higher"
        " than the column, - lower; each pair's Z, p and r: --json"
    )


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
