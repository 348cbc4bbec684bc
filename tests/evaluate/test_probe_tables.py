from __future__ import annotations

from dataclasses import replace

from evaluate.probe_tables import Seeds
from tests.evaluate.conftest import RecordMaker


def test_a_figure_is_the_mean_over_all_seeds_or_none(make_record: RecordMaker) -> None:
    records = tuple(make_record(accuracy=x, auc=auc) for x, auc in ((0.5, 0.7), (0.7, None)))
    assert Seeds(records).text("accuracy") == "60.00 ± 14.14"
    assert Seeds(records).text("auc") == "-"
    assert Seeds(records[:1]).text("auc") == "70.00"
    bounds = {"accuracy": {"low": 0.25, "high": 0.75}}
    assert (
        Seeds((replace(records[0], intervals=bounds),)).text("accuracy") == "50.00 [25.00, 75.00]"
    )
