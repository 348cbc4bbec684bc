"""``casebook report``: the whole study as one page, with its tables and figures as files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.types import Split

if TYPE_CHECKING:
    from evaluate.findings import Finding
    from evaluate.ledger import Line
    from evaluate.report import Part, Report
    from evaluate.study import Study


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook report",
        "The study that the result records make: one page (report.html), and its tables and "
        "figures as files.",
    )
    parser.add_argument(
        "--source", choices=("records", "published"), default="records",
        help="published: the same report of the published benchmark (default records)",
    )  # fmt: skip
    console.add_list(parser, "--model", "NAME", "only this variant")
    console.add_list(parser, "--dataset", "NAME", "only this dataset; a path finds its images")
    console.add_list(parser, "--res", "PX", "only this side length")
    parser.add_argument(
        "--split", choices=list(map(str, Split)), help="records of this split (default test)"
    )
    parser.add_argument(
        "--correction", choices=("bonferroni", "holm"), default="bonferroni",
        help="of the statistics, for many comparisons (default bonferroni)",
    )  # fmt: skip
    parser.add_argument(
        "--against", choices=("published",),
        help="a table with the published figures and the rank among their ten models",
    )  # fmt: skip
    console.add_folders(parser, data=True)
    parser.add_argument(
        "--results", type=console.folder, metavar="DIR",
        help="result records (default STORE/results)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=console.folder, default=Path("report"), metavar="DIR",
        help="a new folder, or that of an earlier report (default report)",
    )  # fmt: skip
    return parser


def _handle(options: argparse.Namespace) -> int:
    from evaluate import bundle

    if options.source == "published":
        given = ("model", "dataset", "res", "split", "against", "store", "results")
        for name in given:
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} is for result records; drop it, or --source published")
        bundle.check(options.out)
        page = _of_published(options)
    else:
        bundle.check(options.out)
        page = _of_records(options)
    print(f"wrote {page}")
    return 0


def _of_published(options: argparse.Namespace) -> Path:
    from evaluate.chapters import compose
    from evaluate.study import of_published

    study = of_published()
    found = _findings(study, options)
    report = compose(study, found, None, None, _published_sheet(study, options.data))
    return _write(report, study, found, options)


def _of_records(options: argparse.Namespace) -> Path:
    from embedder.store import Store, default_root
    from evaluate.chapters import compose
    from evaluate.exhibits import STEPS, exhibit
    from evaluate.ledger import gather

    store = Store(options.store or default_root())
    folder = options.results or store.root / "results"
    lines = _chosen(_read(folder), options)
    ledger = gather(lines, str(folder), options.split or "test")
    paths = [word for word in console.words(options.dataset)]
    with _watched("drawing", STEPS * len(ledger.study.datasets) + 1) as watch:
        exhibits = exhibit(ledger, store, paths, options.data, watch)
    found = _findings(ledger.study, options)
    report = compose(
        ledger.study, found, ledger, exhibits, against=options.against is not None
    )  # fmt: skip
    return _write(report, ledger.study, found, options)


def _read(folder: Path) -> list[Line]:
    """Every record that can be read; one that cannot is named in a warning."""
    from evaluate import results
    from evaluate.ledger import Line

    lines = []
    for path in results.paths(folder):
        try:
            (record,) = results.read([path])
        except EvaluationError as error:
            print(f"warning: left out: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        lines.append(Line(path.name, record))
    if not lines:
        raise EvaluationError(
            f"there is no result record in {folder}; run knn-eval or probe-eval first, or give "
            "--store or --results"
        )
    return lines


def _chosen(lines: list[Line], options: argparse.Namespace) -> list[Line]:
    from embedder.backbones import BENCHMARK
    from embedder.registry import find
    from embedder.selection import stored_names

    datasets = stored_names(options.dataset, {line.record.dataset for line in lines})
    models = {line.record.variant for line in lines}
    asked = set(console.words(options.model))
    for name in sorted(asked - {"all"}):
        find(dict.fromkeys(sorted(models)), name, "model with results")
    wanted = (asked - {"all"}) | (set(BENCHMARK) if "all" in asked else set())
    sizes = console.sizes(options.res)
    kept = [
        line for line in lines
        if (not datasets or line.record.dataset in datasets)
        and (not wanted or line.record.variant in wanted)
        and (not sizes or line.record.size in sizes)
    ]  # fmt: skip
    if not kept:
        raise EvaluationError("no result record matches --dataset, --model and --res")
    return kept


def _findings(study: Study, options: argparse.Namespace) -> list[Finding]:
    from evaluate.findings import findings
    from evaluate.statistics import Correction

    return findings(study, Correction(options.correction))


def _published_sheet(study: Study, data: Path | None) -> list[Part]:
    """Example images of the published datasets, as far as their files are at hand."""
    from embedder.datasets import DATASETS, ImageSource
    from embedder.sources import library_from_environment
    from evaluate.exhibits import dataset_picture
    from evaluate.specimens import Shelf, dataset_sheet

    shelves = []
    for name in study.datasets:
        library = library_from_environment(data, DATASETS[name].task)
        sources: dict[int, ImageSource | None] = dict.fromkeys(study.resolutions)
        for size in study.resolutions:
            try:
                if library.is_here(name, size):
                    sources[size] = library.open(name, size)
            except CasebookError as error:
                print(f"warning: {name} {size} px: {error}", file=sys.stderr)
        shelves.append(Shelf(DATASETS[name], sources))
    drawn = dataset_sheet(shelves)
    if drawn is None:
        return ["No image is at hand; --data is the folder of MedMNIST+ files."]
    return [dataset_picture(drawn)]


def _write(
    report: Report, study: Study, found: list[Finding], options: argparse.Namespace
) -> Path:  # fmt: skip
    from evaluate import bundle
    from evaluate.summaries import figures_csv

    statistics: dict[str, Any] = {each.factor: each.facts for each in found}
    count = 2 * (len(list(report.grids())) + len(list(report.pictures()))) + 4
    with _watched("writing", count) as watch:
        return bundle.write(report, figures_csv(study), statistics, options.out, watch)


@contextmanager
def _watched(noun: str, count: int) -> Iterator[Callable[[str], object]]:
    """A progress bar that counts what it is told."""
    from tqdm import tqdm

    with tqdm(desc=noun, total=count, unit=" steps", disable=None, leave=False) as bar:

        def tell(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        yield tell


if __name__ == "__main__":
    sys.exit(main())
