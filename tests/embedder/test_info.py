from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedder.info import main
from embedder.types import Split
from embedder.writer import CellWriter
from tests.embedder.cells import header, labels, vectors


def write(root: Path, variant: str, rows: int) -> Path:
    path = root / "tiny" / "28" / f"{variant}.h5"
    with CellWriter(path, header(variant), labels()) as writer:
        for split in Split:
            writer.append(split, 0, vectors(split)[:rows])
        if rows >= 20:
            writer.finish()
    return path


def test_an_empty_store_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "holds no embeddings yet; run embed" in output
    for name in ("dino", "biomedclip", "hog", "tissuemnist", "phantom-cells", "CC BY-NC 4.0"):
        assert name in output


def test_what_is_stored_incomplete_or_damaged_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "fake", 20)
    write(tmp_path, "begun", 4)
    bad = write(tmp_path, "bad", 20)
    bad.write_bytes(b"not a cell")
    assert main(["--store", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "2 cells, 1 incomplete" in output
    assert "complete" in output
    assert "36 % done" in output  # 4 rows of each split, of 33 rows in all
    assert f"unreadable: {bad}" in output


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "fake", 20)
    write(tmp_path, "begun", 4)
    assert main(["--store", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (cell,), (begun,) = facts["cells"], facts["incomplete"]
    assert (cell["model"], cell["dataset"], cell["res"]) == ("fake", "tiny", 28)
    assert (cell["images"], cell["width"]) == (33, 6)
    assert cell["bytes"] == (tmp_path / "tiny" / "28" / "fake.h5").stat().st_size
    assert begun["done"] == 12
