from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from embedder.errors import EvaluationError
from embedder.store import Store
from embedder.types import Labels, Scores, Split, Task
from evaluate.calibration import Bin, reliability
from evaluate.knn import Protocol, evaluate
from evaluate.logistic import LogisticProtocol
from evaluate.probing import Probing
from evaluate.probing import evaluate as probe
from evaluate.reliability import curves, pool
from evaluate.replay import Replay, replay
from tests.evaluate.conftest import CellMaker
from tests.evaluate.figures import crowded, words

ROWS = 60


@pytest.fixture
def replays(make_cell: CellMaker, store: Store) -> dict[str, list[Replay]]:
    """A vote and a probe on a small cell of each task."""
    rng = np.random.default_rng(2)
    found = {}
    for task in (Task.BINARY, Task.MULTICLASS, Task.MULTILABEL):
        classes = ("no $ sign", "mass^{") if task is Task.BINARY else ("ant", "bee", "cat")
        numbers = rng.integers(0, len(classes), 2 * ROWS)
        labels = numbers[:, None].astype(np.uint8)
        if task is Task.MULTILABEL:
            labels = rng.integers(0, 2, (2 * ROWS, 3)).astype(np.uint8)
        means = labels if task is Task.MULTILABEL else np.eye(len(classes))[numbers]
        vectors = 2 * means + rng.normal(0, 1, means.shape)
        cell = make_cell(
            vectors[:ROWS], labels[:ROWS], vectors[ROWS:], labels[ROWS:],
            name=str(task), task=task, classes=classes,
        )  # fmt: skip
        records = [
            *evaluate(cell, Protocol((5,))),
            *probe(cell, Probing(LogisticProtocol(cs=(1.0,))), store.root),
        ]
        found[str(task)] = [replay(record, store) for record in records]
    return found


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    assert crowded(figure) == []
    return figure


def scored(labels: Labels, scores: Scores, task: Task) -> tuple[list[float], list[bool]]:
    """What was scored, and whether it came true, case by case."""
    said: list[float] = []
    came: list[bool] = []
    for label, score in zip(labels.tolist(), scores.tolist(), strict=True):
        if task is Task.BINARY:
            said.append(score[1])
            came.append(label[0] == 1)
        elif task is Task.MULTILABEL:
            said += score
            came += [bit == 1 for bit in label]
        else:
            best = score.index(max(score))
            said.append(score[best])
            came.append(label[0] == best)
    return said, came


def binned(said: list[float], came: list[bool]) -> list[tuple[int, float, float, int]]:
    """Number, mean score, share and count of each of 15 bins that has a case, one by one."""
    places = [max(1, int(np.ceil(round(score * 15, 9)))) for score in said]
    found = []
    for place in sorted(set(places)):
        here = [number for number, other in enumerate(places) if other == place]
        scores = [said[number] for number in here]
        shares = [came[number] for number in here]
        found.append((place, sum(scores) / len(here), sum(shares) / len(here), len(here)))
    return found


def error(said: list[float], came: list[bool]) -> float:
    return sum(
        count / len(said) * abs(score - share) for _, score, share, count in binned(said, came)
    )


def expected_error(each: Replay) -> float:
    task = each.cell.dataset.task
    if task is not Task.MULTILABEL:
        return error(*scored(each.labels, each.scores, task))
    columns = zip(each.labels.T, each.scores.T, strict=True)
    return float(np.mean([error(s.tolist(), (y == 1).tolist()) for y, s in columns]))


def panels(figure: Figure) -> list[tuple[Axes, Axes]]:
    """The curves and the counts of each panel."""
    shown = [axes for axes in figure.axes if axes.axison]
    return list(zip(shown[::2], shown[1::2], strict=True))


def lines(axes: Axes) -> list[list[tuple[float, float]]]:
    """The curves, without the diagonal and the single marks."""
    found = [list(zip(*line.get_data(), strict=True)) for line in axes.lines[1:]]
    return [line for line in found if len(line) > 1]


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.MULTILABEL])
def test_curves_are_those_of_the_scores(replays: dict[str, list[Replay]], task: Task) -> None:
    figure = drawn(curves(replays[task]))
    ((above, below),) = panels(figure)
    assert above.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    found = lines(above)
    assert len(found) == 2
    heights = [patch.get_height() for patch in below.patches if isinstance(patch, Rectangle)]
    for number, (line, each) in enumerate(zip(found, replays[task], strict=True)):
        said, came = scored(each.labels, each.scores, task)
        bins = binned(said, came)
        assert np.array(line) == pytest.approx(np.array([part[1:3] for part in bins]))
        counts = [0] * 15
        for place, *_, count in bins:
            counts[place - 1] = count
        assert heights[15 * number : 15 * (number + 1)] == counts
        name = ("k-NN, k = 5", "logistic regression, cs 1.0")[number]
        assert f"ECE {expected_error(each):.3f}: {name}, hog 28 px" in words(figure)


def test_marks_of_few_scores_are_empty(replays: dict[str, list[Replay]]) -> None:
    vote = replays["multi-class"][0]
    ((above, _),) = panels(drawn(curves([vote])))
    bins = binned(*scored(vote.labels, vote.scores, Task.MULTICLASS))
    marks = [line for line in above.lines if line.get_marker() == "o"]
    empty = [line.get_markerfacecolor() == "white" for line in marks]
    assert empty == [count < 10 for *_, count in bins]
    assert {True, False} == set(empty)


def test_curves_differ_in_shape_and_line(replays: dict[str, list[Replay]]) -> None:
    first, second = replays["binary"]
    ((above, _),) = panels(drawn(curves([first, second])))
    assert {line.get_marker() for line in above.lines} == {"None", "o", "s"}
    styles = [line for line in above.lines[1:] if len(line.get_xdata()) > 1]
    assert len({line.get_linestyle() for line in styles}) == 2
    assert len({line.get_color() for line in styles}) == 2


def test_a_panel_for_each_dataset_and_split(replays: dict[str, list[Replay]]) -> None:
    vote = replays["binary"][0]
    other = replace(vote, record=replace(vote.record, split=str(Split.VAL)))
    figure = drawn(curves([*replays["multi-label"], vote, *replays["multi-class"], other]))
    assert len(panels(figure)) == 4
    shown = words(figure)
    assert shown.count("binary") == 2
    assert {"60 test cases", "60 val cases"} <= set(shown)
    assert {"score of mass^{", "score of the predicted class"} <= set(shown)
    assert "score of a label, all labels pooled" in shown


def test_a_seed_is_named(replays: dict[str, list[Replay]]) -> None:
    head = replays["binary"][1]
    seeded = replace(head.record, protocol={**head.record.protocol, "seed": 7})
    shown = words(drawn(curves([replace(head, record=seeded)])))
    assert any(text.endswith("cs 1.0, seed 7, hog 28 px") for text in shown)


def test_many_records_of_one_dataset(replays: dict[str, list[Replay]]) -> None:
    vote = replays["binary"][0]
    variant = "a-variant-with-a-very-long-name-that-goes-on-and-on-and-on-for-ever"
    long = replace(vote, record=replace(vote.record, variant=variant))
    figure = drawn(curves([long] * 9))
    ((above, below),) = panels(figure)
    assert len(lines(above)) == 9
    assert len(below.patches) == 9 * 15
    assert sum(text.endswith("…") for text in words(figure)) == 9


def test_nothing_to_draw() -> None:
    assert curves([]) is None


def test_scores_that_are_no_probabilities(replays: dict[str, list[Replay]]) -> None:
    vote = replays["binary"][0]
    with pytest.raises(EvaluationError, match="a probability is in"):
        curves([replace(vote, scores=vote.scores * 3)])


@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_pooled_labels_are_one_curve(seed: int, rows: int, columns: int, shares: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, columns))
    if shares:
        scores = np.round(scores * 11) / 11
    outcomes = rng.random((rows, columns)) < 0.5
    found = pool([reliability(*pair) for pair in zip(scores.T, outcomes.T, strict=True)])
    expected = reliability(scores.ravel(), outcomes.ravel())
    assert [(part.low, part.high, part.count) for part in found] == [
        (part.low, part.high, part.count) for part in expected
    ]
    for part, whole in zip(found, expected, strict=True):
        assert part.confidence == pytest.approx(whole.confidence, abs=1e-12)
        assert part.observed == pytest.approx(whole.observed, abs=1e-12)


def test_pooled_by_hand() -> None:
    one = (Bin(0, 0.5, 3, 0.2, 1 / 3), Bin(0.5, 1, 0, None, None))
    other = (Bin(0, 0.5, 1, 0.4, 1.0), Bin(0.5, 1, 0, None, None))
    assert pool([one, other]) == (
        Bin(0, 0.5, 4, pytest.approx(0.25), pytest.approx(0.5)), Bin(0.5, 1, 0, None, None),
    )  # fmt: skip
