from __future__ import annotations

from dataclasses import replace

import pytest

from evaluate import published
from evaluate.against import stand
from evaluate.logistic import LogisticProtocol
from evaluate.probe import Grid, ProbeProtocol
from evaluate.probe_cli import SWEEP
from evaluate.tables import per_dataset
from tests.evaluate.conftest import RecordMaker

BLOOD = {"queries": 3421, "support": 11959, "classes": 8, "erased": 0}
DINO = {"dataset": "bloodmnist", "variant": "dino", "checkpoint": "timm:vit_base_patch16_224.dino",
        "counts": BLOOD}  # fmt: skip


def test_a_model_of_the_benchmark_beside_its_own_figure(make_record: RecordMaker) -> None:
    own = published.find("bloodmnist", "knn", "dino", 28, "acc")
    assert own is not None
    found = stand(make_record(**DINO), own.mean / 100 + 0.0123)
    assert found.published == own.mean
    assert found.difference == pytest.approx(1.23)
    assert found.columns()[:2] == (f"{own.mean:.2f}", "+1.23")


def test_a_new_model_has_a_rank_among_the_ten(make_record: RecordMaker) -> None:
    record = make_record(
        dataset="bloodmnist", variant="dinov2", checkpoint="timm:new", counts=BLOOD
    )
    everybody = [
        row.mean for row in published.table()
        if (row.dataset, row.scheme, row.resolution, row.metric) == ("bloodmnist", "knn", 28, "acc")
    ]  # fmt: skip
    assert len(everybody) == 10
    for value in (max(everybody) + 0.1, sorted(everybody)[4] + 0.001, min(everybody) - 0.1):
        found = stand(record, value / 100)
        better = sum(other > round(value, 2) for other in everybody)
        assert found.columns() == ("-", "-", f"{better + 1} of 11")


@pytest.mark.parametrize(
    "facts",
    [
        {"k": 5}, {"vote": "softmax"}, {"distance": "euclidean"}, {"split": "val"},
        {"dataset": "toy"}, {"priors": "uniform"}, {"shots": 16, "draw": 0, "k_asked": 11},
        {"thresholds": {"criterion": "f1", "values": [0.5], "notes": []}},
        {"k_from": [1, 11], "k_by": "val accuracy"},
        {"counts": {**BLOOD, "queries": 20}}, {"counts": {**BLOOD, "support": 11958, "erased": 1}},
        {"counts": {**BLOOD, "classes": 3}},
    ],
)  # fmt: skip
def test_what_was_not_published_is_not_compared(
    make_record: RecordMaker, facts: dict[str, object]
) -> None:
    record = make_record(**{**DINO, **facts})
    assert stand(record, 0.9).columns() == ("-", "-", "-")


@pytest.mark.parametrize(
    ("protocol", "comparable"),
    [
        (ProbeProtocol(), True), (ProbeProtocol(seeds=(7,)), True),
        (ProbeProtocol(epochs=2), False), (ProbeProtocol(grid=Grid(*SWEEP)), False),
        (LogisticProtocol(), False),
    ],
)  # fmt: skip
def test_a_probe_is_compared_by_the_published_protocol_alone(
    make_record: RecordMaker, protocol: ProbeProtocol | LogisticProtocol, comparable: bool
) -> None:
    record = replace(make_record(**DINO), kind="probe", protocol=protocol.describe())
    assert (stand(record, 0.9).rank != "-") == comparable


def test_a_table_shows_it(make_record: RecordMaker) -> None:
    text = per_dataset([make_record(**DINO, accuracy=0.9)], against=True)
    assert text.splitlines()[2].split()[-3:] == ["published", "difference", "rank"]
    assert " of 11" in text
