"""From a study, its findings and its pictures to a report: what stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from embedder.datasets import Dataset
from evaluate import summaries
from evaluate.charts import distributions, improvements
from evaluate.exhibits import Exhibits
from evaluate.findings import Finding
from evaluate.grid import Grid
from evaluate.heatmaps import top_five
from evaluate.ledger import Ledger
from evaluate.report import Heading, Part, Picture, Report, Section
from evaluate.study import Study

_CITATION = (
    "The protocol, the tables and the figures follow Doerrich, Di Salvo, Brockmann, Ledig, "
    "Scientific Reports 15, 7669 (2025), doi 10.1038/s41598-025-92156-9. docs/evaluation.md says "
    "how each figure is defined, and what deviates."
)

_NO_STORE = "These are published figures; there are no embeddings to draw."


def compose(
    study: Study,
    findings: Sequence[Finding],
    ledger: Ledger | None,
    exhibits: Exhibits | None,
    sheet: Sequence[Part] = (),
    *,
    against: bool = False,
) -> Report:
    """The report of a study.

    ``ledger`` and ``exhibits`` are None for published figures, which have neither records nor
    embeddings; then ``sheet`` are the parts about the datasets' images. ``against`` asks for a
    comparison with the published figures.
    """
    known: Mapping[str, Dataset] = exhibits.known if exhibits else {}
    numbers = {line.name: n for n, line in enumerate(ledger.lines, 1)} if ledger else {}
    sections = [
        Section("summary", "Summary", _summary(study)),
        Section("distribution", "Distribution over datasets", _distribution(study)),
        Section("resolution", "Gain by resolution", _resolution(study)),
        Section("best", "Most accurate models", _best(study)),
        Section("statistics", "Do they differ?", _statistics(findings)),
    ]
    if against and ledger:
        parts = (summaries.standings(ledger),)
        sections.append(Section("published", "Against the published", parts))
    images = exhibits.datasets if exhibits else tuple(sheet)
    described = (summaries.datasets(study, known), *images)
    sections.append(Section("datasets", "Datasets", described))
    for anchor, title in (
        ("embeddings", "Embeddings"), ("cases", "Right and wrong cases"),
        ("reliability", "Reliability"),
    ):  # fmt: skip
        shown = getattr(exhibits, anchor) if exhibits else (_NO_STORE,)
        sections.append(Section(anchor, title, shown or ("There is nothing to draw.",)))
    sections += [
        Section("per-dataset", "Each dataset", tuple(summaries.per_dataset(study))),
        Section("sources", "Sources", _sources(study, ledger)),
    ]
    return Report(study.title, _lead(study), tuple(sections), numbers)


def _lead(study: Study) -> tuple[str, ...]:
    sizes = ", ".join(map(str, study.resolutions))
    counts = (
        f"{_count(len(study.datasets), 'dataset')}, {_count(len(study.models), 'model')}, "
        f"{_count(len(study.schemes), 'scheme')}, at {sizes} px: "
        f"{len(study.figures()):,} accuracies. {_winner(study)}"
    )
    return counts, _CITATION


def _winner(study: Study) -> str:
    """The highest mean accuracy over all datasets."""
    means: dict[str, float] = {}
    for scheme, name in study.schemes.items():
        for model in study.models:
            for size in study.resolutions:
                places = [(dataset, scheme, model, size) for dataset in study.datasets]
                found = [study.by_place[p].means for p in places if p in study.by_place]
                known = [each["accuracy"] for each in found if "accuracy" in each]
                if len(known) == len(places):
                    means[f"{model}, {name}, {size} px"] = round(fmean(known), 2)
    if not means:
        return "No model has a figure for every dataset, so none is the best over all."
    highest = max(means.values())
    names = "; ".join(name for name, mean in means.items() if mean == highest)
    return f"The highest mean accuracy is {highest:.2f} %: {names}."


def _summary(study: Study) -> tuple[Part, ...]:
    gaps = summaries.missing(study)
    return (*study.remarks, *summaries.summary(study), *([gaps] if gaps else []))


def _distribution(study: Study) -> tuple[Part, ...]:
    drawn = distributions(study.figures(), study.schemes, "accuracy")
    caption = (
        "Accuracy of each model by scheme and resolution, over the datasets: median, quartiles, "
        "whiskers to the furthest dataset within 1.5 interquartile ranges; a dot is a dataset."
    )
    return (Picture("distribution", "Accuracy over the datasets", caption, drawn),)


def _resolution(study: Study) -> tuple[Part, ...]:
    drawn = improvements(study.figures(), study.schemes)
    if drawn is None:
        return ("No dataset has two resolutions of one model and scheme.",)
    caption = "On how many datasets accuracy rose from one resolution to the next."
    return (Picture("resolution", "Gain by resolution", caption, drawn),)


def _best(study: Study) -> tuple[Part, ...]:
    drawn = top_five(study.figures(), study.schemes)
    if drawn is None:
        return ("There is nothing to compare: it takes two models with the same settings.",)
    caption = (
        "How often a model is among the most accurate: over all settings, by scheme, and by scheme "
        "and resolution. A setting is a dataset with a scheme and a resolution."
    )
    return (Picture("best", "Most accurate models", caption, drawn),)


def _statistics(findings: Sequence[Finding]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for finding in findings:
        parts += [Heading(f"{finding.factor.capitalize()}s"), " ".join(finding.sentences)]
        parts += finding.grids
    return tuple(parts)


def _sources(study: Study, ledger: Ledger | None) -> tuple[Part, ...]:
    if ledger is None:
        return (
            f"Every figure is of {study.source}. Sources count the figures of that file in their "
            "order; figures.csv has one line for each.",
        )
    grid: Grid = summaries.records(ledger)
    return (
        f"Every figure is of the result records in {study.source}. A figure in a table above is a "
        "link to its record, or names the records that it is a mean of; figures.csv has the files "
        "of each, unrounded.",
        grid,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
