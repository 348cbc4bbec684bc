"""Linear probes in the service: which head serves, what it answers, what it does not know of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.special import log_softmax

from embedder.datasets import Dataset
from embedder.sources import Library
from embedder.store import Cell, Store, read_cell
from embedder.types import Distance, Split, Task
from evaluate import results
from evaluate.logistic import NEVER, LogisticProtocol
from evaluate.metrics import predict
from evaluate.probe import ProbeProtocol
from evaluate.probing import Probing, evaluate
from evaluate.replay import replay
from index import heads
from index.build import Kind
from index.heads import Head, Provenance
from index.reference import ReferenceIndex
from index.search import SupportSet
from service.collection import Collection
from service.overlay import Overlay, overlay_path
from service.probe import ServedProbe, find_probe
from service.served import fingerprint_of
from tests.commands import run
from tests.embedder.cells import store_cell
from tests.service.conftest import Server, Tiny, TinyMaker
from tests.service.test_routes import add, classify, picture, png, problem
from tests.service.test_server import classify_all

TOY = Dataset("toy", Task.MULTICLASS, 1, (30, 8, 6), ("a", "b", "c"), "CC0")
WIDTH = 5


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return store_cell(tmp_path, TOY, WIDTH, 1)


def write_head(root: Path, cell: Cell, seed: int, **changes: Any) -> Path:
    """A head of random weights, drawn by its seed."""
    rng = np.random.default_rng(seed)
    counts = {str(split): len(cell.live(split)) for split in (Split.TRAIN, Split.VAL)}
    facts = {
        "dataset": cell.dataset.name, "variant": cell.header.variant, "task": cell.dataset.task,
        "classes": cell.dataset.classes, "fingerprint": cell.header.fingerprint,
        "counts": {**counts, "erased": 0}, "solver": "adamw", "protocol": {"batch": 64},
        "seed": seed, "chosen": {"loss": 0.0}, "versions": {},
    }  # fmt: skip
    weight = rng.standard_normal((len(cell.dataset.classes), WIDTH)).astype(np.float32)
    bias = rng.standard_normal(len(weight)).astype(np.float32)
    known = Provenance(**(facts | changes))  # type: ignore[arg-type]
    return heads.write(root, Head(weight, bias, known))


def loss_of(place: Path, cell: Cell, without: tuple[int, ...] = ()) -> float:
    head = heads.read(place)
    rows = [row for row in range(TOY.count(Split.VAL)) if row not in without]
    vectors = cell.embeddings(Split.VAL)[rows].astype(np.float64)
    truth = cell.labels(Split.VAL)[rows]
    shares = log_softmax(vectors @ head.weight.T.astype(np.float64) + head.bias, axis=1)
    return float(-np.take_along_axis(shares, truth, axis=1).mean())


# Which head serves


def test_the_head_with_the_lowest_loss_on_val(cell: Cell, tmp_path: Path) -> None:
    assert find_probe(tmp_path, cell, ()) is None
    places = [write_head(tmp_path, cell, seed) for seed in range(6)]
    losses = [loss_of(place, cell) for place in places]
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    best = places[int(np.argmin(losses))]
    assert found.path == best.relative_to(tmp_path).as_posix()
    assert found.path.startswith("heads/toy/28/fake/adamw-")
    assert found.loss == pytest.approx(min(losses), rel=1e-9)
    best.unlink()
    second = find_probe(tmp_path, cell, ())
    assert second is not None
    assert second.loss == pytest.approx(sorted(losses)[1], rel=1e-9)


def test_erased_cases_of_val_have_no_say(cell: Cell, tmp_path: Path) -> None:
    place = write_head(tmp_path, cell, 0)
    gone = [(Split.VAL, 2), (Split.VAL, 5), (Split.TRAIN, 1), (Split.TEST, 0)]
    found = find_probe(tmp_path, cell, gone)
    assert found is not None
    assert found.loss == pytest.approx(loss_of(place, cell, (2, 5)), rel=1e-9)
    none = find_probe(tmp_path, cell, [(Split.VAL, row) for row in range(8)])
    assert none is not None
    assert none.loss == math.inf


def test_of_equal_heads_the_first_by_its_path(cell: Cell, tmp_path: Path) -> None:
    first = heads.read(write_head(tmp_path, cell, 0))
    for batch in range(5):
        known = replace(first.provenance, protocol={"batch": batch})
        heads.write(tmp_path, Head(first.weight, first.bias, known))
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    names = heads.paths(tmp_path, "toy", 28, "fake")
    assert len(names) == 6
    assert found.path == names[0].relative_to(tmp_path).as_posix()


def test_a_head_that_rules_out_what_there_is_comes_last(cell: Cell, tmp_path: Path) -> None:
    known = heads.read(write_head(tmp_path, cell, 0))
    other = replace(known.provenance, solver="a")
    bias = np.array([50, 0, NEVER], np.float32)
    assert (cell.labels(Split.VAL) == 2).any()
    never = Head(np.zeros_like(known.weight), bias, other)
    heads.write(tmp_path, never)
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    assert found.path.startswith("heads/toy/28/fake/adamw")
    (tmp_path / found.path).unlink()
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    assert found.loss == math.inf
    with open_toy(tmp_path, cell) as toy:
        assert found.describe(toy.state).val_loss is None


def damage(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def of_no_file(place: Path) -> None:
    place.unlink()
    place.mkdir()


def unreadable(place: Path) -> None:
    place.write_bytes(b"\xff" * 100)


@pytest.mark.parametrize("spoil", [damage, of_no_file, unreadable])
def test_a_damaged_head_is_left_out(
    cell: Cell, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    places = [write_head(tmp_path, cell, seed) for seed in range(2)]
    best, other = sorted(places, key=lambda place: loss_of(place, cell))
    spoil(best)
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    assert found.path == other.relative_to(tmp_path).as_posix()
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"fake toy 28 px: a linear probe is left out; {best} is no head")
    assert "delete it and train again" in text


def test_a_head_of_another_cell_is_left_out(
    cell: Cell, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = replace(cell.header.fingerprint, weights="sha256:22")
    place = write_head(tmp_path, cell, 0, fingerprint=changed)
    assert find_probe(tmp_path, cell, ()) is None
    (record,) = caplog.records
    assert f"{place} was trained on another cell: weights is sha256:22" in record.getMessage()


def test_a_file_in_the_place_of_the_folder(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("in the way")
    assert find_probe(tmp_path, cell, ()) is None
    place = tmp_path / "other/heads/toy/28/fake"
    place.parent.mkdir(parents=True)
    place.symlink_to(place)
    assert find_probe(tmp_path / "other", cell, ()) is None


# What it does not know of


@contextmanager
def open_toy(root: Path, cell: Cell) -> Iterator[Collection]:
    overlay = Overlay(overlay_path(root, "toy"), cell.dataset)
    toy = Collection(cell.dataset, overlay, {fingerprint_of(cell): cell}, Kind.CPU)
    try:
        yield toy
    finally:
        toy.close()


def added(toy: Collection, seed: int) -> int:
    vector = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)
    name, _ = toy.add(np.array([1], np.uint8), {28: b"png"}, dict.fromkeys(toy.state.views, vector))
    return int(name.rpartition("/")[2])


def test_changes_since(cell: Cell, tmp_path: Path) -> None:
    write_head(tmp_path, cell, 0)
    probe = find_probe(tmp_path, cell, ())
    assert probe is not None
    with open_toy(tmp_path, cell) as toy:
        seen = []

        def look() -> None:
            seen.append(probe.changes_since(toy.state))
            assert probe.describe(toy.state).changes_since == seen[-1]

        look()
        number = added(toy, 1)
        look()
        added(toy, 2)
        toy.erase(Split.TRAIN, 3)
        look()
        toy.erase(Split.VAL, 0)
        look()
        toy.erase(Split.TEST, 0)
        look()
        toy.erase(None, number)
        look()
    assert seen == [0, 1, 3, 4, 4, 3]


def trained(counts: dict[str, int], place: Path) -> ServedProbe:
    head = heads.read(place)
    known = replace(head.provenance, counts=counts)
    return ServedProbe(Head(head.weight, head.bias, known), "heads/x", 0.5, TOY)


def test_changes_since_a_cell_that_had_lost_cases(cell: Cell, tmp_path: Path) -> None:
    """Erased before it was trained: known. A copy of the overlay that is older: not known."""
    place = write_head(tmp_path, cell, 0)
    with open_toy(tmp_path, cell) as toy:
        for row in (3, 4):
            toy.erase(Split.TRAIN, row)
        toy.erase(Split.VAL, 0)
        now = trained({"train": 28, "val": 7, "erased": 3}, place)
        assert now.changes_since(toy.state) == 0
        assert trained({"train": 29, "val": 8, "erased": 1}, place).changes_since(toy.state) == 2
        assert trained({"train": 27, "val": 7, "erased": 4}, place).changes_since(toy.state) == 1


def test_whose_record_it_is(cell: Cell, tmp_path: Path) -> None:
    write_head(tmp_path, cell, 7, chosen={"loss": 0.25, "best_epoch": 3})
    probe = find_probe(tmp_path, cell, ())
    assert probe is not None
    record = {
        "notes": [], "batch": 64, "seed": 7, "loss": 0.25, "best_epoch": 3, "head": probe.path,
    }  # fmt: skip
    assert probe.is_of(record)
    for change in (
        {"loss": 0.5},
        {"seed": 8},
        {"head": "heads/other"},
        {"thresholds": [0.3]},
        {"notes": ["x"]},
    ):
        assert not probe.is_of(record | change)


# What it answers


def train(tiny: Tiny, *solvers: ProbeProtocol | LogisticProtocol) -> list[dict[str, Any]]:
    """As ``probe-eval`` does; the records."""
    cell = read_cell(tiny.store / "tiny/28/hog.h5")
    records = [one for how in solvers for one in evaluate(cell, Probing(how), tiny.store)]
    paths = results.append(tiny.store / "results", records)
    return [json.loads(path.read_text()) for path in paths]


def restart(tiny: Tiny, make_tiny: TinyMaker) -> Tiny:
    tiny.client.__exit__(None, None, None)
    return make_tiny()


FEW = LogisticProtocol(cs=(0.01, 0.1))
QUICK = ProbeProtocol(seeds=(1, 2), epochs=2)


def scores_of(answer: dict[str, Any]) -> list[float]:
    return [score["score"] for score in answer["scores"]]


def test_the_whole_answer(tiny: Tiny, make_tiny: TinyMaker) -> None:
    plain = classify(tiny, picture(), k=5)
    records = train(tiny, FEW, QUICK)
    assert len({record["protocol"]["head"] for record in records}) == 3
    tiny = restart(tiny, make_tiny)
    answer = classify(tiny, picture(), k=5, vote="probe")
    assert (answer["vote"], answer["k"]) == ("probe", 5)
    chosen = heads.read(tiny.store / answer["probe"]["head"])
    known = chosen.provenance
    assert answer["probe"] == {
        "head": heads.path(tiny.store, known).relative_to(tiny.store).as_posix(),
        "solver": known.solver, "seed": known.seed, "train_cases": 40, "val_cases": 4,
        "val_loss": answer["probe"]["val_loss"], "changes_since": 0,
    }  # fmt: skip
    found = answer["neighbours"]
    assert [case["id"] for case in found] == [case["id"] for case in plain["neighbours"]]
    for case in found:
        assert case["agrees"] == (case["labels"] == answer["labels"])
    assert answer["label"] == int(np.argmax(scores_of(answer)))
    assert answer["labels"] == [{"index": answer["label"], "name": answer["label_name"]}]
    assert sum(scores_of(answer)) == pytest.approx(1)
    assert answer["familiarity"] == plain["familiarity"]
    again = classify(tiny, picture(), k=5)
    assert again["probe"] is None
    assert {**again, "timings": None} == {**plain, "timings": None}


def test_solvers_are_compared_by_one_loss(tiny: Tiny, make_tiny: TinyMaker) -> None:
    """What each recorded agrees with it here, where every class of val was trained on."""
    recorded = {}
    for record in train(tiny, FEW, QUICK):
        how = record["protocol"]
        recorded[how["head"]] = how.get("loss", min(how.get("losses", [[math.inf]])[0]))
    tiny = restart(tiny, make_tiny)
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert index["probe"]["head"] == min(recorded, key=recorded.__getitem__)
    assert index["probe"]["val_loss"] == pytest.approx(min(recorded.values()), rel=1e-4)


def test_a_record_and_a_head_from_when_the_chosen_c_was_called_cs(
    cell: Cell, tmp_path: Path
) -> None:
    how = {"solver": "lbfgs", "cs": [0.1, 1.0]}
    chosen = {"cs": [1.0], "losses": [[0.5, 0.4]], "notes": []}
    plain = heads.read(write_head(tmp_path, cell, 1))
    heads.path(tmp_path, plain.provenance).unlink()
    known = replace(plain.provenance, seed=None, solver="lbfgs", protocol=how, chosen=chosen)
    heads.write(tmp_path, Head(plain.weight, plain.bias, known))
    found = find_probe(tmp_path, cell, ())
    assert found is not None
    record = {"notes": [], **how, "seed": None, **chosen, "head": found.path}
    assert found.is_of(record)
    assert not found.is_of(record | {"cs": [0.1]})


def test_every_way_to_ask(tiny: Tiny, make_tiny: TinyMaker) -> None:
    train(tiny, FEW)
    tiny = restart(tiny, make_tiny)
    cell = read_cell(tiny.store / "tiny/28/hog.h5")
    (place,) = heads.paths(tiny.store, "tiny", 28, "hog")
    expected = heads.read(place, cell).scores(cell.embeddings(Split.TEST))
    for row in range(12):
        body = {"id": f"tiny/test/{row}", "vote": "probe", "k": 3}
        by_case = tiny.client.post("/search", json=body).json()
        assert scores_of(by_case) == pytest.approx(expected[row].tolist(), rel=1e-9)
        vector = cell.embeddings(Split.TEST)[row].tolist()
        body = {"embedding": vector, "vote": "probe", "k": 3}
        by_vector = tiny.client.post("/search", json=body).json()
        assert by_vector["scores"] == by_case["scores"]
        assert by_vector["neighbours"] == by_case["neighbours"]
    files = [("files", (f"{seed}.png", png(picture(seed)))) for seed in range(3)]
    batch = tiny.client.post("/classify/batch", files=files, data={"vote": "probe", "k": 3})
    for seed, item in enumerate(batch.json()["items"]):
        single = classify(tiny, picture(seed), vote="probe", k=3)
        assert item["answer"]["probe"] == single["probe"]
        assert scores_of(item["answer"]) == pytest.approx(scores_of(single), rel=1e-6)
    blank = np.full((28, 28, 1), 7, np.uint8)
    refused = tiny.client.post("/classify", files={"file": png(blank)}, data={"vote": "probe"})
    problem(refused, 422, "an image that is blank")


def test_an_index_without_one(tiny: Tiny) -> None:
    words = (
        "hog tiny 28 px has no linear probe; run probe-eval for it, then restart the service, or "
        "use another vote"
    )
    files, data = {"file": png(picture())}, {"vote": "probe"}
    problem(tiny.client.post("/classify", files=files, data=data), 422, words)
    search = {"id": "tiny/test/0", "vote": "probe"}
    problem(tiny.client.post("/search", json=search), 422, words)
    batch = tiny.client.post("/classify/batch", files={"files": png(picture())}, data=data).json()
    assert batch["items"][0]["answer"] is None
    assert batch["items"][0]["problem"]["detail"] == words
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert index["probe"] is None


def test_a_start_among_broken_heads(tiny: Tiny, make_tiny: TinyMaker) -> None:
    (record,) = train(tiny, FEW)
    place = tiny.store / record["protocol"]["head"]
    place.with_name("other.safetensors").write_bytes(place.read_bytes()[:-4])
    place.with_name("none.safetensors").mkdir()
    place.with_name(f"{place.name}.new").write_bytes(b"left by a kill")
    tiny = restart(tiny, make_tiny)
    answer = classify(tiny, picture(), vote="probe")
    assert answer["probe"]["head"] == record["protocol"]["head"]


def test_changes_are_told_from_the_start_on(tiny: Tiny, make_tiny: TinyMaker) -> None:
    train(tiny, FEW)
    tiny = restart(tiny, make_tiny)
    before = classify(tiny, picture(), vote="probe")
    add(tiny, picture(9), "2")
    for name in ("train/3", "val/0", "test/0"):
        tiny.client.delete(f"/cases/tiny/{name}", headers=tiny.write)
    after = classify(tiny, picture(), vote="probe")
    assert (after["index_version"], after["probe"]["changes_since"]) == (4, 3)
    assert scores_of(after) == scores_of(before)
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert index["probe"]["changes_since"] == 3
    tiny.client.__exit__(None, None, None)
    run(tiny.store.parent, "casebook", "compact")
    tiny = make_tiny()
    again = classify(tiny, picture(), vote="probe")
    assert scores_of(again) == scores_of(before)
    assert again["probe"]["changes_since"] == 3
    (record,) = train(tiny, FEW)
    tiny = restart(tiny, make_tiny)
    anew = classify(tiny, picture(), vote="probe")
    assert anew["probe"]["head"] == record["protocol"]["head"] == before["probe"]["head"]
    assert (anew["probe"]["train_cases"], anew["probe"]["val_cases"]) == (39, 3)
    assert anew["probe"]["changes_since"] == 1  # no probe is trained on an added case
    assert scores_of(anew) != scores_of(before)
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert index["probe"]["accuracy"]["created"] == record["created"]


def test_its_accuracy_on_record(tiny: Tiny, make_tiny: TinyMaker) -> None:
    records = train(tiny, FEW, QUICK)
    val = Probing(FEW, Split.VAL)
    cell = read_cell(tiny.store / "tiny/28/hog.h5")
    results.append(tiny.store / "results", evaluate(cell, val, tiny.store))
    later = train(tiny, FEW, QUICK)
    tiny = restart(tiny, make_tiny)
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    of_head = [r for r in later if r["protocol"]["head"] == index["probe"]["head"]]
    (record,) = of_head
    assert index["probe"]["accuracy"] == {
        "value": record["metrics"]["accuracy"], "created": record["created"],
    }  # fmt: skip
    assert index["accuracy"] == []
    for path in (tiny.store / "results").iterdir():
        path.unlink()
    assert tiny.client.get("/indexes").json()["indexes"][0]["probe"]["accuracy"] is None
    other = records[0] | {"protocol": records[0]["protocol"] | {"head": "heads/x"}}
    broken = records[0] | {"protocol": ["head"]}
    for number, facts in enumerate((other, broken)):
        (tiny.store / f"results/{number}.json").write_text(json.dumps(facts))
    assert tiny.client.get("/indexes").json()["indexes"][0]["probe"]["accuracy"] is None


def test_a_vote_of_other_rules_is_not_the_accuracy_of_this_one(tiny: Tiny) -> None:
    """Few-shot draws, corrected priors and chosen thresholds are not how the service decides."""
    run(tiny.store.parent, "knn-eval", "--k", "3")
    (path,) = (tiny.store / "results").iterdir()
    record = json.loads(path.read_text())
    for name in ("shots", "priors", "thresholds"):
        facts = record | {"protocol": record["protocol"] | {name: 5}, "created": "2999"}
        facts["metrics"] = record["metrics"] | {"accuracy": 0.001}
        (path.parent / f"{name}.json").write_text(json.dumps(facts))
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert [one["value"] for one in index["accuracy"]] == [record["metrics"]["accuracy"]]


def test_several_labels(make_tiny: TinyMaker) -> None:
    tiny = make_tiny({"label_count": 4, "classes": 2})
    train(tiny, FEW)
    tiny = restart(tiny, make_tiny)
    answer = classify(tiny, picture(), vote="probe", k=7)
    assert answer["label"] is answer["label_name"] is None
    present = [label["index"] for label in answer["labels"]]
    assert present == [number for number, one in enumerate(scores_of(answer)) if one > 0.5]
    for case in answer["neighbours"]:
        theirs = {label["index"] for label in case["labels"]}
        assert case["agrees"] == (set(present) <= theirs if present else not theirs)


# As evaluated


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("phantom-cells", Task.MULTICLASS),
        ("phantom-nodule", Task.BINARY),
        ("phantom-findings", Task.MULTILABEL),
    ],
)
def test_a_whole_split_as_evaluated(probed: Server, dataset: str, task: Task) -> None:
    """The same labels and scores as ``probe-eval`` has from the same head, and its accuracy."""
    source = Library(Path("nowhere")).open(dataset, 28)
    answers = classify_all(probed, source, dataset=dataset, res=28, vote="probe")
    cell = read_cell(probed.store / dataset / "28" / "hog.h5")
    assert cell.dataset.task is task
    (path,) = (probed.store / "results").glob(f"probe-{dataset}-28-hog-test-*.json")
    (record,) = results.read([path])
    scores = replay(record, Store(probed.store)).scores
    assert {answer["probe"]["head"] for answer in answers} == {record.protocol["head"]}
    served = np.array([scores_of(answer) for answer in answers])
    np.testing.assert_allclose(served, scores, rtol=1e-9, atol=1e-15)
    predicted = predict(scores, task)
    found = np.zeros_like(predicted)
    for line, answer in enumerate(answers):
        for label in answer["labels"]:
            if task is Task.MULTILABEL:
                found[line, label["index"]] = 1
            else:
                found[line, 0] = label["index"]
    assert found.tolist() == predicted.tolist()
    accuracy = (found == cell.labels(Split.TEST)).mean()
    assert record.metrics.accuracy == pytest.approx(accuracy)
    listed = httpx.get(f"{probed.url}/indexes", trust_env=False).json()["indexes"]
    (index,) = [one for one in listed if (one["dataset"], one["res"]) == (dataset, 28)]
    assert index["probe"]["accuracy"]["value"] == record.metrics.accuracy
    support = SupportSet.of(cell.embeddings(Split.TRAIN), Distance.COSINE, "train")
    nearest = ReferenceIndex(support).search(cell.embeddings(Split.TEST)[:20], 11)
    names = [[case["id"] for case in answer["neighbours"]] for answer in answers[:20]]
    assert names == [[f"{dataset}/train/{row}" for row in line] for line in nearest.rows]
