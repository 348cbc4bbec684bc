from __future__ import annotations

from dataclasses import replace

import pytest

from evaluate.logistic import LogisticProtocol
from evaluate.probe import Grid, ProbeProtocol
from evaluate.probe_cli import SWEEP
from evaluate.results import Record
from evaluate.schemes import replicate_of, scheme_of
from tests.evaluate.conftest import RecordMaker


def probed(make_record: RecordMaker, how: dict[str, object]) -> Record:
    return replace(make_record(), kind="probe", protocol=how)


def test_the_published_protocols_have_the_published_keys(make_record: RecordMaker) -> None:
    assert scheme_of(make_record()) == ("knn", "k-NN (k = 11)")
    how = {**ProbeProtocol().describe(), "seed": 7, "best_epoch": 3, "notes": []}
    assert scheme_of(probed(make_record, how)) == ("linear_probe", "linear probe")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"k": 5}, "k-NN, k = 5"),
        ({"distance": "euclidean"}, "k-NN, k = 11, euclidean"),
        ({"vote": "distance"}, "k-NN, k = 11, distance vote"),
        ({"vote": "softmax", "temperature": 0.07},
         "k-NN, k = 11, softmax vote at temperature 0.07"),
        ({"k_from": [1, 11], "k_by": "val accuracy"}, "k-NN, k of 1, 11 by val accuracy"),
        ({"k": 2, "shots": 2, "draw": 3}, "k-NN, k = 2, 2 shots of each class"),
        ({"priors": "uniform"}, "k-NN, k = 11, uniform priors"),
        ({"thresholds": {"criterion": "f1", "values": [0.5], "notes": []}},
         "k-NN, k = 11, thresholds by f1"),
    ],
)  # fmt: skip
def test_what_differs_is_named(
    make_record: RecordMaker, change: dict[str, object], name: str
) -> None:
    assert scheme_of(make_record(**change)) == (name, name)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (ProbeProtocol(patience=10), "linear probe, patience 10"),
        (ProbeProtocol(grid=Grid((1e-3,), (0.01,))), "linear probe, learning rates 0.001"),
        (ProbeProtocol(grid=Grid((1e-3, 1e-4), (0.01, 0.1)), epochs=5),
         "linear probe, the best of 4 settings on val, learning rates 0.001, 0.0001, "
         "weight decays 0.01, 0.1, epochs 5"),
        (ProbeProtocol(grid=Grid(*SWEEP)), "linear probe, the best of 15 settings on val"),
        (LogisticProtocol(), "logistic regression"),
        (LogisticProtocol(cs=(0.5, 1.0)), "logistic regression, cs 0.5, 1.0"),
    ],
)  # fmt: skip
def test_another_probe_is_another_scheme(
    make_record: RecordMaker, protocol: ProbeProtocol | LogisticProtocol, name: str
) -> None:
    assert scheme_of(probed(make_record, dict(protocol.describe()))) == (name, name)


def test_seeds_alone_make_no_other_scheme(make_record: RecordMaker) -> None:
    records = [
        probed(make_record, {**ProbeProtocol(seeds=seeds).describe(), "seed": seeds[0]})
        for seeds in ((1, 2), (3,))
    ]
    assert {scheme_of(record)[0] for record in records} == {"linear_probe"}
    assert [replicate_of(record) for record in records] == [1, 3]


def test_replicates_of_a_vote_are_draws(make_record: RecordMaker) -> None:
    assert replicate_of(make_record()) is None
    assert replicate_of(make_record(shots=4, draw=0)) == 0


def test_another_split_is_another_scheme(make_record: RecordMaker) -> None:
    assert scheme_of(make_record(split="val"))[0] == "k-NN (k = 11), val split"
