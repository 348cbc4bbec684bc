"""The report as a reader has it: made by the command, opened in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import evaluate.cli
import evaluate.probe_cli
from evaluate import published
from evaluate.report_cli import main
from tests.evaluate.conftest import RecordMaker, failure
from tests.service.browser import ARTEFACTS, chromium, watched

DATASETS = "phantom-cells,phantom-nodule"


@pytest.fixture(scope="module")
def store(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, embedded and evaluated, three seeds of a probe among them."""
    folder = tmp_path_factory.mktemp("report") / "store"
    there = ["--store", str(folder)]
    shutil.copytree(phantoms, folder, ignore=shutil.ignore_patterns("phantom-findings"))
    assert evaluate.cli.main(["--k", "11", "--intervals", "200", *there]) == 0
    assert evaluate.probe_cli.main(["--res", "28", *there]) == 0
    return folder


@pytest.fixture(scope="module")
def own(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    assert main(["--store", str(store), "--out", str(folder), "--against", "published"]) == 0
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    assert main(["--source", "published", "--data", str(folder), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def opened(browser: Browser, folder: Path, name: str, look: Any) -> Any:
    """What ``look`` finds on the page, which must be whole and ask for nothing else."""
    url = (folder / "report.html").as_uri()
    asked: list[str] = []
    with watched(browser, url, viewport={"width": 1300, "height": 900}) as (page, _):
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        assert [address for address in asked if not address.startswith("data:")] == [url]
        _check(page)
        ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"report-{name}.png", full_page=True)
        found = look(page)
        page.set_viewport_size({"width": 360, "height": 800})
        assert _width(page) <= 360
        return found


def _width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def _check(page: Page) -> None:
    """Every picture is there and described, every link leads somewhere, nothing is too wide."""
    pictures = page.evaluate("[...document.images].map((i) => [i.naturalWidth, i.alt])")
    assert pictures
    assert all(width > 100 and alt for width, alt in pictures)
    lost = page.evaluate(
        """[...document.querySelectorAll("a")].map((a) => a.getAttribute("href"))
           .filter((to) => !to.startsWith("#") || !document.getElementById(to.slice(1)))"""
    )
    assert lost == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert _width(page) <= 1300


def test_every_number_leads_to_its_record(browser: Browser, own: Path, store: Path) -> None:
    def look(page: Page) -> Any:
        return page.evaluate(
            """[...document.querySelectorAll("section#per-dataset td a[title^='record ']")].map(
               (a) => [a.textContent,
                 document.querySelector(a.getAttribute("href")).lastElementChild.textContent,
                 a.closest("table").tHead.rows[0].cells[a.closest("td").cellIndex].textContent])"""
        )

    found = opened(browser, own, "own", look)
    assert len(found) == 3  # k-NN of three cells; a probe's figure is of three records
    for text, name, head in found:
        record = json.loads((store / "results" / name).read_text())
        bounds = record["intervals"]["accuracy"]
        low, high = 100 * bounds["low"], 100 * bounds["high"]
        assert text == f"{100 * record['metrics']['accuracy']:.2f} [{low:.2f}, {high:.2f}]"
        assert head == f"accuracy, {record['size']} px"


def test_a_mean_names_its_records(browser: Browser, own: Path, store: Path) -> None:
    def look(page: Page) -> Any:
        rows = page.evaluate(
            """[...document.querySelectorAll("#table-records tbody tr")].map(
                 (row) => [row.id, row.lastElementChild.textContent])"""
        )
        spans = page.evaluate(
            """[...document.querySelectorAll("section#per-dataset td a[title^='records ']")].map(
                 (a) => [a.textContent, a.title])"""
        )
        return dict(rows), spans

    rows, spans = opened(browser, own, "own", look)
    assert len(spans) == 4  # accuracy and AUC of two probes
    for text, title in spans:
        first, last = map(int, re.findall(r"\d+", title))
        assert last == first + 2
        records = [
            json.loads((store / "results" / rows[f"record-{number}"]).read_text())
            for number in range(first, last + 1)
        ]
        means = [
            100 * sum(record["metrics"][metric] for record in records) / 3
            for metric in ("accuracy", "auc")
        ]
        assert any(text.startswith(f"{mean:.2f} ± ") for mean in means)
        assert len({record["protocol"]["seed"] for record in records}) == 3


def test_the_page_says_what_is_missing(own: Path) -> None:
    text = (own / "report.md").read_text()
    assert "| linear probe | hog | 64 px | 0 of 2 | all |" in text
    assert 'scope="row"' in (own / "report.html").read_text()
    assert "| k-NN \\(k" not in text
    assert "(1 of 2)" in text
    assert "There is only one model to compare schemes over: hog." in text


def test_the_report_of_the_published(browser: Browser, theirs: Path) -> None:
    def look(page: Page) -> Any:
        return page.inner_text("#table-summary-accuracy"), page.inner_text("#statistics")

    table, statistics = opened(browser, theirs, "published", look)
    assert re.search(r"densenet121\s+80.32 ± 0.93\s+84.62 ± 0.80\s+87.13 ± 0.56", table)
    for quoted in ("χ²(3) = 30.00", "χ²(2) = 14.60", "72.44", "76.97", "79.36", "80.10", "-2.803",
                   "0.886", "p < 0.0083", "p < 0.0167", "p < 0.0011"):  # fmt: skip
        assert quoted in statistics
    rows = list(csv.DictReader((theirs / "figures.csv").open()))
    assert len(rows) == len(published.table())


def test_every_picture_and_table_is_a_file(own: Path, theirs: Path) -> None:
    for folder, more in ((own, {"datasets", "embeddings", "reliability"}), (theirs, {"best"})):
        stems = {path.stem for path in (folder / "figures").iterdir()}
        assert {"distribution", "resolution", *more} <= stems
        for stem in stems:
            assert (folder / "figures" / f"{stem}.png").read_bytes()[:4] == b"\x89PNG"
            assert "<svg" in (folder / "figures" / f"{stem}.svg").read_text()
        names = {path.name for path in (folder / "tables").iterdir()}
        assert {"summary-accuracy.csv", "summary-accuracy.tex", "datasets.csv"} <= names
    assert {"cases-phantom-cells", "cases-phantom-nodule"} <= {
        path.stem for path in (own / "figures").iterdir()
    }


def test_the_same_records_give_the_same_report(store: Path, own: Path, tmp_path: Path) -> None:
    assert main(["--store", str(store), "--out", str(tmp_path), "--against", "published"]) == 0
    for path in own.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(own)).read_bytes(), path


def test_records_without_their_store_still_make_tables(store: Path, tmp_path: Path) -> None:
    asked = ["--store", str(tmp_path / "none"), "--results", str(store / "results")]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "The store has not, or no more as they were evaluated: hog phantom-cells" in text
    assert str(tmp_path / "none") not in text
    assert not (tmp_path / "out" / "figures" / "reliability.png").exists()
    assert "Accuracy (%), mean over 2 datasets" in text


def test_a_selection(store: Path, tmp_path: Path) -> None:
    asked = ["--dataset", "phantom-nodule", "--res", "28", "--model", "hog"]
    assert main([*asked, "--store", str(store), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "1 dataset, 1 model, 2 schemes, at 28 px: 2 accuracies." in text
    assert "phantom-cells" not in text


def test_a_damaged_record_is_named_and_the_others_count(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(store / "results", results)
    (results / "broken.json").write_text("{")
    asked = ["--store", str(store), "--results", str(results), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    assert "warning: left out: " in (err := capsys.readouterr().err)
    assert "broken.json" in err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--split", "val"], "there is no result record on val in "),
        (["--res", "128"], "no result record matches --dataset, --model and --res"),
        (["--dataset", "phantom-grade"], "no embeddings of phantom-grade are stored"),
        (["--model", "hug"], "did you mean hog"),
        (["--source", "published", "--res", "28"], "--res is for result records; drop it"),
        (["--source", "published", "--against", "published"], "--against is for result records"),
    ],
)
def test_what_cannot_be_reported(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    there = [] if "published" in asked else ["--store", str(store)]
    assert main([*asked, *there, "--out", str(tmp_path / "out")]) != 0
    assert said in failure(capsys)
    assert not (tmp_path / "out").exists()


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "there is no result record in" in failure(capsys)


def test_a_record_of_another_embedding_is_not_drawn(
    store: Path, tmp_path: Path, make_record: RecordMaker
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    record = make_record(dataset="phantom-nodule", accuracy=0.9)
    (results / "knn.json").write_text(record.to_json())
    asked = ["--store", str(store), "--results", str(results), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert (
        "Not to be computed again from the store as it is: phantom-nodule, k-NN (k = 11), hog, 28"
        in text
    )
    assert not (tmp_path / "out" / "figures" / "embeddings.png").exists()
