"""The pictures of a report that the store is needed for, each of the best that a dataset has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from embedder.datasets import Dataset
from embedder.errors import CasebookError
from embedder.store import Cell, Store
from evaluate.calibration import measure_calibration
from evaluate.gallery import legend
from evaluate.grid import Grid, Item, slug
from evaluate.ledger import Ledger, Line, name_some
from evaluate.maps import embedding_map
from evaluate.reliability import curves
from evaluate.replay import Replay, are_probabilities, replay
from evaluate.report import Part, Picture
from evaluate.schemes import ORDER, replicate_of, scheme_of
from evaluate.sheets import find_images
from evaluate.specimens import Shelf, cases_gallery, dataset_sheet
from evaluate.study import Study

Watch = Callable[[str], object]
"""Told what is done next."""

STEPS = 4
"""How often ``Watch`` is told for each dataset, and once more."""


@dataclass(frozen=True)
class Exhibits:
    """What the sections of these names show, and the datasets as the store describes them."""

    datasets: tuple[Part, ...]
    embeddings: tuple[Part, ...]
    cases: tuple[Part, ...]
    reliability: tuple[Part, ...]
    known: Mapping[str, Dataset]


@dataclass(frozen=True)
class _Shown:
    line: Line
    replay: Replay


@dataclass
class _Found:
    """What was found for the datasets so far: the best vote of each, and the scores whose
    reliability is shown. ``absent`` cells are not in the store as they were, ``changed`` records
    cannot be computed again."""

    cells: dict[str, list[Cell]] = field(default_factory=dict)
    votes: dict[str, _Shown] = field(default_factory=dict)
    scored: list[_Shown] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def exhibit(
    ledger: Ledger, store: Store, words: Sequence[str], data: Path | None, watch: Watch
) -> Exhibits:
    """Draw what the ledger's records are of; what cannot be drawn is said in a sentence.

    ``words`` are datasets as given, paths among them; ``data`` is the folder of MedMNIST+ files.
    """
    found = _Found()
    for name in ledger.study.datasets:
        mine = [line for line in ledger.lines if line.record.dataset == name]
        watch(f"{name}: embeddings")
        found.cells[name] = _cells(mine, store, found.absent)
        _replay_best(name, mine, ledger.study, store, found, watch)
    absent = _said("The store has not, or no more as they were evaluated", found.absent)
    changed = _said("Not to be computed again from the store as it is", found.changed)
    return Exhibits(
        tuple(_sheet(found, words, data)),
        (*_maps(found, watch), *absent),
        (*_galleries(found, words, data, watch), *changed),
        tuple(_reliability(found)),
        {name: cells[0].dataset for name, cells in found.cells.items() if cells},
    )  # fmt: skip


def _said(what: str, names: Sequence[str]) -> list[str]:
    return [f"{what}: {name_some(names)}."] if names else []


def _cells(lines: Sequence[Line], store: Store, absent: list[str]) -> list[Cell]:
    """The stored cells that the records are of, one for each size, the most accurate first."""
    cells: dict[int, Cell] = {}
    for line in sorted(lines, key=_accuracy, reverse=True):
        r = line.record
        if r.size in cells:
            continue
        try:
            cell = store.read(store.path(r.dataset, r.size, r.variant))
        except CasebookError:
            cell = None
        if cell is not None and asdict(cell.header.fingerprint) == r.fingerprint:
            cells[r.size] = cell
        else:
            absent.append(f"{r.variant} {r.dataset} {r.size} px")
    return list(cells.values())


def _replay_best(
    name: str, lines: Sequence[Line], study: Study, store: Store, found: _Found, watch: Watch
) -> None:
    """The best vote, and of votes and probes the best whose scores are probabilities."""
    votes = [line for line in lines if line.record.kind == "knn"]
    shown: dict[str, _Shown | None] = {}
    scored = [line for line in lines if are_probabilities(line.record)]
    wanted = (
        _best(votes, study), _best((line for line in scored if line.record.kind == "knn"), study),
        _best((line for line in scored if line.record.kind == "probe"), study),
    )  # fmt: skip
    for place, line in enumerate(wanted):
        watch(name)
        if line is None:
            continue
        if line.name not in shown:
            shown[line.name] = _replay(line, store, found.changed)
        one = shown[line.name]
        if one is not None and place == 0:
            found.votes[name] = one
        elif one is not None:
            found.scored.append(one)


def _best(lines: Iterable[Line], study: Study) -> Line | None:
    """The first record of the highest mean accuracy; of equal ones a published protocol's.

    Those that all training cases took part in come before the others.
    """

    def worth(line: Line) -> tuple[bool, float, bool]:
        mean = study.by_place[line.place].means["accuracy"]
        is_full = not line.record.protocol.get("shots")
        return is_full, round(mean, 9), line.place[1] in ORDER

    return max(lines, key=worth, default=None)


def _accuracy(line: Line) -> float:
    return line.record.metrics.accuracy


def _replay(line: Line, store: Store, changed: list[str]) -> _Shown | None:
    try:
        return _Shown(line, replay(line.record, store))
    except CasebookError:
        changed.append(str(line))
        return None


def _sheet(found: _Found, words: Sequence[str], data: Path | None) -> list[Part]:
    shelves = [Shelf.of(cells, words, data) for cells in found.cells.values() if cells]
    try:
        drawn = dataset_sheet(shelves) if shelves else None
    except CasebookError as error:
        return [f"The images cannot be shown: {error}."]
    if drawn is None:
        return ["No image is at hand: give --data, or the datasets by their paths."]
    return [dataset_picture(drawn)]


def dataset_picture(drawn: Figure) -> Picture:
    return Picture(
        "datasets", "The datasets",
        "The same test cases at every resolution, one tile as large as another.", drawn,
        images=True,
    )  # fmt: skip


def _maps(found: _Found, watch: Watch) -> list[Part]:
    watch("embeddings in two dimensions")
    cells = [cells[0] for cells in found.cells.values() if cells]
    drawn = embedding_map(cells) if cells else None
    if drawn is None:
        return []
    made = ", ".join(f"{c.dataset.name} by {c.header.variant} at {c.size} px" for c in cells)
    caption = (
        f"Test cases by t-SNE (L. van der Maaten, G. Hinton, JMLR 9, 2008), at most 1,000 of each "
        f"dataset, embedded as in its most accurate result: {made}. Distances between groups and "
        "their sizes mean little in such a map."
    )
    return [Picture("embeddings", "Embeddings in two dimensions", caption, drawn)]


def _galleries(
    found: _Found, words: Sequence[str], data: Path | None, watch: Watch
) -> list[Part]:  # fmt: skip
    parts: list[Part] = []
    for name, vote in found.votes.items():
        watch(f"{name}: cases")
        source, reason = find_images(vote.replay.cell, words, data)
        try:
            drawn = cases_gallery(vote.replay, source) if source is not None else None
        except CasebookError as error:
            drawn, reason = None, str(error)
        if drawn is None:
            parts.append(f"{name}: {reason or 'no case to show'}.")
            continue
        caption = (
            f"{vote.line}: cases "
            "drawn at random among those that were right and those that were wrong, each beside "
            f"its nearest training cases; {legend(vote.replay.cell.dataset.task)}."
        )
        picture = Picture(f"cases-{slug(name)}", f"Right and wrong in {name}", caption, drawn, True)
        parts.append(picture)
    return parts


def _reliability(found: _Found) -> list[Part]:
    try:
        drawn = curves([each.replay for each in found.scored])
    except CasebookError as error:
        return [f"Not drawn: {error}."]
    if drawn is None:
        return []
    caption = (
        "How often came true what was scored so high, for the most accurate k-NN and linear probe "
        "of each dataset whose scores are probabilities: those that thresholds moved are none. On "
        "the diagonal scores are what they say."
    )
    return [
        Picture("reliability", "Reliability of scores", caption, drawn),
        _calibration(found.scored),
    ]


def _calibration(shown: Sequence[_Shown]) -> Grid:
    rows = []
    for each in shown:
        again, r = each.replay, each.line.record
        task, classes = again.cell.dataset.task, again.cell.dataset.classes
        found = measure_calibration(again.labels, again.scores, task, classes)
        drawn = replicate_of(r)
        facts = (r.dataset, scheme_of(r)[1], r.variant, f"{r.size} px",
                 "-" if drawn is None else str(drawn))  # fmt: skip
        figures = (found.ece, found.classwise_ece, found.brier)
        items = (Item(f"{figure:.4f}", (each.line.name,)) for figure in figures)
        rows.append((*map(Item, facts), *items))
    head = ("dataset", "scheme", "model", "resolution", "seed or draw", "ECE", "ECE by class",
            "Brier score")  # fmt: skip
    notes = ("ECE: expected calibration error, 15 bins; lower is better.",)
    return Grid(
        "calibration", "Calibration", head, tuple(rows), "lllrrrrr", 1, notes
    )  # fmt: skip
