from __future__ import annotations

from statistics import stdev

from evaluate.results import Record
from evaluate.shot_tables import per_dataset, summary
from tests.evaluate.conftest import RecordMaker


def draws(
    make_record: RecordMaker, shots: int, accuracies: list[float], **facts: object
) -> list[Record]:
    return [
        make_record(
            accuracy=accuracy, shots=shots, draw=draw, k=min(shots, 11), k_asked=11, **facts
        )
        for draw, accuracy in enumerate(accuracies)
    ]  # fmt: skip


def test_models_by_shots(make_record: RecordMaker) -> None:
    records = [
        *draws(make_record, 1, [0.2, 0.4], dataset="a"),
        *draws(make_record, 1, [0.5, 0.5], dataset="b"),
        *draws(make_record, 16, [0.6, 0.7], dataset="a"),
        *draws(make_record, 16, [0.8, 0.7], dataset="b"),
        *draws(make_record, 16, [0.9, 0.9], dataset="a", size=224),
        *draws(make_record, 16, [0.3, 0.3], dataset="b", size=224),
        *draws(make_record, 1, [0.25, 0.75], dataset="b", variant="dino"),
    ]
    # Over datasets first: 0.35 and 0.45; 0.7 and 0.7.
    assert f"{100 * stdev([0.35, 0.45]):.2f} {100 * stdev([0.25, 0.75]):.2f}" == "7.07 35.36"
    assert summary(records[::-1]) == (
        "accuracy (%), few-shot, k = 11, at most the shots, cosine, majority vote, test split, "
        "mean ± std of 2 draws; mean over 2 datasets\n"
        "\n"
        "model      px                  1 shot      16 shots\n"
        "-------  ----  ----------------------  ------------\n"
        "dino       28  50.00 ± 35.36 (1 of 2)             -\n"
        "hog        28            40.00 ± 7.07  70.00 ± 0.00\n"
        "hog       224                       -  60.00 ± 0.00\n"
        "\n"
        "±: over draws, of the mean over datasets"
    )


def test_a_line_per_cell_and_shots(make_record: RecordMaker) -> None:
    records = [
        *draws(make_record, 4, [0.6, 0.7], dataset="b"),
        *draws(make_record, 4, [0.2, 0.4], dataset="a"),
        *draws(make_record, 1, [0.5, 0.5], dataset="a"),
    ]
    lines = per_dataset(records).splitlines()
    assert lines[0] == (
        "few-shot, k = 11, at most the shots, cosine, majority vote, test split, "
        "mean ± std of 2 draws"
    )
    assert [" ".join(line.split()) for line in (lines[2], *lines[4:])] == [
        "dataset model px shots k queries accuracy balanced kappa precision AUC",
        "a hog 28 1 1 2,000 50.00 ± 0.00 25.00 ± 0.00 -12.50 ± 0.00 75.00 ± 0.00 -",
        "a hog 28 4 4 2,000 30.00 ± 14.14 25.00 ± 0.00 -12.50 ± 0.00 75.00 ± 0.00 -",
        "b hog 28 4 4 2,000 65.00 ± 7.07 25.00 ± 0.00 -12.50 ± 0.00 75.00 ± 0.00 -",
    ]


def test_one_draw_has_no_deviation(make_record: RecordMaker) -> None:
    text = summary(draws(make_record, 2, [0.5], priors="uniform"))
    assert text.splitlines()[0] == (
        "accuracy (%), few-shot, k = 11, at most the shots, cosine, majority vote, "
        "uniform priors, test split; toy"
    )
    assert text.splitlines()[-1].split() == ["hog", "28", "50.00"]


def test_a_figure_that_one_draw_lacks_is_no_mean(make_record: RecordMaker) -> None:
    records = [
        make_record(shots=1, draw=draw, k=1, k_asked=1, auc=auc, notes=notes)
        for draw, (auc, notes) in enumerate([(0.75, ()), (None, ("why there is no AUC",))])
    ]
    for text in (summary(records, "auc"), per_dataset(records)):
        assert text.splitlines()[-3].split()[-1] == "-"
        assert text.splitlines()[-1] == "toy: why there is no AUC"


def test_classes_with_few_cases_are_named(make_record: RecordMaker) -> None:
    note = "class 1 (bee) has 2 training cases: fewer than 4 shots"
    records = draws(make_record, 4, [0.5, 0.6], notes=(note,))
    assert summary(records).endswith(f"\n\ntoy: {note}")
    assert per_dataset(records).endswith(f"\n\ntoy: {note}")
