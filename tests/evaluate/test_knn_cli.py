from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedder import cli as embed
from embedder.store import Store
from embedder.types import Task
from evaluate import cli, compare_cli, probe_cli, results
from evaluate.results import Record
from tests.conftest import NpzMaker
from tests.evaluate.conftest import CellMaker, failure

TRAIN, LABELS = [[1, 0], [0, 1], [-1, 0]], [0, 1, 2]
TEST, TRUTHS = [[2, 0.1], [0.1, 3], [-1, 0.1], [1, 0.2]], [0, 1, 2, 1]

Capture = pytest.CaptureFixture[str]


def knn(store: Store, *arguments: str) -> int:
    return cli.main([*arguments, "--store", str(store.root)])


@pytest.fixture
def cells(make_cell: CellMaker) -> None:
    """hog: toy and zoo at 28 px, toy at 64 px; dino: zoo at 28 px, and a bf16 variant of it."""
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    make_cell(TRAIN, LABELS, TEST, [0, 1, 2, 0], size=64)
    make_cell(TRAIN, LABELS, TEST, [0, 1, 0, 1], name="zoo")
    make_cell(TRAIN, LABELS, TEST, [1, 2, 0, 1], name="zoo", backbone="dino")
    make_cell(TRAIN, LABELS, TEST, TRUTHS, name="zoo", backbone="dino", variant="dino-bf16")


ABSENT = "class 2 (cat) is absent from the labels: balanced accuracy and precision are undefined"


@pytest.mark.usefixtures("cells")
def test_every_stored_cell(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "accuracy (%), k = 1, cosine, majority vote, test split; mean over 2 datasets\n"
        "\n"
        "model               28 px            64 px\n"
        "---------  --------------  ---------------\n"
        "dino        0.00 (1 of 2)                -\n"
        "dino-bf16  75.00 (1 of 2)                -\n"
        "hog                 62.50  100.00 (1 of 2)\n"
    )
    assert len(results.paths(store.root / "results")) == 5


@pytest.mark.usefixtures("cells")
def test_the_figures_are_those_of_the_records(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1,3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    stored = [json.loads(path.read_text()) for path in results.paths(store.root / "results")]
    assert len(printed) == 10

    def by_digest(facts: dict[str, object]) -> str:
        return json.dumps(facts, sort_keys=True)

    assert sorted(printed, key=by_digest) == sorted(stored, key=by_digest)
    again = [Record.from_json(json.dumps(facts)) for facts in printed]
    assert {record.protocol["k"] for record in again} == {1, 3}
    searches = {(r.dataset, r.size, r.variant, r.timings["search"]) for r in again}
    assert len(searches) == 5  # the two k of a cell share one search


@pytest.mark.usefixtures("cells")
def test_csv(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1", "--csv", "--dataset", "toy") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 3
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["dataset"], r["model"], r["res"], r["accuracy"]) for r in rows] == [
        ("toy", "hog", "28", "0.75"),
        ("toy", "hog", "64", "1.0"),
    ]


@pytest.mark.usefixtures("cells")
def test_two_runs_leave_two_records(store: Store, capsys: Capture) -> None:
    arguments = ("--k", "1", "--dataset", "toy", "--res", "28")
    assert knn(store, *arguments) == 0
    (first,) = results.paths(store.root / "results")
    before = first.read_bytes()
    assert knn(store, *arguments) == 0
    assert len(results.paths(store.root / "results")) == 2
    assert first.read_bytes() == before
    one, two = capsys.readouterr().out.split("accuracy")[1:]
    assert one.strip() == two.strip()


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "hog"), {("toy", 28, "hog"), ("toy", 64, "hog"), ("zoo", 28, "hog")}),
        (("--model", "dino"), {("zoo", 28, "dino")}),
        (("--model", "dino-bf16"), {("zoo", 28, "dino-bf16")}),
        (("--model", "hog,dino-bf16", "--res", "64"), {("toy", 64, "hog")}),
        (("--model", "all"), {("zoo", 28, "dino")}),
        (("--dataset", "some/where/zoo.npz", "--model", "hog"), {("zoo", 28, "hog")}),
        (("--dataset", "toy_64.npz", "--res", "64"), {("toy", 64, "hog")}),
        (("--res", "64", "--res", "all", "--model", "hog", "--dataset", "zoo"),
         {("zoo", 28, "hog")}),
    ],
)  # fmt: skip
def test_which_cells_match(
    store: Store, capsys: Capture, arguments: tuple[str, ...], expected: set[tuple[str, int, str]]
) -> None:
    assert knn(store, "--k", "1", "--json", *arguments) == 0
    records = json.loads(capsys.readouterr().out)
    assert {(r["dataset"], r["size"], r["variant"]) for r in records} == expected
    assert len(records) == len(expected)


def test_a_family_of_datasets(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS, name="phantom-cells")
    make_cell(TRAIN, LABELS, TEST, TRUTHS, name="toy")
    assert knn(store, "--k", "1", "--json", "--dataset", "phantom") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["dataset"] == "phantom-cells"


@pytest.mark.usefixtures("cells")
def test_the_options_reach_the_record(store: Store, capsys: Capture) -> None:
    assert knn(
        store, "--model", "hog", "--dataset", "toy", "--res", "28", "--k", "2", "--json",
        "--distance", "euclidean", "--vote", "softmax", "--temperature", "0.5",
        "--split", "train", "--index", "reference",
    ) == 0  # fmt: skip
    (record,) = json.loads(capsys.readouterr().out)
    assert record["protocol"] == {
        "k": 2, "distance": "euclidean", "vote": "softmax", "temperature": 0.5,
        "support": "train", "leave_one_out": True, "tie": "lowest class", "index": "reference",
    }  # fmt: skip
    assert record["split"] == "train"
    assert record["counts"]["queries"] == 3


@pytest.mark.usefixtures("cells")
def test_per_dataset(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1", "--per-dataset", "--dataset", "toy", "--vote", "distance") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cosine, distance vote, test split"
    head = "dataset model px k queries accuracy balanced kappa precision AUC"
    # AUC by hand, a tie counting half: ant 2.5 of 3 pairs, bee 3 of 4, cat 3 of 3.
    first = "toy hog 28 1 4 75.00 83.33 63.64 83.33 86.11"
    second = "toy hog 64 1 4 100.00 100.00 100.00 100.00 100.00"
    found = [" ".join(line.split()) for line in lines]
    assert [found[2], *found[4:]] == [head, first, second]


@pytest.mark.usefixtures("cells")
def test_another_metric(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1", "--dataset", "toy", "--metric", "kappa") == 0
    out = capsys.readouterr().out
    assert out.startswith("kappa (%), k = 1")
    assert "63.64" in out


def test_untrained_models_are_marked(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS, checkpoint="random:0", variant="hog-random0")
    assert knn(store, "--k", "1") == 0
    assert capsys.readouterr().out.endswith("\n\nuntrained, random weights: hog-random0\n")


def test_multilabel(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(
        [[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 0]], [[1, 2], [2, 1]], [[1, 0], [0, 0]],
        task=Task.MULTILABEL, classes=("mass", "hernia"),
    )  # fmt: skip
    assert knn(store, "--k", "3", "--per-dataset") == 0
    out = capsys.readouterr().out
    assert "75.00" in out
    assert "toy: label 1 (hernia) is 0 in every row" in out


# What goes wrong.


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "dono"), "unknown stored model 'dono'; did you mean dino"),
        (("--model", "hgo", "--res", "64"), "unknown stored model 'hgo'; did you mean hog"),
        (("--dataset", "zooo"), "unknown stored dataset 'zooo'; did you mean zoo?"),
        (("--dataset", "xyz"), "unknown stored dataset 'xyz'; known: toy, zoo"),
        (("--model", "alexnet"), "no embeddings of alexnet are stored; run embed --model alexnet"),
        (("--k", "0"), "--k '0' is no number from 1 on"),
        (("--k", "x"), "--k 'x' is no number from 1 on"),
        (("--k", "1,-2"), "--k '-2' is no number from 1 on"),
        (("--k", "1.5"), "--k '1.5' is no number from 1 on"),
        (("--res", "big"), "--res 'big' is no number from 1 on"),
        (("--temperature", "0.1"), "--temperature belongs to --vote softmax"),
        (("--vote", "softmax", "--temperature", "0"), "--temperature 0.0 is no number above 0"),
        (("--vote", "softmax", "--temperature", "nan"), "--temperature nan is no number above 0"),
        (("--vote", "softmax", "--temperature", "warm"), "see knn-eval --help"),
        (("--vote", "loud"), "see knn-eval --help"),
        (("--distance", "manhattan"), "see knn-eval --help"),
        (("--split", "all"), "see knn-eval --help"),
        (("--json", "--csv"), "not allowed with"),
        (("--modle", "hog"), "unrecognized arguments: --modle"),
        (("--res", "28,224"), "nothing is stored at 224 px; stored are 28, 64"),
        (("--per-dataset", "--metric", "kappa"), "drop --metric"),
        (("--metric", "auc"), "a majority vote has no AUC; use --vote distance or softmax"),
    ],
)  # fmt: skip
def test_wrong_use(store: Store, capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert knn(store, *arguments) == 2
    assert message in failure(capsys)
    assert results.paths(store.root / "results") == []


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    "arguments", [("--model", "dino", "--dataset", "toy"),
                  ("--dataset", "elsewhere/toys.npz"), ("--dataset", "phantom")]
)  # fmt: skip
def test_nothing_matches(store: Store, capsys: Capture, arguments: tuple[str, ...]) -> None:
    assert knn(store, *arguments) == 1
    expected = f"error: no stored cell matches; see casebook info --store {store.root}\n"
    assert failure(capsys) == expected


def test_a_path_means_the_dataset_of_its_file(
    store: Store, make_cell: CellMaker, make_npz: NpzMaker, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("foo", "foo_99"):
        make_cell(TRAIN, LABELS, TEST, TRUTHS, name=name)
    for file, name in (("foo_99.npz", "foo_99"), ("foo_28.npz", "foo")):
        assert knn(store, "--k", "1", "--json", "--dataset", str(make_npz(file))) == 0
        (record,) = json.loads(capsys.readouterr().out)
        assert record["dataset"] == name
    assert knn(store, "--k", "1", "--dataset", "gone/foo_99.npz") == 2
    assert "may be foo_99 or foo, both stored" in failure(capsys)


def test_records_go_elsewhere_where_asked(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: Capture
) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    assert knn(store, "--k", "1", "--results", str(tmp_path / "mine")) == 0
    assert len(results.paths(tmp_path / "mine")) == 1
    assert not (store.root / "results").exists()


def test_an_empty_store(store: Store, capsys: Capture) -> None:
    for _ in range(2):
        assert knn(store) == 1
        assert failure(capsys) == (
            f"error: no embeddings in {store.root}; run embed first, or see --store\n"
        )
        store.root.mkdir(exist_ok=True)


def test_a_store_that_is_a_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    assert knn(Store(tmp_path / "file")) == 1
    assert "is no folder; check --store" in failure(capsys)


@pytest.mark.usefixtures("cells")
def test_a_damaged_cell_does_not_stop_the_others(store: Store, capsys: Capture) -> None:
    path = store.path("toy", 28, "hog")
    path.write_bytes(path.read_bytes()[:3000])
    assert knn(store, "--k", "1", "--csv") == 1
    out, err = capsys.readouterr()
    assert len(list(csv.DictReader(io.StringIO(out)))) == 4
    first, second = err.splitlines()
    assert first.startswith(f"failed: {path}")
    assert second == "error: 1 of 5 cells failed"


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    "arguments", [("--model", "dino"), ("--dataset", "zoo"), ("--res", "64"),
                  ("--model", "hog", "--dataset", "zoo")]
)  # fmt: skip
def test_a_damaged_cell_that_was_not_asked_for(
    store: Store, capsys: Capture, arguments: tuple[str, ...]
) -> None:
    store.path("toy", 28, "hog").write_bytes(b"")
    assert knn(store, "--k", "1", *arguments) == 0
    assert capsys.readouterr().err == ""


def test_only_a_damaged_variant_matches(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    make_cell(TRAIN, LABELS, TEST, TRUTHS, backbone="timm:net.tag", variant="timm--net.tag-bf16")
    store.path("toy", 28, "timm--net.tag-bf16").write_bytes(b"")
    assert knn(store, "--model", "timm:net.tag") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[1] == "error: 1 of 1 cells failed"


def test_a_zero_vector_is_named_with_its_cell(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    make_cell([[1, 0], [0, 0], [0, 1]], LABELS, TEST, TRUTHS)
    make_cell(TRAIN, LABELS, TEST, TRUTHS, size=64)
    assert knn(store, "--k", "1") == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "failed: hog toy 28 px: toy/train/1 is a zero vector, which has no cosine; use --distance "
        "euclidean, or another backbone",
        "error: 1 of 2 cells failed",
    ]
    assert "64 px" in out
    assert knn(store, "--k", "1", "--distance", "euclidean") == 0


def test_more_neighbours_than_cases(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    assert knn(store, "--k", "1,4") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "k = 4, but toy/train has 3 cases to offer; use a --k from 1 to 3" in err
    assert results.paths(store.root / "results") == []


def test_without_faiss(
    store: Store, make_cell: CellMaker, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert knn(store, "--k", "1") == 1
    assert "FAISS is not installed; pip install faiss-cpu" in capsys.readouterr().err
    assert knn(store, "--k", "1", "--index", "reference") == 0
    assert "75.00" in capsys.readouterr().out


def test_results_that_cannot_be_written(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    (store.root / "results").write_text("")
    assert knn(store, "--k", "1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"cannot use {store.root / 'results'}" in err


# As it is used.


def test_from_images_to_a_table(
    store: Store, tmp_path: Path, capsys: Capture, make_npz: Callable[..., Path]
) -> None:
    # Upright stripes against lying ones, which gradients tell apart.
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 4), ("test", 20)):
        labels = rng.integers(0, 2, (count, 1), np.uint8)
        stripes = np.where(np.arange(28) % 8 < 4, 60, 180) + rng.integers(0, 40, (count, 28, 28))
        arrays[f"{split}_images"] = np.where(
            labels[:, :, None], stripes, stripes.transpose(0, 2, 1)
        ).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    path = make_npz("stripes.npz", **arrays)
    assert embed.main(["--dataset", str(path), "--store", str(store.root)]) == 0
    capsys.readouterr()
    assert knn(store, "--dataset", str(path), "--vote", "distance", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    (record,) = json.loads(out)
    assert record["counts"] == {"support": 40, "queries": 20, "classes": 2, "erased": 0}
    assert record["fingerprint"]["backbone"] == record["variant"] == "hog"
    assert record["metrics"]["accuracy"] == record["metrics"]["auc"] == 1


@pytest.mark.usefixtures("cells")
def test_as_a_program(store: Store) -> None:
    command = [sys.executable, "-m", "evaluate.cli", "--k", "1", "--json", "--model", "dino-bf16"]
    done = subprocess.run(
        command, env={"CASEBOOK_STORE": str(store.root)}, capture_output=True, text=True, check=True
    )
    (record,) = json.loads(done.stdout)
    assert record["metrics"]["accuracy"] == 0.75
    assert done.stderr == ""


def test_help_names_every_option(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--k", "--model", "--dataset", "--res", "--distance", "--vote", "--temperature",
                   "--split", "--index", "--per-dataset", "--metric", "--json", "--csv",
                   "--store", "--priors", "--thresholds", "--shots", "--draws"):  # fmt: skip
        assert option in text


def test_cells_do_not_depend_on_each_other(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        make_cell(
            rng.standard_normal((40, 3)), rng.integers(0, 3, 40), rng.standard_normal((20, 3)),
            rng.integers(0, 3, 20), name=name,
        )  # fmt: skip
    assert knn(store, "--json") == 0
    both = {r["dataset"]: r["metrics"] for r in json.loads(capsys.readouterr().out)}
    for name in ("a", "b"):
        assert knn(store, "--json", "--dataset", name) == 0
        (alone,) = json.loads(capsys.readouterr().out)
        assert alone["metrics"] == both[name]


@pytest.mark.usefixtures("cells")
def test_k_chosen_on_val(store: Store, capsys: Capture) -> None:
    assert knn(store, "--choose-k", "1,2,3", "--json", "--dataset", "toy", "--res", "28") == 0
    (chosen, *_) = json.loads(capsys.readouterr().out)
    assert knn(store, "--k", "1,2,3", "--split", "val", "--json", "--dataset", "toy") == 0
    tried = [
        record for record in json.loads(capsys.readouterr().out)
        if (record["size"], record["variant"]) == (chosen["size"], chosen["variant"])
    ]  # fmt: skip
    best = max(tried, key=lambda r: (r["metrics"]["accuracy"], -r["protocol"]["k"]))
    assert chosen["protocol"]["k"] == best["protocol"]["k"]
    assert (chosen["protocol"]["k_from"], chosen["protocol"]["k_by"]) == ([1, 2, 3], "val accuracy")
    assert chosen["split"] == "test"
    assert knn(store, "--choose-k", "1,2,3") == 0
    assert "accuracy (%), k of 1, 2, 3 by val accuracy" in capsys.readouterr().out


@pytest.mark.usefixtures("cells")
def test_a_table_of_classes(store: Store, capsys: Capture) -> None:
    assert knn(store, "--k", "1", "--per-class", "--dataset", "toy", "--res", "28") == 0
    out = capsys.readouterr().out
    assert "toy 28 px, k-NN, k = 1, test split" in out
    assert "true \\ predicted" in out


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--choose-k", "1,3", "--k", "1"), "--choose-k chooses on val; drop --k"),
        (("--choose-k", "1,3", "--split", "val"), "--choose-k chooses on val"),
        (("--choose-k", "x"), "--k 'x' is no number"),
        (("--per-class", "--json"), "--per-class is a table of its own"),
        (("--priors", "none"), "see knn-eval --help"),
        (("--thresholds", "youden"), "see knn-eval --help"),
        (("--thresholds", "f1", "--split", "val"), "cannot be measured there; drop --split val"),
        (("--shots", "0"), "--shots '0' is no number from 1 on"),
        (("--shots", "1,x"), "--shots 'x' is no number from 1 on"),
        (("--shots", ""), "an option has an empty value"),
        (("--draws", "3"), "--draws is how often --shots draws; give --shots too"),
        (("--draws", ""), "--draws is how often --shots draws"),
        (("--shots", "1", "--draws", "0"), "--draws '0' is no number from 1 on"),
        (("--shots", "1", "--draws", ""), "an option has an empty value"),
        (("--shots", "1", "--draws", "1,2"), "--draws takes one number from 1 to 1,000"),
        (("--shots", "1", "--draws", "1001"), "--draws takes one number from 1 to 1,000"),
        (("--shots", "1", "--k", "1,2"), "--shots takes one --k"),
        (("--shots", "1", "--choose-k", "1,2"), "drop --choose-k"),
        (("--shots", "1", "--split", "train"), "--shots draws from train"),
        (("--shots", "1", "--thresholds", "f1"), "drop --thresholds"),
        (("--shots", "1", "--intervals"), "drop --intervals"),
        (("--shots", "1", "--against", "published"), "drop --against"),
        (("--shots", "1", "--per-class"), "drop --per-class"),
        (("--shots", "1", "--metric", "auc"), "a majority vote has no AUC"),
    ],
)
def test_contradictions(
    store: Store, capsys: Capture, words: tuple[str, ...], message: str
) -> None:
    assert knn(store, *words) == 2
    assert message in failure(capsys)
    assert results.paths(store.root / "results") == []


# Corrections and few-shot.


@pytest.mark.usefixtures("cells")
def test_uniform_priors(store: Store, capsys: Capture) -> None:
    arguments = ("--k", "2", "--dataset", "toy", "--res", "28", "--priors", "uniform")
    assert knn(store, *arguments, "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["protocol"]["priors"] == "uniform"
    assert knn(store, *arguments) == 0
    assert ", majority vote, uniform priors, test split; toy" in capsys.readouterr().out


def labels_cell(make_cell: CellMaker) -> None:
    """A label that one of four near cases carries, which is never more than a half."""
    angles = np.linspace(0, 1.5, 16)
    labels = [[int(i % 4 == 0 and i < 8), 1 - int(i % 4 == 0 and i < 8)] for i in range(16)]
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    make_cell(
        points, labels, [[1, 0.2], [0.2, 1]], [[1, 0], [0, 1]], name="xray",
        task=Task.MULTILABEL, classes=("mass", "clear"),
    )  # fmt: skip


@pytest.mark.usefixtures("cells")
def test_thresholds_where_there_are_labels(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    labels_cell(make_cell)
    arguments = ("--k", "4", "--model", "hog", "--res", "28")
    assert knn(store, *arguments, "--dataset", "xray", "--json") == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["metrics"]["accuracy"] == 0.5
    assert "thresholds" not in plain["protocol"]
    assert knn(store, *arguments, "--thresholds", "balanced-accuracy", "--csv") == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"failed: hog {name} 28 px: --thresholds is for multi-label tasks, and {name} is "
        "multi-class; drop it, or choose datasets with --dataset"
        for name in ("toy", "zoo")
    ] + ["error: 2 of 3 cells failed"]
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["dataset"], row["thresholds"]) == ("xray", "balanced-accuracy")
    assert row["accuracy"] == row["balanced_accuracy"] == "1.0"
    assert knn(store, "--choose-k", "3,4", "--dataset", "xray", "--thresholds", "f1") == 0
    assert capsys.readouterr().out.startswith(
        "accuracy (%), k of 3, 4 by val accuracy, cosine, majority vote, thresholds by val f1, "
    )


@pytest.fixture
def crowd(make_cell: CellMaker) -> None:
    """Two datasets of 30 training cases by two models."""
    for name in ("herd", "pack"):
        for backbone, noise in (("hog", 0.5), ("dino", 0.1)):
            rng = np.random.default_rng(len(name))
            labels, truths = rng.permutation(np.arange(30) % 3), rng.integers(0, 3, 12)
            points, queries = (
                np.eye(3)[y] + noise * rng.standard_normal((len(y), 3)) for y in (labels, truths)
            )
            make_cell(points, labels, queries, truths, name=name, backbone=backbone)


@pytest.mark.usefixtures("crowd")
def test_few_shot(store: Store, capsys: Capture) -> None:
    assert knn(store, "--shots", "4,1", "--draws", "3", "--json", "--k", "3") == 0
    records = [Record.from_json(json.dumps(facts)) for facts in json.loads(capsys.readouterr().out)]
    assert len(records) == 2 * 2 * 2 * 3
    assert {(r.protocol["shots"], r.protocol["k"], r.protocol["k_asked"]) for r in records} == {
        (1, 1, 3), (4, 3, 3),
    }  # fmt: skip

    def figures(variant: str, shots: int) -> list[float]:
        """Of each draw, the mean over datasets."""
        found = [
            [r.metrics.accuracy for r in records
             if (r.variant, r.protocol["shots"], r.protocol["draw"]) == (variant, shots, draw)]
            for draw in range(3)
        ]  # fmt: skip
        assert {len(line) for line in found} == {2}
        return [sum(line) / 2 for line in found]

    assert knn(store, "--shots", "1,4", "--draws", "3", "--k", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "accuracy (%), few-shot, k = 3, at most the shots, cosine, majority vote, test split, "
        "mean ± std of 3 draws; mean over 2 datasets"
    )
    assert lines[2].split() == ["model", "px", "1", "shot", "4", "shots"]
    for line, variant in zip(lines[4:6], ("dino", "hog"), strict=True):
        texts = []
        for shots in (1, 4):
            values = 100 * np.array(figures(variant, shots))
            texts.append(f"{values.mean():.2f} ± {values.std(ddof=1):.2f}")
        assert " ".join(line.split()) == f"{variant} 28 {' '.join(texts)}"
    assert len(results.paths(store.root / "results")) == 48


@pytest.mark.usefixtures("crowd")
def test_few_shot_by_dataset_and_as_csv(store: Store, capsys: Capture) -> None:
    arguments = ("--shots", "1", "--shots", "2", "--draws", "2", "--model", "hog")
    assert knn(store, *arguments, "--per-dataset") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines[4:]] == [
        ["herd", "hog", "28", "1", "1"], ["herd", "hog", "28", "2", "2"],
        ["pack", "hog", "28", "1", "1"], ["pack", "hog", "28", "2", "2"],
    ]  # fmt: skip
    assert knn(store, *arguments, "--csv", "--dataset", "herd") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["draw"], row["shots"], row["k"], row["support"]) for row in rows] == [
        ("0", "1", "1", "3"), ("0", "2", "2", "6"), ("1", "1", "1", "3"), ("1", "2", "2", "6"),
    ]  # fmt: skip


@pytest.mark.usefixtures("crowd")
def test_more_shots_than_cases(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS)
    assert knn(store, "--shots", "2,10", "--draws", "1", "--model", "hog") == 1
    out, err = capsys.readouterr()
    assert "mean over 2 datasets" in out
    assert err.splitlines()[0] == (
        "failed: hog toy 28 px: no class of toy/train has 2 cases; use --shots up to 1"
    )


@pytest.mark.usefixtures("crowd")
def test_two_draws_are_compared(store: Store, capsys: Capture) -> None:
    assert knn(store, "--shots", "2", "--draws", "2", "--model", "hog", "--dataset", "herd") == 0
    capsys.readouterr()
    pair = results.paths(store.root / "results")
    assert compare_cli.main(["--store", str(store.root), "--json", *map(str, pair)]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = facts["differences"]["accuracy"]
    accuracies = [record.metrics.accuracy for record in results.read(pair)]
    assert [found["first"], found["second"]] == accuracies


@pytest.mark.parametrize("command", [cli.main, probe_cli.main])
def test_cells_that_are_not_finished_are_named(
    store: Store, make_cell: CellMaker, capsys: Capture, command: Callable[[list[str]], int]
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    make_cell(rng.normal(size=(30, 4)), labels, rng.normal(size=(30, 4)), labels)
    for name in ("zoo", "aviary"):
        path = store.path(name, 28, "hog")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.partial").write_bytes(b"")
    assert command(["--store", str(store.root)]) == 0
    line = "not finished, left out: hog aviary 28 px, hog zoo 28 px; run embed again"
    assert capsys.readouterr().out.rstrip().endswith(line)
    assert command(["--store", str(store.root), "--dataset", "toy", "--csv"]) == 0
    out, err = capsys.readouterr()
    assert "not finished" not in out + err
    assert command(["--store", str(store.root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert line in err
