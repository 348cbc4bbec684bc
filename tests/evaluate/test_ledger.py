from __future__ import annotations

from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import EvaluationError
from evaluate.ledger import Ledger, Line, gather
from evaluate.results import Record
from tests.evaluate.conftest import RecordMaker, write_record


def ledger(*records: Record, split: str = "test") -> Ledger:
    lines = [Line(f"record-{number}.json", record) for number, record in enumerate(records)]
    return gather(lines, "somewhere", split)


def test_each_place_is_an_entry_in_percent_with_its_source(make_record: RecordMaker) -> None:
    made = ledger(make_record(accuracy=0.75), make_record(dataset="zoo", accuracy=0.5, auc=0.9))
    toy, zoo = made.study.entries
    assert (toy.place, toy.means["accuracy"], toy.sources) == (
        ("toy", "knn", "hog", 28), 75.0, ("record-0.json",)
    )  # fmt: skip
    assert "auc" not in toy.means
    assert zoo.means["auc"] == pytest.approx(90)
    assert [line.name for line in made.of(zoo)] == ["record-1.json"]
    assert made.study.remarks == ()


def test_draws_are_one_figure_with_their_deviation(make_record: RecordMaker) -> None:
    found = [0.5, 0.6, 0.9]
    records = [
        make_record(accuracy=x, shots=2, k=2, draw=n, auc=None if n else 0.7)
        for n, x in enumerate(found)
    ]
    (entry,) = ledger(*records).study.entries
    assert entry.means["accuracy"] == pytest.approx(200 / 3)
    assert entry.deviations["accuracy"] == pytest.approx(100 * stdev(found))
    assert entry.replicates == 3
    assert "auc" not in entry.means  # undefined for some


def test_the_latest_record_counts_and_a_difference_is_told(make_record: RecordMaker) -> None:
    old = make_record(accuracy=0.2, created="2026-01-01")
    new = make_record(accuracy=0.3, created="2026-01-02")
    for records in ((old, new), (new, old)):
        made = ledger(*records)
        assert made.study.entries[0].means["accuracy"] == pytest.approx(30)
        assert made.study.remarks == (
            "1 older record is left out for a later one.",
            "Where a later record has other figures: toy, k-NN (k = 11), hog, 28 px.",
        )
    assert ledger(old, replace(old, created="2026-02-01")).study.remarks == (
        "1 older record is left out for a later one.",
    )


def test_seeds_of_another_embedding_are_not_mixed_in(make_record: RecordMaker) -> None:
    def drawn(draw: int, checkpoint: str, created: str) -> Record:
        return make_record(shots=1, k=1, draw=draw, checkpoint=checkpoint, created=created)

    made = ledger(
        drawn(0, "old", "2026-01-01"), drawn(1, "old", "2026-01-01"), drawn(0, "new", "2026-01-02")
    )
    (entry,) = made.study.entries
    assert entry.sources == ("record-2.json",)
    assert made.study.remarks == (
        "2 older records are left out for a later one.",
        "Of another embedding than the latest: toy, k-NN, k = 1, 1 shot of each class, hog, 28 px, "
        "draw 1; toy, k-NN, k = 1, 1 shot of each class, hog, 28 px, draw 0.",
    )


def test_schemes_of_an_older_embedding_are_left_out(make_record: RecordMaker) -> None:
    def made_of(checkpoint: str, created: str, k: int) -> Record:
        return make_record(checkpoint=checkpoint, created=created, k=k)

    made = ledger(
        made_of("old", "2026-01-01", 11), made_of("old", "2026-01-02", 5),
        made_of("new", "2026-01-03", 11),
    )  # fmt: skip
    assert [entry.sources for entry in made.study.entries] == [("record-2.json",)]
    assert made.study.remarks[1] == (
        "Of another embedding than the latest: toy, k-NN, k = 5, hog, 28 px; "
        "toy, k-NN (k = 11), hog, 28 px."
    )


def test_draws_of_other_queries_are_told(make_record: RecordMaker) -> None:
    first, second = (make_record(shots=1, k=1, draw=draw) for draw in range(2))
    fewer = replace(second, counts={**second.counts, "queries": 9, "support": 3})
    (remark,) = ledger(first, fewer).study.remarks
    assert remark.startswith("Measured with different numbers of cases")
    other = replace(second, counts={**second.counts, "support": 3})
    assert ledger(first, other).study.remarks == ()  # classes may have fewer cases than shots


def test_contradictions_are_told(make_record: RecordMaker) -> None:
    def embedded(variant: str, checksum: str, queries: int) -> Record:
        record = make_record(variant=variant)
        facts = {"checkpoint": "x", "dataset_checksum": checksum}
        return replace(
            record, fingerprint=facts, counts={**record.counts, "queries": queries}
        )  # fmt: skip

    made = ledger(embedded("a", "crc:1", 10), embedded("b", "crc:2", 9))
    assert made.study.remarks == (
        "Not all of the same images, and not to be compared: toy at 28 px; embed again.",
        "Measured with different numbers of cases, since some were erased: toy; evaluate again.",
    )


def test_fewer_draws_than_others_are_told(make_record: RecordMaker) -> None:
    records = [make_record(shots=1, k=1, draw=draw) for draw in range(3)]
    made = ledger(*records, make_record(shots=1, k=1, draw=0, variant="dino"))
    assert made.study.remarks == (
        "k-NN, k = 1, 1 shot of each class: fewer than the 3 seeds or draws of others: "
        "toy, dino, 28 px (1).",
    )


def test_untrained_models_are_named(make_record: RecordMaker) -> None:
    made = ledger(make_record(checkpoint="random:0", variant="vit-random"))
    assert made.study.remarks == ("Untrained, with random weights: vit-random.",)


def test_other_splits_are_left_out_and_counted(make_record: RecordMaker) -> None:
    made = ledger(make_record(), make_record(split="val"))
    assert made.study.remarks == ("1 record is of another split, and left out.",)
    (entry,) = ledger(make_record(), make_record(split="val"), split="val").study.entries
    assert entry.sources == ("record-1.json",)
    with pytest.raises(EvaluationError, match=r"no result record on train .*some on test"):
        ledger(make_record(), split="train")


def test_a_single_interval_is_kept(make_record: RecordMaker) -> None:
    interval = {"accuracy": {"low": 0.4, "high": 0.6}, "auc": {"low": None, "high": None}}
    (entry,) = ledger(replace(make_record(auc=0.5), intervals=interval)).study.entries
    assert entry.bounds == {"accuracy": (40.0, 60.0)}


@given(
    st.permutations(
        [
            (dataset, variant, created)
            for dataset in ("toy", "zoo") for variant in ("hog", "dino")
            for created in ("2026-01-01", "2026-01-02")
        ]
    )
)  # fmt: skip
def test_the_order_of_files_does_not_matter(order: list[tuple[str, str, str]]) -> None:
    def made(places: list[tuple[str, str, str]]) -> list[tuple[object, float]]:
        records = [
            write_record(dataset=d, variant=v, created=c, accuracy=len(d + v + c) / 99)
            for d, v, c in places
        ]
        return [(e.place, e.means["accuracy"]) for e in ledger(*records).study.entries]

    assert made(order) == made(sorted(order))


def test_an_older_record_that_has_the_intervals_too_is_kept(make_record: RecordMaker) -> None:
    interval = {"accuracy": {"low": 0.4, "high": 0.6}}
    old = replace(make_record(created="2026-01-01"), intervals=interval)
    new = make_record(created="2026-01-02")
    (entry,) = ledger(old, new).study.entries
    assert entry.bounds == {"accuracy": (40.0, 60.0)}
    other = make_record(created="2026-01-02", accuracy=0.6)
    assert ledger(old, other).study.entries[0].bounds == {}
