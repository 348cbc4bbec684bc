"""The page at ``/`` in a real browser, against a real server."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from embedder.datasets import DATASETS
from embedder.phantom import PhantomSource
from embedder.types import Split
from service.keyring import FILE, Keyring, Scope
from tests.commands import run
from tests.conftest import write_npz
from tests.service.browser import Desk, chromium, watched
from tests.service.conftest import serving

CELL = "?dataset=phantom-cells&model=hog&res=28&k=11&vote=majority&case=phantom-cells/test/30"


class Server(Protocol):
    @property
    def url(self) -> str: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dataset of noise by hog and by an untrained network; a case is added, one erased."""
    folder = tmp_path_factory.mktemp("changed")
    npz = str(write_npz(folder / "noise.npz", counts=(40, 4, 12)))
    run(folder, "embed", "--model", "hog", "--dataset", npz)
    vit = ("--model", "timm:test_vit.r160_in1k", "--random-weights", "3")
    run(folder, "embed", *vit, "--dataset", npz)
    run(folder, "knn-eval", "--k", "5")
    key = Keyring(folder / "store" / FILE).add("writer", Scope.WRITE)
    with (
        serving(folder, folder / "store", "--dataset", npz) as running,
        httpx.Client(
            base_url=running.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        ) as client,
    ):
        form = {"dataset": "noise", "label": "1"}
        client.post("/cases", data=form, files={"file": cell()}).raise_for_status()
        client.delete("/cases/noise/train/0").raise_for_status()
        yield running


@pytest.fixture
def changed_desk(browser: Browser, changed: Server) -> Iterator[Desk]:
    with watched(browser, changed.url) as (page, watch):
        yield Desk(page, watch, changed.url)


@pytest.fixture
def probed_desk(browser: Browser, probed: Server, request: pytest.FixtureRequest) -> Iterator[Desk]:
    options = getattr(request, "param", {})
    with watched(browser, probed.url, **options) as (page, watch):
        yield Desk(page, watch, probed.url)


@pytest.fixture
def desk(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Desk]:
    options = getattr(request, "param", {})
    with watched(browser, server.url, **options) as (page, watch):
        yield Desk(page, watch, server.url)


PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}
DARK = {"color_scheme": "dark"}
CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


def cell(row: int = 30) -> bytes:
    """A test image of phantom-cells as a PNG."""
    pixels = PhantomSource(DATASETS["phantom-cells"], 28).pick(Split.TEST, [row])[0]
    return _png(Image.fromarray(pixels))


def stripes() -> bytes:
    """A picture unlike any cell, and not square."""
    down, across = np.mgrid[:300, :400]
    waves = 127 + 120 * np.sin(across / 9) * np.cos(down / 23)
    return _png(Image.fromarray(waves.astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# What is sent


def test_the_page_is_plain_and_keeps_to_itself(server: Server) -> None:
    answer = httpx.get(f"{server.url}/", trust_env=False)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "For research only; not a medical device" in answer.text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", answer.text)
    assert re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.S) == [
        (' type="module" src="static/page.js"', "")
    ]
    assert "http:" not in answer.text
    assert "https:" not in answer.text


def test_files_are_asked_about_each_time(server: Server) -> None:
    first = httpx.get(f"{server.url}/static/page.js", trust_env=False)
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(
        f"{server.url}/static/page.js",
        headers={"If-None-Match": first.headers["etag"]},
        trust_env=False,
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("desk", [{"java_script_enabled": False}], indirect=True)
def test_without_script_it_says_what_it_is(desk: Desk) -> None:
    desk.visit()
    expect(desk.page.locator("noscript p")).to_contain_text("needs JavaScript")
    body = desk.page.locator("body")
    for words in ("not a medical device", "phantom-findings", "eosinophil"):
        expect(body).to_contain_text(words)
    expect(desk.page.locator("#file")).to_be_hidden()


# Choosing an image


def test_a_chosen_file_is_classified_as_the_stored_case_is(desk: Desk) -> None:
    desk.visit()
    expect(desk.page.locator("#start")).to_be_visible()
    answer = desk.answer(lambda: desk.choose("cell.png", cell()))
    assert answer["query"] is None
    expect(desk.page.locator("#query-name")).to_have_text("cell.png")
    expect(desk.page.locator("#own")).to_be_hidden()
    stored = desk.answer(lambda: desk.visit(CELL))
    assert stored["query"] == "phantom-cells/test/30"
    assert stored["labels"] == answer["labels"]
    assert _ids(stored) == _ids(answer)
    expect(desk.page.locator("#own")).to_contain_text("Labelled eosinophil: the prediction")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_file_can_be_dropped_anywhere_or_pasted(desk: Desk, event: str) -> None:
    desk.visit()
    answer = desk.answer(lambda: desk.hand(event, ["given.png"], cell()))
    assert answer["dataset"] == "phantom-cells"
    expect(desk.page.locator("#query-name")).to_have_text("given.png")
    expect(desk.page.locator("body")).not_to_have_class(re.compile("dragging"))


def test_of_several_files_the_first_is_taken_and_it_says_so(desk: Desk) -> None:
    desk.visit()
    desk.answer(lambda: desk.hand("drop", ["one.png", "two.png"], cell()))
    expect(desk.page.locator("#upload-alert")).to_contain_text("one.png is the one shown")


def test_names_are_never_markup(desk: Desk) -> None:
    name = "<img src=x onerror=alert(1)>&amp;.png"
    desk.visit()
    desk.answer(lambda: desk.choose(name, cell()))
    expect(desk.page.locator("#query-name")).to_have_text(name)
    assert desk.page.locator("#query-name *").count() == 0


def test_examples_and_others(desk: Desk) -> None:
    desk.visit()
    examples = desk.page.locator(".example")
    expect(examples).to_have_count(8)
    first = examples.first.get_attribute("aria-label") or ""
    answer = desk.answer(examples.first.click)
    assert first == f"Example {answer['query']}"
    expect(examples.first).to_have_attribute("aria-current", "true")
    with desk.page.expect_response(lambda response: "/cases?" in response.url) as drawn:
        desk.page.get_by_role("button", name="Other examples").click()
    case = drawn.value.json()["cases"][0]
    expect(examples.first).to_have_attribute("aria-label", f"Example {case['id']}")
    assert case["split"] == "test"


def test_of_two_draws_of_examples_the_later_stays(desk: Desk) -> None:
    desk.visit()
    held: list[Route] = []
    drawn = re.compile("/cases[?]")
    desk.page.route(drawn, lambda route: held.append(route), times=1)
    others = desk.page.get_by_role("button", name="Other examples")
    others.click()
    _until(desk.page, lambda: bool(held))
    with desk.page.expect_response(drawn) as second:
        others.click()
    kept = f"Example {second.value.json()['cases'][0]['id']}"
    first = desk.page.locator(".example").first
    expect(first).to_have_attribute("aria-label", kept)
    with desk.page.expect_response(drawn) as late:
        held[0].continue_()
    assert f"Example {late.value.json()['cases'][0]['id']}" != kept
    desk.page.wait_for_timeout(100)
    expect(first).to_have_attribute("aria-label", kept)


_HOLD_SLOW_FILES = """
const read = Blob.prototype.arrayBuffer;
Blob.prototype.arrayBuffer = function () {
    if (this.name !== "slow.png") return read.call(this);
    return new Promise((done) => { window.release = () => done(read.call(this)); });
};
"""


@pytest.mark.parametrize("then", ["file", "example", "back"])
def test_a_file_that_is_read_too_late_is_dropped(desk: Desk, then: str) -> None:
    desk.page.add_init_script(_HOLD_SLOW_FILES)
    desk.visit()
    example = desk.page.locator(".example").nth(2)
    desk.answer(desk.page.locator(".example").first.click)
    first = desk.page.locator("#query-name").inner_text()
    desk.answer(desk.page.locator(".example").nth(1).click)
    desk.choose("slow.png", stripes())
    if then == "file":
        desk.answer(lambda: desk.choose("quick.png", cell()))
        wanted = "quick.png"
    elif then == "example":
        desk.answer(example.click)
        wanted = (example.get_attribute("aria-label") or "").removeprefix("Example ")
    else:
        desk.answer(desk.page.go_back)
        wanted = first
    address = desk.page.url
    desk.page.evaluate("window.release()")
    desk.page.wait_for_timeout(200)
    expect(desk.page.locator("#query-name")).to_have_text(wanted)
    assert desk.page.url == address


@pytest.mark.parametrize(
    ("dataset", "hint"),
    [
        ("bloodmnist", "one cell, in the middle 200 × 200 px of a 360 × 363 px photograph"),
        ("dermamnist", "the whole 4 : 3 photograph, squeezed to a square and not cut"),
    ],
)
def test_it_says_how_an_original_is_framed(desk: Desk, dataset: str, hint: str) -> None:
    def change(index: dict[str, Any]) -> None:
        if index["dataset"] == "phantom-nodule":
            index.update(dataset=dataset, test_cases=0)

    desk.serves(change)
    desk.visit()
    framing = desk.page.locator("#framing")
    expect(framing).to_be_hidden()
    desk.page.select_option("#dataset", dataset)
    expect(framing).to_have_text(f"Frame it as the examples are: {hint}.")
    desk.page.wait_for_timeout(300)
    desk.shot(f"framing-{dataset}")
    desk.page.select_option("#dataset", "phantom-cells")
    expect(framing).to_be_hidden()


# History


def test_a_neighbour_becomes_the_query_and_back(desk: Desk) -> None:
    start = desk.answer(lambda: desk.visit(CELL))
    expect(desk.page.locator("#back")).to_be_hidden()
    nearest = desk.page.locator("#neighbours .case")
    second = desk.answer(nearest.nth(1).click)
    assert second["query"] == start["neighbours"][1]["id"]
    assert second["query"] not in _ids(second)
    expect(desk.page.locator("#label")).to_be_focused()
    desk.answer(nearest.nth(0).click)
    assert desk.answer(desk.page.locator("#back").click)["query"] == second["query"]
    assert desk.answer(desk.page.go_back) == start | {"timings": _ANY}
    expect(desk.page.locator("#back")).to_be_hidden()
    assert desk.answer(desk.page.go_forward)["query"] == second["query"]


class _Any:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


_ANY = _Any()


def test_the_address_brings_the_result_back(desk: Desk) -> None:
    desk.visit()
    desk.page.select_option("#dataset", "phantom-nodule")
    expect(desk.page.locator(".example").first).to_have_attribute(
        "aria-label", re.compile("phantom-nodule")
    )
    desk.answer(desk.page.locator(".example").first.click)
    answer = desk.answer(lambda: desk.page.fill("#k", "5"))
    assert (answer["dataset"], answer["k"]) == ("phantom-nodule", 5)
    assert desk.answer(desk.page.reload) == answer | {"timings": _ANY}


def test_a_file_is_kept_for_the_way_back_but_no_longer(desk: Desk) -> None:
    desk.visit()
    desk.answer(lambda: desk.choose("mine.png", cell()))
    desk.answer(desk.page.locator(".example").first.click)
    desk.answer(desk.page.go_back)
    expect(desk.page.locator("#query-name")).to_have_text("mine.png")
    desk.page.reload()
    expect(desk.page.locator("#upload-alert")).to_contain_text("Choose it again.")
    expect(desk.page.locator("#result")).to_be_hidden()


def test_the_way_back_to_the_start_brings_its_settings(desk: Desk) -> None:
    desk.visit()
    expect(desk.page).to_have_url(
        f"{desk.url}/?dataset=phantom-cells&model=hog&res=28&k=11&vote=majority"
    )
    desk.answer(desk.page.locator(".example").first.click)
    desk.answer(lambda: desk.page.fill("#k", "5"))
    desk.answer(lambda: desk.page.select_option("#vote", "softmax"))
    desk.page.go_back()
    expect(desk.page.locator("#start-title")).to_be_focused()
    expect(desk.page.locator("#start-title")).to_have_text("No image yet")
    expect(desk.page.locator("#k")).to_have_value("11")
    expect(desk.page.locator("#k-range")).to_have_value("11")
    expect(desk.page.locator("#vote")).to_have_value("majority")
    assert desk.answer(desk.page.go_forward)["vote"] == "softmax"
    expect(desk.page.locator("#k")).to_have_value("5")


def test_what_an_address_lacks_is_taken_by_default(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL.replace("k=11&vote=majority", "k=5&vote=softmax")))
    for address in ("?case=phantom-cells/test/31", "?"):
        desk.page.evaluate("(address) => history.pushState(null, '', address)", address)
    answer = desk.answer(desk.page.go_back)
    assert (answer["query"], answer["k"], answer["vote"]) == (
        "phantom-cells/test/31", 11, "majority"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("dataset=nope", "dataset=phantom-cells", "no dataset “nope” here; phantom-cells is"),
        ("model=nope", "model=hog", "no model “nope” here; hog is"),
        ("res=99", "res=28", "no size “99” here; 28 is"),
        ("vote=nope", "vote=majority", "no vote “nope” here; majority is"),
    ],
)
def test_an_address_of_what_is_not_served_is_mended(
    desk: Desk, wrong: str, right: str, words: str
) -> None:
    desk.answer(lambda: desk.visit(CELL.replace(right, wrong)))
    alert = desk.page.locator("#address-alert")
    expect(alert).to_have_text(f"There is {words} taken instead.")
    assert right in desk.page.url
    assert "nope" not in desk.page.url
    desk.shot(f"address-{wrong.partition('=')[0]}")
    desk.answer(lambda: desk.page.fill("#k", "4"))
    expect(alert).to_be_empty()


# Settings


def test_every_setting_is_heeded(desk: Desk) -> None:
    page = desk.page
    desk.answer(lambda: desk.visit(CELL))
    assert desk.answer(lambda: page.fill("#k", "3"))["k"] == 3
    expect(page.locator("#k-range")).to_have_value("3")
    assert desk.answer(lambda: page.fill("#k-range", "20"))["k"] == 20
    expect(page.locator("#k")).to_have_value("20")
    assert desk.answer(lambda: page.select_option("#res", "64"))["res"] == 64
    assert desk.answer(lambda: page.select_option("#vote", "softmax"))["vote"] == "softmax"
    assert desk.answer(lambda: page.select_option("#model", "hog"))["model"] == "hog"
    expect(page.locator("#protocol")).to_contain_text(
        "phantom-cells, hog at 64 px, k = 20, softmax vote"
    )
    assert "k=20" in page.url


def test_a_stored_case_can_be_compared_with_another_dataset(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    answer = desk.answer(lambda: desk.page.select_option("#dataset", "phantom-nodule"))
    assert (answer["dataset"], answer["query"]) == ("phantom-nodule", None)
    expect(desk.page.locator("#query-name")).to_have_text("phantom-cells/test/30")
    expect(desk.page.locator("#own")).to_be_hidden()
    words = "This image is of another dataset, phantom-cells."
    expect(desk.page.locator("#cautions")).to_contain_text(words)
    expect(desk.page.locator("#status")).to_contain_text(words)
    expect(desk.page.locator(".example").first).to_have_attribute(
        "aria-label", re.compile("phantom-nodule")
    )
    desk.shot("elsewhere")
    desk.answer(desk.page.locator(".example").first.click)
    expect(desk.page.locator("#cautions")).to_be_empty()


def test_too_many_neighbours_are_refused_where_they_are_asked_for(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    for text in ("101", "0", "", "2.5"):
        desk.page.fill("#k", text)
        expect(desk.page.locator("#k-alert")).to_have_text(
            "Neighbours go from 1 to 100, in whole numbers."
        )
    assert len(desk.neighbours()) == 11
    assert desk.answer(lambda: desk.page.fill("#k", "4"))["k"] == 4
    expect(desk.page.locator("#k-alert")).to_be_empty()


@pytest.mark.parametrize("desk", [{}, PHONE], indirect=True, ids=["desktop", "phone"])
def test_without_a_number_of_neighbours_nothing_is_asked(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    address, length = desk.page.url, desk.page.evaluate("history.length")
    desk.page.fill("#k", "")
    desk.page.locator("#neighbours .case").first.click()
    alert = desk.page.locator("#k-alert")
    expect(alert).to_have_text(
        "Neighbours go from 1 to 100, in whole numbers. Mend this, then choose the image again."
    )
    expect(alert).to_be_in_viewport(ratio=1)
    expect(desk.page.locator("#k")).to_be_focused()
    expect(desk.page.locator("#query-name")).to_have_text("phantom-cells/test/30")
    assert (desk.page.url, desk.page.evaluate("history.length")) == (address, length)
    desk.choose("cell.png", cell())
    desk.page.wait_for_timeout(300)
    assert (desk.page.url, desk.page.evaluate("history.length")) == (address, length)
    answer = desk.answer(lambda: desk.page.fill("#k", "4"))
    assert (answer["query"], answer["k"]) == ("phantom-cells/test/30", 4)


def test_an_address_with_a_wrong_number_of_neighbours_waits_for_a_right_one(desk: Desk) -> None:
    desk.visit(CELL.replace("k=11", "k=500"))
    expect(desk.page.locator("#k-alert")).to_contain_text("Neighbours go from 1 to 100")
    expect(desk.page.locator("#start")).to_contain_text("once the number of neighbours is right")
    assert desk.answer(lambda: desk.page.fill("#k", "5"))["query"] == "phantom-cells/test/30"


def test_a_stale_answer_is_dropped(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    held: list[Route] = []
    desk.page.route("**/search", lambda route: held.append(route), times=1)
    desk.page.fill("#k", "7")
    _until(desk.page, lambda: bool(held))
    assert desk.answer(lambda: desk.page.fill("#k", "9"))["k"] == 9
    held[0].fulfill(json={"labels": "not to be looked at"})
    desk.page.wait_for_timeout(100)
    assert len(desk.neighbours()) == 9


def test_it_says_that_it_is_busy(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    held: list[Route] = []
    desk.page.route("**/search", lambda route: held.append(route), times=1)
    desk.page.fill("#k", "7")
    expect(desk.page.locator("#answer")).to_have_attribute("aria-busy", "true")
    expect(desk.page.locator(".busy")).to_be_visible()
    _until(desk.page, lambda: bool(held))
    assert desk.answer(held[0].continue_)["k"] == 7
    expect(desk.page.locator(".busy")).to_be_hidden()


def _until(page: Page, true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        page.wait_for_timeout(25)
    raise AssertionError("waited in vain")


# Results


def test_several_labels_and_none(desk: Desk, server: Server) -> None:
    address = "?dataset=phantom-findings&k=5&case=phantom-findings/test/"
    seen = {}
    for row in range(40):
        query = {"id": f"phantom-findings/test/{row}", "dataset": "phantom-findings"}
        asked = query | {"model": "hog", "res": 28, "k": 5, "vote": "majority"}
        found = httpx.post(f"{server.url}/search", json=asked, trust_env=False).json()
        seen[min(len(found["labels"]), 2)] = row
    desk.answer(lambda: desk.visit(f"{address}{seen[2]}"))
    assert desk.page.locator("#label span").count() >= 2
    expect(desk.page.locator("#threshold")).to_be_visible()
    expect(desk.page.locator(".legend")).to_contain_text("has every predicted label")
    desk.shot("findings")
    desk.answer(lambda: desk.visit(f"{address}{seen[0]}"))
    expect(desk.page.locator("#label")).to_have_text("no finding")
    expect(desk.page.locator(".legend")).to_contain_text("agrees with the prediction")


def test_scores_and_agreement_are_the_answers(desk: Desk) -> None:
    answer = desk.answer(lambda: desk.visit(CELL))
    rows = desk.page.locator("#scores li").all_inner_texts()
    assert [row.split() for row in rows] == [
        [score["name"], f"{score['score']:.2f}"] for score in answer["scores"]
    ]
    agreeing = [case["agrees"] for case in answer["neighbours"]]
    expect(desk.page.locator("#neighbours .agrees")).to_have_count(sum(agreeing))
    expect(desk.page.locator("#neighbours .differs")).to_have_count(agreeing.count(False))
    frames = desk.page.locator("#neighbours .frame").evaluate_all(
        "(all) => all.map((one) => [getComputedStyle(one).borderTopStyle,"
        " one.querySelector('use').getAttribute('href')])"
    )
    styles = {True: ["solid", "#check"], False: ["dashed", "#cross"]}
    assert frames == [styles[agrees] for agrees in agreeing]


def test_a_foreign_image_is_called_so(desk: Desk) -> None:
    desk.visit()
    answer = desk.answer(lambda: desk.choose("stripes.png", stripes()))
    assert answer["familiarity"]["percentile"] < 5
    words = desk.page.locator("#familiarity")
    expect(words).to_contain_text("This image is unlike the training set.")
    expect(words).to_contain_text(re.compile("Less usual than (9[5-9] %|every)"))
    desk.shot("foreign")


@pytest.mark.parametrize("percentile", [0, 4.9, 5.1, 100])
def test_the_scale_of_familiarity_is_labelled(desk: Desk, percentile: float) -> None:
    def given(route: Route) -> None:
        answer = route.fetch().json()
        answer["familiarity"]["percentile"] = percentile
        route.fulfill(json=answer)

    desk.page.route("**/search", given)
    desk.answer(lambda: desk.visit(CELL))
    assert desk.page.locator(".ends span").all_inner_texts() == [
        "0 foreign", "below 5 %: unlike the training cases", "100 usual",
    ]  # fmt: skip
    scale, tick = (desk.page.locator(one).bounding_box() for one in (".scale", ".scale i"))
    assert scale
    assert tick
    left, right = tick["x"] - scale["x"], scale["width"] - tick["width"]
    assert left == pytest.approx(right * percentile / 100, abs=0.1)
    expect(desk.page.locator("#familiarity .alert")).to_have_count(int(percentile < 5))
    desk.shot(f"familiarity-{percentile}")


def test_an_untrained_network_is_called_so(changed_desk: Desk) -> None:
    desk, page = changed_desk, changed_desk.page
    desk.answer(lambda: desk.visit("?model=hog&k=5&case=noise/test/1"))
    expect(page.locator("#untrained")).to_be_empty()
    expect(page.locator("#cautions")).to_be_empty()
    answer = desk.answer(lambda: page.select_option("#model", VIT))
    assert answer["model"] == VIT
    expect(page.locator("#model option:checked")).to_have_text(f"{VIT}, untrained")
    expect(page.locator("#untrained")).to_have_text(
        "Random weights, not trained: its neighbours mean little."
    )
    words = "The model has random weights and was not trained: its neighbours mean little."
    expect(page.locator("#cautions")).to_have_text(words)
    expect(page.locator("#status")).to_contain_text(words)
    served = page.locator(".served li").all_inner_texts()
    assert [(VIT in text, "Random weights, not trained" in text) for text in served] == [
        (False, False), (True, True),
    ]  # fmt: skip
    desk.shot("untrained")


VIT = "timm--test_vit.r160_in1k-random3"


def test_cases_added_and_erased_are_spoken_of(changed_desk: Desk) -> None:
    desk, page = changed_desk, changed_desk.page
    desk.answer(lambda: desk.visit("?model=hog&k=5&case=noise/added/1"))
    expect(page.locator("#query-note")).to_have_text("28 × 28 px, licence: unknown")
    changes = "of the cases as embedded: 1 added and 1 erased since"
    expect(page.locator("#about-index")).to_contain_text(changes)
    expect(page.locator(".served li").first).to_contain_text(changes)
    expect(page.locator("footer")).to_contain_text(
        "The licence of cases that were added here (dataset/added/number) is not known."
    )
    expect(page.locator("footer")).to_contain_text("noise (licence: unknown).")
    desk.shot("added")


def test_a_licence_is_called_one(desk: Desk) -> None:
    desk.answer(lambda: desk.visit(CELL))
    expect(desk.page.locator("#query-note")).to_have_text("28 × 28 px, licence: Apache-2.0")
    expect(desk.page.locator("#protocol")).to_contain_text("Licence of the images: Apache-2.0.")
    expect(desk.page.locator("#about-index")).not_to_contain_text("as embedded")


def test_a_picture_that_is_not_at_hand_has_a_place(desk: Desk) -> None:
    def without(route: Route) -> None:
        answer = route.fetch().json()
        for case in answer["neighbours"]:
            case["image"] = None
        route.fulfill(json=answer)

    desk.page.route("**/search", without)
    desk.answer(lambda: desk.visit(CELL))
    expect(desk.page.locator("#neighbours .no-picture")).to_have_count(11)
    expect(desk.page.locator("#neighbours img")).to_have_count(0)


# Linear probes


BY_PROBE = CELL.replace("majority", "probe")


def test_a_probe_is_offered_where_there_is_one(probed_desk: Desk) -> None:
    desk, page = probed_desk, probed_desk.page
    offered = page.locator("#vote option")
    alert = page.locator("#address-alert")
    desk.visit()
    expect(offered).to_have_text(
        [
            "majority: all count alike", "distance: nearer ones count more",
            "softmax: the nearest decide", "linear probe: no vote",
        ]
    )  # fmt: skip
    expect(page.locator("#about-index")).to_have_text(
        re.compile(r"; accuracy of the linear probe \d\d\.\d\d %\.$")
    )
    desk.answer(page.locator(".example").first.click)
    assert desk.answer(lambda: page.select_option("#vote", "probe"))["vote"] == "probe"
    assert "vote=probe" in page.url
    answer = desk.answer(lambda: page.select_option("#res", "64"))
    assert (answer["res"], answer["vote"], answer["probe"]) == (64, "majority", None)
    expect(offered).to_have_count(3)
    expect(page.locator("#about-index")).not_to_contain_text("probe")
    expect(alert).to_have_text("There is no linear probe here; the vote is majority instead.")
    desk.shot("probe-not-here")
    desk.answer(lambda: page.fill("#k", "5"))
    expect(alert).to_be_empty()
    desk.answer(lambda: page.select_option("#res", "28"))
    expect(offered).to_have_count(4)
    expect(page.locator("#vote")).to_have_value("majority")
    desk.answer(lambda: page.select_option("#vote", "probe"))
    answer = desk.answer(lambda: page.select_option("#dataset", "phantom-nodule"))
    assert answer["probe"]["head"].startswith("heads/phantom-nodule/28/hog/")
    expect(alert).to_be_empty()


def test_an_address_that_asks_for_a_probe_that_is_not_there(probed_desk: Desk) -> None:
    desk = probed_desk
    answer = desk.answer(lambda: desk.visit(BY_PROBE.replace("res=28", "res=64")))
    assert answer["vote"] == "majority"
    expect(desk.page.locator("#address-alert")).to_have_text(
        "There is no vote “probe” here; majority is taken instead."
    )


@pytest.mark.parametrize(
    ("probed_desk", "name"), [({}, "light"), (DARK, "dark"), (PHONE | DARK, "phone-dark")],
    indirect=["probed_desk"],
)  # fmt: skip
def test_it_says_that_a_probe_decided(probed_desk: Desk, name: str) -> None:
    desk, page = probed_desk, probed_desk.page
    plain = desk.answer(lambda: desk.visit(CELL))
    expect(page.locator("#share")).not_to_contain_text("probe")
    assert plain["probe"] is None
    answer = desk.answer(lambda: page.select_option("#vote", "probe"))
    assert _ids(answer) == _ids(plain)
    agreeing = sum(case["agrees"] for case in answer["neighbours"])
    words = (
        f"The linear probe decided, not the cases below. {agreeing} of the 11 nearest cases agree."
    )
    expect(page.locator("#share")).to_have_text(words)
    expect(page.locator("#status")).to_contain_text(words)
    expect(page.locator("#scores-title")).to_have_text("Score by the linear probe")
    expect(page.locator("#neighbours-title")).to_have_text(
        "Nearest training cases; they did not decide"
    )
    expect(page.locator("#protocol")).to_contain_text("hog at 28 px, k = 11, linear probe.")
    expect(page.locator("#cautions")).to_be_empty()
    rows = [row.split()[-1] for row in page.locator("#scores li").all_inner_texts()]
    assert rows == [f"{score['score']:.2f}" for score in answer["scores"]]
    page.locator("summary").click()
    facts = page.locator("#facts").inner_text()
    assert answer["probe"]["head"] in facts
    assert f"{answer['probe']['val_loss']:.4f}" in facts
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == (page.viewport_size or {})["width"]
    _check_everyone_can_read(page)
    desk.shot(f"probe-{name}")
    desk.answer(lambda: page.select_option("#vote", "majority"))
    expect(page.locator("#share")).to_have_text(
        re.compile(r"^\d+ of the 11 nearest cases agree\.$")
    )
    expect(page.locator("#scores-title")).to_have_text("Share of the vote")
    expect(page.locator("#neighbours-title")).to_have_text("Nearest training cases")
    assert answer["probe"]["head"] not in page.locator("#facts").inner_text()


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 case was added or erased"), (2, "2 cases were added or erased")]
)
def test_a_probe_that_does_not_know_of_changes(probed_desk: Desk, count: int, words: str) -> None:
    """As after changes, told in the answer and in the list of what is served."""
    desk, page = probed_desk, probed_desk.page

    def since(route: Route) -> None:
        answer = route.fetch().json()
        answer["probe"]["changes_since"] = count
        route.fulfill(json=answer)

    def change(index: dict[str, Any]) -> None:
        if index["probe"]:
            index["probe"].update(changes_since=count, accuracy=None)

    page.route("**/search", since)
    desk.serves(change)
    desk.answer(lambda: desk.visit(BY_PROBE))
    unknown = f"{words} that it does not know of."
    notice = f"The linear probe is not up to date: {unknown}"
    expect(page.locator("#cautions")).to_have_text(notice)
    expect(page.locator("#status")).to_contain_text(notice)
    expect(page.locator("#about-index")).to_contain_text(
        f"; accuracy of the linear probe not on record, {unknown}"
    )
    desk.shot(f"probe-changes-{count}")


def test_a_foreign_image_and_a_probe(probed_desk: Desk) -> None:
    desk = probed_desk
    desk.visit(BY_PROBE.partition("&case")[0])
    answer = desk.answer(lambda: desk.choose("stripes.png", stripes()))
    assert answer["vote"] == "probe"
    expect(desk.page.locator("#familiarity .alert")).to_have_text(
        "This image is unlike the training set. The probe was not trained for such images; do "
        "not rely on its label."
    )


@pytest.mark.parametrize("probed_desk", [CLIPBOARD], indirect=True)
def test_what_a_probe_decided_can_be_copied(probed_desk: Desk, tmp_path: Path) -> None:
    answer = probed_desk.answer(lambda: probed_desk.visit(BY_PROBE))
    assert _run(_copy(probed_desk, "curl"), tmp_path) == answer | {"timings": _ANY}


def test_probes_among_what_is_served(probed_desk: Desk) -> None:
    probed_desk.visit()
    served = probed_desk.page.locator(".served li").all_inner_texts()
    assert [bool(re.search(r"Linear probe, trained on 1,400 cases: \d\d\.\d\d % ", text))
            for text in served] == [True, False, True, True]  # fmt: skip


# What goes wrong


@pytest.mark.parametrize("data", [b"no image", cell()[:300]], ids=["unknown", "truncated"])
def test_a_bad_file_is_told_where_it_was_chosen(desk: Desk, data: bytes) -> None:
    desk.watch.expected |= {"status of 415", "status of 422"}
    desk.visit()
    desk.answer(desk.page.locator(".example").first.click)
    expect(desk.page.locator("#status")).to_contain_text("Prediction:")
    desk.choose("notes.png", data)
    alert = desk.page.locator(".choose [role=alert]")
    expect(alert).to_contain_text("notes.png")
    expect(alert).to_contain_text(re.compile(r"\w+ \w+\..+\."))
    expect(desk.page.locator("#result")).to_be_hidden()
    expect(desk.page.locator("#start h2")).to_have_text("No result")
    expect(desk.page.locator("#start")).to_contain_text("notes.png was not classified")
    expect(desk.page.locator("#status")).to_be_empty()
    desk.shot("error")
    desk.answer(lambda: desk.choose("cell.png", cell()))
    expect(alert).to_be_empty()


def test_a_file_that_is_too_large_is_not_sent(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(11_000_000))
    desk.visit()
    sent: list[str] = []
    desk.page.on("request", lambda request: sent.append(request.method))
    desk.page.set_input_files("#file", tmp_path / "large.png")
    expect(desk.page.locator("#upload-alert")).to_contain_text(
        "The file is too large. large.png has 11.0 MB; up to 10.0 MB are taken."
    )
    assert "POST" not in sent


def test_a_case_that_is_gone(desk: Desk) -> None:
    desk.watch.expected.add("status of 404")
    desk.visit("?case=phantom-cells/test/9999")
    expect(desk.page.locator("#answer-alert")).to_have_text(
        "No such case. phantom-cells/test/9999 is not among the cases that are served here, "
        "or it was erased. Choose another image."
    )
    desk.settle()


@pytest.mark.parametrize("name", ["banana", "../indexes", "phantom-cells/test/1e9"])
def test_what_is_no_case_is_not_asked_for(desk: Desk, name: str) -> None:
    desk.visit(f"?case={name}")
    expect(desk.page.locator("#answer-alert")).to_have_text(
        f"No such case. “{name}” is not the name of a case: a name has a dataset, a split and "
        "a number, as in phantom-cells/test/30. Choose another image."
    )
    desk.settle()
    desk.shot("no-case")


def test_too_many_requests_can_be_tried_again(desk: Desk) -> None:
    desk.watch.expected.add("status of 429")
    problem = {"title": "Too many requests", "detail": "the queue is full", "status": 429}
    desk.page.route(
        "**/search",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "2"}, json=problem),
        times=1,
    )
    desk.visit(CELL)
    alert = desk.page.locator("#answer-alert")
    expect(alert).to_contain_text("The queue is full. Try again in 2 seconds.")
    desk.answer(alert.get_by_role("button", name="Try again").click)
    expect(alert).to_be_empty()


def test_a_service_that_is_gone(desk: Desk) -> None:
    desk.watch.expected.add("net::ERR_FAILED")
    desk.visit()
    desk.page.route("**/classify", lambda route: route.abort())
    desk.choose("cell.png", cell())
    expect(desk.page.locator("#answer-alert")).to_contain_text("The service cannot be reached.")


def test_when_a_neighbours_request_fails_the_message_has_the_focus(desk: Desk) -> None:
    desk.watch.expected |= {"net::ERR_FAILED", "status of 422"}
    desk.answer(lambda: desk.visit(CELL))
    desk.page.route("**/search", lambda route: route.abort())
    nearest = desk.page.locator("#neighbours .case").first
    nearest.press("Enter")
    again = desk.page.get_by_role("button", name="Try again")
    expect(again).to_be_focused()
    expect(desk.page.locator("#status")).to_be_empty()
    desk.shot("gone")
    again.press("Enter")
    expect(again).to_be_focused()
    desk.page.unroute("**/search")
    desk.answer(lambda: again.press("Enter"))
    expect(desk.page.locator("#label")).to_be_focused()
    problem = {"title": "Invalid request", "detail": "no", "status": 422}
    desk.page.route("**/search", lambda route: route.fulfill(status=422, json=problem))
    nearest.press("Enter")
    expect(desk.page.locator("#answer-alert .alert")).to_be_focused()


def test_an_answer_that_is_not_the_services_own(desk: Desk) -> None:
    desk.watch.expected.add("status of 502")
    desk.page.route("**/search", lambda route: route.fulfill(status=502, body="<h1>proxy</h1>"))
    desk.visit(CELL)
    expect(desk.page.locator("#answer-alert")).to_contain_text(
        "The service answered with status 502. Try again in a moment."
    )


# Copying


@pytest.mark.parametrize("desk", [CLIPBOARD], indirect=True)
def test_copy_as_json(desk: Desk) -> None:
    answer = desk.answer(lambda: desk.visit(CELL))
    assert json.loads(_copy(desk, "JSON")) == answer


def _copy(desk: Desk, what: str) -> str:
    desk.page.get_by_role("button", name=f"Copy as {what}").click()
    expect(desk.page.locator("#copied")).to_contain_text("copied")
    return str(desk.page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("desk", [CLIPBOARD], indirect=True)
@pytest.mark.parametrize("dataset", ["phantom-cells", "phantom-nodule"])
def test_copied_curl_of_a_stored_case(desk: Desk, tmp_path: Path, dataset: str) -> None:
    answer = desk.answer(lambda: desk.visit(CELL.replace("phantom-cells", dataset, 1)))
    assert _run(_copy(desk, "curl"), tmp_path) == answer | {"timings": _ANY}


HOSTILE = (
    "plain.png", "-", "it's \"one\"; two, $(touch pwned) `touch pwned` \\.png", "&<@é—;type=x.png",
    "two\nlines\x1b[31m\x7f'.png", "--output",
)  # fmt: skip


@pytest.mark.parametrize("desk", [CLIPBOARD], indirect=True)
def test_copied_curl_of_a_file_whatever_its_name(desk: Desk, tmp_path: Path) -> None:
    desk.visit()
    for name in HOSTILE:
        (tmp_path / name).write_bytes(cell())
        answer = desk.answer(partial(desk.page.set_input_files, "#file", tmp_path / name))
        assert _run(_copy(desk, "curl"), tmp_path) == answer | {"timings": _ANY}
    assert {path.name for path in tmp_path.iterdir()} == set(HOSTILE)


def _run(command: str, folder: Path, **variables: str) -> Any:
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": f"{Path(curl).parent}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "NO_PROXY": "*"}
        | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr)
    return json.loads(done.stdout)


def test_with_a_key_as_the_password(browser: Browser, phantom_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(phantom_store, store)
    key = Keyring(store / FILE).add("browser", Scope.READ)
    options = {**CLIPBOARD, "http_credentials": {"username": "", "password": key}}
    with (
        serving(tmp_path, store, "--require-key", "--dataset", "phantom-nodule") as keyed,
        watched(browser, keyed.url, **options) as (page, watch),
    ):
        desk = Desk(page, watch, keyed.url)
        desk.visit()
        answer = desk.answer(page.locator(".example").first.click)
        assert page.locator("#neighbours img").first.evaluate("(image) => image.decode()") is None
        command = _copy(desk, "curl")
        assert key not in command
        assert _run(command, tmp_path, CASEBOOK_KEY=key) == answer | {"timings": _ANY}


def test_without_a_clipboard_the_text_is_selected(desk: Desk) -> None:
    desk.page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
    )
    answer = desk.answer(lambda: desk.visit(CELL))
    desk.page.get_by_role("button", name="Copy as JSON").click()
    text = desk.page.locator("#copy-text")
    expect(text).to_be_focused()
    selected = desk.page.evaluate("document.getSelection().toString()")
    assert json.loads(selected) == json.loads(text.input_value()) == answer


# For everyone


def test_all_of_it_by_keyboard(desk: Desk) -> None:
    page = desk.page
    desk.visit()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    _tab_to(page, ".example >> nth=0")
    answer = desk.answer(lambda: page.keyboard.press("Enter"))
    _tab_to(page, "#k-range")
    answer = desk.answer(lambda: page.keyboard.press("ArrowRight"))
    assert answer["k"] == 12
    expect(page.locator("#k-range")).to_be_focused()
    _tab_to(page, "#neighbours .case >> nth=0")
    assert desk.answer(lambda: page.keyboard.press("Enter"))["query"] == _ids(answer)[0]
    expect(page.locator("#label")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#back")).to_be_focused()
    assert desk.answer(lambda: page.keyboard.press("Enter"))["query"] == answer["query"]


def _tab_to(page: Page, selector: str) -> None:
    """Each stop on the way has a focus that can be seen."""
    target = page.locator(selector)
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate(_FOCUS_IS_SEEN), page.evaluate("document.activeElement.outerHTML")
        if target.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{selector} is not reached")


_FOCUS_IS_SEEN = """() => {
    const element = document.activeElement;
    const shown = element.id === "file" ? element.parentElement : element;
    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
    return outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
}"""


@pytest.mark.parametrize("desk", [{}, DARK, PHONE], indirect=True, ids=["light", "dark", "phone"])
def test_the_page_can_be_read_by_everyone(desk: Desk) -> None:
    desk.visit()
    _check_everyone_can_read(desk.page)
    desk.answer(lambda: desk.choose("stripes.png", stripes()))
    _check_everyone_can_read(desk.page)
    desk.answer(lambda: desk.page.locator(".example").nth(1).click())
    desk.page.fill("#k", "0")
    desk.page.locator("summary").click()
    _check_everyone_can_read(desk.page)


def _check_everyone_can_read(page: Page) -> None:
    assert page.title() == "casebook: medical images by their nearest cases"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1:visible").count() == 1
    controls = re.findall(
        r"- (?:button|combobox|textbox|spinbutton|slider|checkbox|link|img)\b.*",
        page.locator("body").aria_snapshot(),
    )
    assert len(controls) > 10
    assert [line for line in controls if '"' not in line] == []
    assert page.locator("img:not([alt])").count() == 0
    found = page.evaluate(_CONTRASTS)
    assert len(found) > 20
    assert [(text, ratio) for text, ratio in found if ratio < 4.5] == []


_CONTRASTS = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b]
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = parts(getComputedStyle(one).backgroundColor);
            if (colour[3] !== 0) return colour;
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const { parentElement: element, data } = walker.currentNode;
        if (!data.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
        const pair = [parts(getComputedStyle(element).color), behind(element)].map(light);
        found.push([data, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize("desk", [PHONE], indirect=True)
def test_a_phone_is_wide_enough(desk: Desk) -> None:
    desk.visit()
    desk.shot("phone-start")
    desk.answer(lambda: desk.choose("stripes" * 20 + ".png", stripes()))
    desk.answer(lambda: desk.page.locator(".example").nth(1).click())
    desk.page.locator("summary").click()
    assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
    tops = desk.page.locator("#neighbours li").evaluate_all(
        "(all) => all.map((one) => one.offsetTop)"
    )
    assert tops[0] == tops[1] == tops[2] < tops[3]
    desk.shot("phone")


LARGE = CELL.replace("res=28", "res=64")


@pytest.mark.parametrize(
    ("desk", "name"), [({}, "light"), (DARK, "dark"), (PHONE | DARK, "phone-dark")],
    indirect=["desk"],
)  # fmt: skip
def test_pictures_of_the_page(desk: Desk, name: str) -> None:
    desk.visit()
    desk.shot(f"{name}-start")
    for size, address in ((28, CELL), (64, LARGE)):
        desk.answer(partial(desk.visit, address))
        desk.shot(f"{name}-{size}")


def _ids(answer: dict[str, Any]) -> list[str]:
    return [case["id"] for case in answer["neighbours"]]
