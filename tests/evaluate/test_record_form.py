from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import EvaluationError
from embedder.store import Store
from embedder.types import Distance, Split, Task
from evaluate import results
from evaluate.compare_cli import main
from evaluate.knn import Protocol, evaluate, evaluate_best
from evaluate.logistic import LogisticProtocol
from evaluate.probe import ProbeProtocol
from evaluate.probing import Probing
from evaluate.probing import evaluate as probe
from evaluate.record_form import check
from evaluate.results import Record
from evaluate.shots import evaluate_shots
from evaluate.thresholds import Criterion
from index.vote import VOTES, SoftmaxVote, vote_of
from tests.evaluate.conftest import CellMaker, failure, write_record

Facts = dict[str, Any]

INTERVAL = {
    "estimate": 0.5, "low": 0.4, "high": 0.6, "level": 0.95, "resamples": 100, "seed": 0,
    "undefined": 0, "notes": [],
}  # fmt: skip

ADAMW = {
    "notes": [], "solver": "adamw", "seeds": [1, 2], "learning_rates": [1e-4],
    "weight_decays": [0.01], "batch": 64, "epochs": 100, "patience": 5, "schedule": "cosine",
    "seed": 1, "learning_rate": 1e-4, "weight_decay": 0.01, "best_epoch": 3, "loss": 0.5,
    "head": "heads/toy/28/hog/adamw-1.safetensors",
}  # fmt: skip


def knn() -> Facts:
    found: Facts = json.loads(write_record().to_json())
    found["confusion"] = [[[1990, 0, 0], [0, 8, 0], [0, 1, 1]]]
    found["intervals"] = {"accuracy": dict(INTERVAL)}
    return found


def adamw() -> Facts:
    return knn() | {"kind": "probe", "protocol": copy.deepcopy(ADAMW)}


def edited(facts: Facts, place: str, value: object) -> Facts:
    """With another value at ``a.b.c``, or without it where that is ``...``."""
    *way, last = place.split(".")
    part = facts
    for name in way:
        part = part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return facts


def complaint(facts: object) -> str:
    with pytest.raises(EvaluationError) as caught:
        Record.from_json(json.dumps(facts))
    text = str(caught.value)
    assert text.startswith("it is no result record (")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("facts", [knn(), adamw()])
def test_what_is_edited_here_is_a_record(facts: Facts) -> None:
    assert json.loads(Record.from_json(json.dumps(facts)).to_json()) == facts


WRONG: list[tuple[str, object]] = [
    ("kind", "zero"), ("kind", []), ("kind", None),
    ("created", 5), ("created", "yesterday"),
    ("dataset", 5), ("dataset", ""), ("dataset", "../toy"), ("dataset", "a\0b"),
    ("variant", None), ("variant", ".."), ("variant", "x" * 300),
    ("task", "zero-shot"), ("task", ["binary"]),
    ("size", "28"), ("size", 0), ("size", 28.5), ("size", True), ("size", None),
    ("split", "dev"), ("split", ["test"]),
    ("protocol", []), ("protocol", None), ("protocol", {}),
    ("counts", None), ("counts", {}), ("counts.queries", ...), ("counts.queries", -1),
    ("counts.support", "100"), ("counts.classes", 3.0), ("counts.erased", None),
    ("counts.queries", True),
    ("metrics", []), ("metrics.accuracy", 5), ("metrics.accuracy", -0.1),
    ("metrics.accuracy", None), ("metrics.accuracy", "0.5"), ("metrics.accuracy", True),
    ("metrics.accuracy", float("nan")), ("metrics.auc", float("inf")), ("metrics.auc", 1.5),
    ("metrics.kappa", -1.5), ("metrics.kappa", 1.5), ("metrics.precision", 2),
    ("metrics.balanced_accuracy", ...), ("metrics.notes", "one"), ("metrics.notes", [1]),
    ("fingerprint", None), ("fingerprint", {}), ("fingerprint.checkpoint", 5),
    ("fingerprint.width", [324]),
    ("timings.search", "fast"), ("timings", []), ("versions.numpy", 2),
    ("embedding_versions", "torch"),
    ("confusion", {}), ("confusion", []), ("confusion", [[[1, 2], [3, 4]]]),
    ("confusion", [[[2000, 0, 0], [0, 0, 0]]]), ("confusion", [[[2000, 0], [0, 0, 0], [0, 0, 0]]]),
    ("confusion", [[[2001, 0, 0], [0, -1, 0], [0, 0, 0]]]),
    ("confusion", [[[1999, 0, 0], [0, 0, 0], [0, 0, 0]]]),
    ("intervals", []), ("intervals", {"accuracy": None}), ("intervals", {"kappa": INTERVAL}),
    ("intervals.speed", INTERVAL), ("intervals.accuracy.low", 0.7),
    ("intervals.accuracy.high", None), ("intervals.accuracy.level", 95),
    ("intervals.accuracy.resamples", 0), ("intervals.accuracy.notes", None),
]  # fmt: skip

WRONG_KNN: list[tuple[str, object]] = [
    ("protocol.vote", ...), ("protocol.vote", "loudest"), ("protocol.vote", []),
    ("protocol.k", "5"), ("protocol.k", 0), ("protocol.k", ...), ("protocol.k", 5.0),
    ("protocol.distance", "manhattan"), ("protocol.distance", ...),
    ("protocol.temperature", 0.07), ("protocol.temperature", "warm"), ("protocol.temperature", ...),
    ("protocol.vote", "softmax"), ("protocol.leave_one_out", "no"), ("protocol.support", "val"),
    ("protocol.priors", "flat"), ("protocol.thresholds", []),
    ("protocol.thresholds", {"criterion": "f1"}),
    ("protocol.thresholds", {"criterion": "luck", "values": [0.5], "notes": []}),
    ("protocol.thresholds", {"criterion": "f1", "values": ["0.5"], "notes": []}),
    ("protocol.shots", 4), ("protocol.shots", "4"), ("protocol.draw", 0), ("protocol.k_from", [1]),
    ("protocol.k_from", "1"), ("protocol.k_by", "val auc"), ("protocol.k_asked", "11"),
    ("protocol.anything", 1),
]  # fmt: skip

WRONG_PROBE: list[tuple[str, object]] = [
    ("protocol.head", ...), ("protocol.head", 5), ("protocol.head", "/etc/passwd"),
    ("protocol.head", "heads/../../x"), ("protocol.head", "a\0b"),
    ("protocol.solver", ...), ("protocol.solver", "sgd"), ("protocol.solver", "lbfgs"),
    ("protocol.seed", None), ("protocol.seed", "1"), ("protocol.seeds", []),
    ("protocol.seeds", 3), ("protocol.learning_rates", ["1e-4"]), ("protocol.learning_rates", ...),
    ("protocol.weight_decays", None), ("protocol.epochs", 0), ("protocol.batch", 64.5),
    ("protocol.notes", ...), ("kind", "knn"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_field_of_another_form_is_named(place: str, value: object) -> None:
    for made in (knn, adamw):
        text = complaint(edited(made(), place, value))
        assert place.split(".")[-1 if value is ... else 0] in text


@pytest.mark.parametrize(("place", "value"), WRONG_KNN)
def test_a_protocol_of_another_form_is_named(place: str, value: object) -> None:
    assert "protocol" in complaint(edited(knn(), place, value))


@pytest.mark.parametrize(("place", "value"), WRONG_PROBE)
def test_a_probe_of_another_form_is_named(place: str, value: object) -> None:
    assert "protocol" in complaint(edited(adamw(), place, value))


def test_what_a_complaint_says() -> None:
    said = {
        "protocol.vote: Field required": edited(knn(), "protocol.vote", ...),
        "size: Input should be a valid integer, not '28'": edited(knn(), "size", "28"),
        "split: Input should be 'train', 'val' or 'test', not 'dev'": edited(knn(), "split", "dev"),
        "dataset: a name has no slash, not '../toy'": edited(knn(), "dataset", "../toy"),
        "its confusion is not of 2000 queries": edited(
            knn(), "confusion", [[[1, 0, 0], [0, 0, 0], [0, 0, 0]]]
        ),
        "intervals.accuracy: its low is above its high": edited(
            knn(), "intervals.accuracy.low", 0.7
        ),
    }
    for text, facts in said.items():
        assert complaint(facts) == f"it is no result record ({text})"
    assert "'knn', 'probe'" in complaint(edited(knn(), "kind", "zero"))
    assert len(complaint(edited(knn(), "created", "x" * 10_000))) < 200


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_deep_record(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for text in (deep, knn_text_with(deep)):
        with pytest.raises(EvaluationError, match="it is no result record"):
            Record.from_json(text)


def knn_text_with(value: str) -> str:
    return json.dumps(edited(knn(), "protocol.deep", "HERE")).replace('"HERE"', value)


@pytest.mark.parametrize("figure", ["1e999", "-1e999", "NaN", "1" * 400, "1" * 5000])
def test_no_number(figure: str) -> None:
    text = json.dumps(edited(knn(), "timings.search", "HERE")).replace('"HERE"', figure)
    accuracy = json.dumps(edited(knn(), "metrics.accuracy", "HERE")).replace('"HERE"', figure)
    with pytest.raises(EvaluationError, match="it is no result record"):
        Record.from_json(accuracy)
    if figure != "1" * 400:  # seconds have no end
        with pytest.raises(EvaluationError, match="it is no result record"):
            Record.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(made=st.sampled_from([knn, adamw]), data=st.data())
def test_whatever_stands_in_a_field(made: Any, data: st.DataObject) -> None:
    """What is read can be written and shown; all else is refused."""
    facts = made()
    names = [*facts, *(f"{name}.{key}" for name in ("protocol", "counts", "metrics", "fingerprint")
                       for key in facts[name])]  # fmt: skip
    place, value = data.draw(st.sampled_from(names)), data.draw(JSON)
    text = json.dumps(edited(facts, place, value))
    with contextlib.suppress(EvaluationError):
        assert json.loads(Record.from_json(text).to_json()) == json.loads(text)


def test_records_of_before_a_field_came() -> None:
    facts = knn()
    for place in ("intervals", "confusion", "counts.erased"):
        edited(facts, place, ...)
    record = Record.from_json(json.dumps(facts))
    assert (record.intervals, record.confusion, record.counts["erased"]) == (None, None, 0)


def test_every_figure_at_its_bounds() -> None:
    for name in ("accuracy", "balanced_accuracy", "precision", "auc", "kappa"):
        for value in (0, 1, 0.0, 1.0, *([-1] if name == "kappa" else [])):
            check(edited(knn(), f"metrics.{name}", value))
        if name != "accuracy":
            check(edited(knn(), f"metrics.{name}", None))


def test_every_vote_is_known() -> None:
    for name in VOTES:
        temperature = 0.07 if isinstance(vote_of(name), SoftmaxVote) else None
        check(json.loads(write_record(vote=name, temperature=temperature).to_json()))
    for distance in Distance:
        check(json.loads(write_record(distance=str(distance)).to_json()))


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_whatever_casebook_writes_is_read(store: Store, make_cell: CellMaker, task: Task) -> None:
    rng = np.random.default_rng(0)
    if task is Task.MULTILABEL:
        labels, truths = rng.integers(0, 2, (60, 3)), rng.integers(0, 2, (30, 3))
    else:
        labels, truths = np.arange(60) % 3, np.arange(30) % 3
    cell = make_cell(
        rng.standard_normal((60, 4)), labels, rng.standard_normal((30, 4)), truths, task=task
    )
    criterion = Criterion.F1 if task is Task.MULTILABEL else None
    protocol = Protocol((1, 3), resamples=20, uniform_priors=True, thresholds=criterion)
    records = [
        *evaluate(cell, protocol),
        *evaluate(cell, Protocol((3,), Distance.EUCLIDEAN, SoftmaxVote(), Split.TRAIN)),
        *evaluate_best(cell, replace(protocol, resamples=0)),
        *evaluate_shots(cell, Protocol((5,)), (2,), 2),
        *probe(cell, Probing(ProbeProtocol(epochs=2), resamples=20), store.root),
        *probe(cell, Probing(LogisticProtocol(cs=(1.0, 10.0))), store.root),
    ]
    assert [Record.from_json(record.to_json()) for record in records] == [
        json_like(record) for record in records
    ]


def json_like(record: Record) -> Record:
    """With lists for tuples, as JSON gives them back."""
    bounds = json.loads(json.dumps(record.intervals))
    return replace(record, intervals=bounds)


def test_compare_refuses_in_one_line(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 0]], [0])
    (good,) = results.append(store.root / "results", evaluate(cell, Protocol((1,))))
    bad = tmp_path / "bad.json"
    for place, value in (*WRONG, *WRONG_KNN):
        facts = json.loads(good.read_text())
        if place.startswith("intervals."):
            continue
        bad.write_text(json.dumps(edited(facts, place, value)))
        assert main(["--store", str(store.root), str(good), str(bad)]) == 1
        assert failure(capsys).startswith(f"error: {bad}: it is no result record (")
