from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from embedder.errors import EvaluationError, StoreError, UsageError
from evaluate import bundle
from evaluate.grid import Grid, Item
from evaluate.report import Part, Picture, Report, Section


def report(*parts: Part) -> Report:
    return Report("Toy", ("A lead.",), (Section("one", "One", parts),))


def table(name: str) -> Grid:
    return Grid(name, "A table", ("a",), ((Item("1"),),), "l")


def picture(stem: str) -> Picture:
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "x")
    return Picture(stem, "A picture", "It shows x.", figure)


def write(folder: Path, *parts: Part) -> Path:
    return bundle.write(report(*parts), "a,b\n", {"x": 1}, folder, lambda name: None)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_every_part_is_a_file_and_the_page_has_all(tmp_path: Path) -> None:
    page = write(tmp_path / "deep" / "out", table("t"), picture("p"), "Words.")
    assert files(page.parent) == [
        "figures.csv", "figures/p.png", "figures/p.svg", "files.json", "report.html", "report.md",
        "statistics.json", "tables/t.csv", "tables/t.tex",
    ]  # fmt: skip
    assert json.loads((page.parent / "statistics.json").read_text()) == {"x": 1}
    assert "data:image/svg+xml;base64," in page.read_text()
    assert "](figures/p.png)" in (page.parent / "report.md").read_text()


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    blocks = []
    for name in ("a", "b"):
        page = write(tmp_path / name, table("t"), picture("p"))
        blocks.append({f: (page.parent / f).read_bytes() for f in files(page.parent)})
    assert blocks[0] == blocks[1]


def test_a_later_report_removes_what_it_has_not_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, table("old"), picture("old"))
    (tmp_path / "tables" / "mine.txt").write_text("mine")
    (tmp_path / "notes.md").write_text("mine")
    write(tmp_path, table("new"))
    assert files(tmp_path) == [
        "figures.csv", "files.json", "notes.md", "report.html", "report.md", "statistics.json",
        "tables/mine.txt", "tables/new.csv", "tables/new.tex",
    ]  # fmt: skip


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="holds other files; give --out a new folder"):
        write(tmp_path)
    assert files(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "files": []}'])
def test_a_list_that_is_none_is_other_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "files.json").write_text(text)
    with pytest.raises(UsageError, match="holds other files"):
        write(tmp_path)


def test_a_list_that_was_tampered_with_names_no_other_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, table("t"))
    precious = tmp_path / "precious"
    precious.write_text("mine")
    names = [
        "../precious",
        "tables/../../precious",
        str(precious),
        "report.html",
        7,
        "tables/t.csv",
    ]
    (out / "files.json").write_text(json.dumps({"format": "casebook-report", "files": names}))
    write(out)
    assert precious.read_text() == "mine"
    assert (out / "report.html").exists()
    assert not (out / "tables" / "t.csv").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".x", "a\0", ""])
def test_a_name_that_is_no_file_name_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(EvaluationError, match="is no name for a file"):
        write(tmp_path / "out", table(name))
    assert files(tmp_path) == []


def test_an_interrupted_report_can_be_made_again(tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name.endswith(".tex"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle.write(report(table("t")), "", {}, tmp_path, interrupt)
    write(tmp_path, table("u"))
    assert "tables/t.csv" not in files(tmp_path)
    assert "tables/u.csv" in files(tmp_path)


def test_a_check_makes_nothing(tmp_path: Path) -> None:
    bundle.check(tmp_path / "a" / "b")
    assert files(tmp_path) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises((UsageError, StoreError)):
            bundle.check(folder)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StoreError, match="--out"):
            write(folder)
