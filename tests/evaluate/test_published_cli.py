from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest

from evaluate import published_cli
from tests.evaluate.conftest import failure

Capture = pytest.CaptureFixture[str]


def shown(capsys: Capture, *words: str) -> str:
    assert published_cli.main(words) == 0
    return capsys.readouterr().out


def facts(capsys: Capture, *words: str) -> Any:
    return json.loads(shown(capsys, *words, "--json"))


def test_the_default_is_knn_by_model_and_resolution(capsys: Capture) -> None:
    lines = shown(capsys).splitlines()
    assert lines[0] == "accuracy (%), k-NN (k = 11), published; mean over 12 datasets"
    assert lines[2].split() == ["model", "28", "px", "64", "px", "128", "px", "224", "px"]
    assert len(lines) == 16
    assert lines[7].split() == ["dino", "73.61", "79.41", "81.17", "81.90"]
    assert lines[-1].startswith("source: Doerrich, ")
    assert "10.1038/s41598-025-92156-9" in lines[-1]


def test_one_dataset_shows_deviations(capsys: Capture) -> None:
    text = shown(
        capsys, "--dataset", "bloodmnist", "--model", "vgg16,sam", "--res", "28", "--res", "64",
        "--scheme", "end_to_end", "--metric", "accuracy",
    )  # fmt: skip
    assert text.startswith("accuracy (%), end-to-end training, published; bloodmnist\n\n")
    assert text.splitlines()[5].split() == ["vgg16", "94.85", "±", "0.47", "98.20", "±", "0.16"]


def test_a_mean_names_how_many_datasets(capsys: Capture) -> None:
    text = shown(capsys, "--dataset", "bloodmnist,octmnist", "--res", "224", "--model", "sam")
    rows = facts(capsys, "--dataset", "bloodmnist,octmnist", "--res", "224", "--model", "sam",
                 "--scheme", "knn")  # fmt: skip
    assert "; mean over 2 datasets\n" in text
    assert text.splitlines()[4].split() == ["sam", f"{sum(r['mean'] for r in rows) / 2:.2f}"]


def test_a_table_per_scheme_and_metric(capsys: Capture) -> None:
    text = shown(capsys, "--scheme", "all", "--metric", "all")
    assert text.count("published; mean over 12 datasets") == 5
    assert text.count("AUC (%)") == 2


def test_what_was_asked_for_and_not_published_is_said(capsys: Capture) -> None:
    line = "not published, and left out: AUC of k-NN (k = 11)"
    assert line in shown(capsys, "--scheme", "all", "--metric", "auc").splitlines()
    assert line in shown(capsys, "--scheme", "all", "--metric", "all").splitlines()
    assert line in shown(capsys, "--statistics", "--metric", "auc").splitlines()
    assert "not published" not in shown(capsys, "--scheme", "all")
    assert "not published" not in shown(capsys, "--averages", "--metric", "all")
    for form in ("--csv", "--json"):
        assert published_cli.main(["--metric", "auc", form]) == 0
        out, err = capsys.readouterr()
        assert "knn" not in out
        assert err == f"{line}\n"
        assert published_cli.main([form]) == 0
        assert capsys.readouterr().err == ""


def test_averages(capsys: Capture) -> None:
    text = shown(capsys, "--averages", "--metric", "kappa", "--scheme", "mm_pt")
    assert text.splitlines()[0] == (
        "kappa (%), multi-domain multi-task training, published; mean over 12 datasets"
    )
    assert text.splitlines()[5].split() == ["vit", "56.53", "61.88", "63.55", "68.82"]
    assert text.splitlines()[-1].startswith("source: Bachmeier")
    assert shown(capsys, "--averages").count("AUC (%)") == 3
    assert len(facts(capsys, "--averages")) == 168


def test_csv_and_json_have_every_figure(capsys: Capture) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "--csv"))))
    assert len(rows) == 2400
    assert rows[0] == {
        "dataset": "bloodmnist", "scheme": "end_to_end", "model": "vgg16", "resolution": "28",
        "metric": "acc", "mean": "94.85", "std": "0.47",
    }  # fmt: skip
    assert next(row for row in rows if row["scheme"] == "knn")["std"] == ""
    found = facts(capsys, "--scheme", "knn", "--dataset", "bloodmnist", "--res", "all")
    assert len(found) == 40
    assert {row["std"] for row in found} == {None}


def test_statistics_in_words_and_numbers(capsys: Capture) -> None:
    text = shown(capsys, "--statistics")
    for phrase in (
        "resolution: n = 10 models, each value the mean over datasets (12) and schemes (3)",
        "Friedman: chi2(3) = 30.00, p = 1.4e-06, Kendall's W = 1.00: the resolutions differ",
        "Wilcoxon signed-rank, two-sided, Bonferroni over 6 pairs (p < 0.0083):",
        "Friedman: chi2(2) = 14.60, p = 0.00068, Kendall's W = 0.73: the schemes differ",
        "model: n = 12 datasets, each value the mean over schemes (3) and resolutions (4)",
        "20 of 45 pairs differ",
        "source: Doerrich",
    ):
        assert phrase in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "28 70.76 72.44 73.17 1.00" in lines
    assert "28 64 10 of 10 -2.803 0.002 0.012 0.886 64 is higher" in lines
    assert "efficientnet_b4 . . . - . - . . - ." in lines


def test_statistics_as_json(capsys: Capture) -> None:
    found = facts(capsys, "--statistics", "--correction", "holm")
    assert list(found) == ["resolution", "scheme", "model"]
    assert found["resolution"]["friedman"]["chi2"] == pytest.approx(30)
    assert len(found["model"]["post_hoc"]["pairs"]) == 45
    assert len(found["model"]["post_hoc"]["matrix"]) == 10
    assert found["model"]["post_hoc"]["correction"] == "holm"
    assert len(found["scheme"]["values"]) == 10
    assert found["scheme"]["post_hoc"]["pairs"][0]["test"]["p"] == 0.00390625


def test_what_cannot_be_compared_is_said(capsys: Capture) -> None:
    text = shown(capsys, "--statistics", "--scheme", "knn")
    assert "scheme: not compared; comparing takes 2 or more distinct schemes, not ['knn']" in text
    assert "resolution: n = 10 models" in text
    found = facts(capsys, "--statistics", "--metric", "auc")
    assert found["scheme"]["friedman"] is None
    assert len(found["scheme"]["post_hoc"]["pairs"]) == 1
    words = ("--statistics", "--scheme", "knn", "--model", "sam", "--dataset", "octmnist")
    assert published_cli.main(words) == 1
    assert "comparing takes 2 or more" in failure(capsys)


def test_rank(capsys: Capture) -> None:
    where = ("--dataset", "breastmnist", "--res", "64", "--scheme", "knn")
    lines = shown(capsys, "--rank", "81.41", *where).splitlines()
    assert lines[:4] == [
        "81.41 % is rank 4 of 11: accuracy, k-NN (k = 11), breastmnist at 64 px",
        "above: dino 86.54, eva02 82.69, sam 82.69",
        "equal: alexnet 81.41, resnet18 81.41, efficientnet_b4 81.41",
        "below: vgg16 80.77, vit 79.49, clip 78.21, densenet121 75.64",
    ]
    assert facts(capsys, "--rank", "99", *where)["rank"] == 1
    assert "equal" not in shown(capsys, "--rank", "99", *where)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scheme kn", "unknown published scheme 'kn'; did you mean knn?"),
        ("--dataset bloodmnits", "did you mean bloodmnist"),
        ("--model dinov2", "did you mean dino?"),
        ("--metric balanced_accuracy", "unknown published metric"),
        ("--res 32", "unknown published size '32'"),
        ("--res x", "--res 'x' is no number"),
        ("--dataset ,", "an option has an empty value"),
        ("--correction holm", "--correction is of --statistics"),
        ("--statistics --csv", "--csv is of figures"),
        ("--statistics --metric acc,auc", "--statistics are of one --metric"),
        ("--averages --dataset octmnist", "--averages are over all datasets"),
        ("--averages --rank 3", "not allowed with argument"),
        ("--rank 90", "--rank needs one --dataset"),
        ("--rank 90 --dataset octmnist --res 28,64", "--rank needs one --res"),
        ("--rank 90 --dataset octmnist --res 28 --scheme knn --model sam", "drop --model"),
        ("--rank 0.9 --dataset octmnist --res 28 --scheme knn", "0.9 is no percentage"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(words: str, message: str, capsys: Capture) -> None:
    assert published_cli.main(words.split()) == 2
    assert message in failure(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scheme knn --metric auc", "nothing is published for this"),
        ("--rank 90 --dataset octmnist --res 32 --scheme knn", "at 32 px is published"),
    ],
)
def test_what_is_not_published_is_one_line(words: str, message: str, capsys: Capture) -> None:
    assert published_cli.main(words.split()) == 1
    assert message in failure(capsys)


def test_tables_need_no_heavy_library() -> None:
    code = (
        "import sys; from evaluate import published_cli; published_cli.main([]); "
        "sys.exit(bool({'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
