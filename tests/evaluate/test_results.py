from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from embedder.errors import EvaluationError, StoreError
from evaluate import results
from evaluate.results import Record
from tests.evaluate.conftest import RecordMaker

FIELDS = {
    "kind", "created", "dataset", "task", "size", "variant", "split", "protocol", "metrics",
    "counts", "fingerprint", "timings", "versions", "embedding_versions", "intervals",
    "confusion", "format", "schema",
}  # fmt: skip


def test_a_record_survives_the_way_through_json(make_record: RecordMaker) -> None:
    record = make_record(
        accuracy=1 / 3, auc=0.1 + 0.2, notes=("é", "two"), vote="softmax", temperature=0.07
    )
    assert Record.from_json(record.to_json()) == record


def test_the_form_of_a_record(make_record: RecordMaker) -> None:
    facts = json.loads(make_record().to_json())
    assert facts.keys() == FIELDS
    assert (facts["format"], facts["schema"]) == ("casebook-result", 1)
    assert facts["metrics"] == {
        "accuracy": 0.5, "balanced_accuracy": 0.25, "kappa": -0.125, "precision": 0.75,
        "auc": None, "notes": [],
    }  # fmt: skip


def test_records_are_appended_and_never_rewritten(tmp_path: Path, make_record: RecordMaker) -> None:
    (first,) = results.append(tmp_path / "results", [make_record(created="2026-01-01")])
    before, when = first.read_bytes(), first.stat().st_mtime_ns
    (second,) = results.append(tmp_path / "results", [make_record(created="2026-01-02")])
    assert first != second
    assert first.read_bytes() == before
    assert first.stat().st_mtime_ns == when
    assert results.paths(tmp_path / "results") == sorted([first, second])
    assert {r.created for r in results.read([first, second])} == {"2026-01-01", "2026-01-02"}
    assert {p.parent for p in (first, second)} == {tmp_path / "results"}


def test_file_names_tell_what_is_in_them(tmp_path: Path, make_record: RecordMaker) -> None:
    record = make_record(variant="timm--resnet18.a1_in1k", dataset="my.data", size=64)
    (path,) = results.append(tmp_path / "results", [record])
    assert path.name.startswith("knn-my.data-64-timm--resnet18.a1_in1k-test-")
    assert path.suffix == ".json"
    assert results.read([path]) == [record]
    assert [p.name for p in (tmp_path / "results").iterdir()] == [path.name]


def test_no_records_yet(tmp_path: Path) -> None:
    assert results.paths(tmp_path / "results") == []
    assert results.append(tmp_path / "results", []) == []


def test_untrained_is_told_by_the_checkpoint(make_record: RecordMaker) -> None:
    assert make_record(checkpoint="random:0").untrained
    assert not make_record(checkpoint="timm:resnet18.a1_in1k").untrained


def damaged(record: Record) -> dict[str, str]:
    text = record.to_json()
    facts = json.loads(text)
    return {
        "empty": "",
        "truncated": text[: len(text) // 2],
        "list": "[]",
        "number": "3",
        "null": "null",
        "foreign": '{"format": "something else", "schema": 1}',
        "newer": json.dumps(facts | {"schema": 2}),
        "missing": json.dumps({k: v for k, v in facts.items() if k != "counts"}),
        "unknown": json.dumps(facts | {"extra": 1}),
        "no metrics": json.dumps(facts | {"metrics": None}),
        "other metrics": json.dumps(facts | {"metrics": {"notes": []}}),
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "truncated", "list", "number", "null", "foreign", "newer", "missing", "unknown",
     "no metrics", "other metrics"],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path: Path, make_record: RecordMaker, kind: str) -> None:
    (good,) = results.append(tmp_path / "results", [make_record()])
    path = tmp_path / "results" / "broken.json"
    path.write_text(damaged(make_record())[kind])
    with pytest.raises(EvaluationError) as caught:
        results.read([good, path])
    message = str(caught.value)
    assert message.startswith(f"{path}: it is ")
    assert message.endswith("; remove it to go on without it")
    assert "\n" not in message


def test_a_newer_record_says_so(make_record: RecordMaker) -> None:
    with pytest.raises(EvaluationError, match=r"schema 2; this casebook reads .* schema 1"):
        Record.from_json(replace(make_record(), schema=2).to_json())


def test_no_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match=r"binary\.json"):
        results.read([path])


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        results.read([tmp_path / "gone.json"])
    assert str(caught.value) == f"there is no file {tmp_path / 'gone.json'}; check its name"
    with pytest.raises(EvaluationError, match=f"cannot read {tmp_path}: Is a directory"):
        results.read([tmp_path])


def test_a_store_that_cannot_be_written(tmp_path: Path, make_record: RecordMaker) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=f"cannot use {tmp_path / 'results'}"):
        results.append(tmp_path / "results", [make_record()])


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    (kept,) = results.append(folder, [make_record()])
    before = kept.read_bytes()
    synced: list[int] = []

    def fail(file: int) -> None:
        synced.append(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="no room"):
        results.append(folder, [make_record()])
    assert synced
    assert list(folder.iterdir()) == [kept]
    assert kept.read_bytes() == before
