"""A real headless Chromium for tests of the page, and someone who sits before it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    Route,
    expect,
    sync_playwright,
)

ARTEFACTS = Path(__file__).parents[2] / "artefacts"

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip

_REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`content security policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, else Playwright's own, with an empty profile; skips without one."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            reason = error.message.splitlines()[0]
            pytest.skip(f"no Chromium that starts ({path or 'none is installed'}: {reason})")
        with browser:
            yield browser


class Watch:
    """What a page did that it must not: errors, policy violations, requests to elsewhere.

    Every error on the console is trouble, but those with a part that is in ``expected``: a failed
    request is told there as ``status of 429`` or ``net::ERR_FAILED``.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.expected: set[str] = set()
        self.trouble: list[str] = []
        self._origin = urlsplit(url)[:2]
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.trouble.append(f"uncaught: {error}"))
        page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        known = any(part in message.text for part in self.expected)
        if message.type in ("error", "warning", "assert") and not known:
            self.trouble.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts[:2] != self._origin:
            self.trouble.append(f"request to {request.url}")


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, Watch]]:
    """A blank page in a fresh context with these options; fails on trouble when it closes."""
    context = browser.new_context(**options)
    try:
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.add_init_script(_REPORT_VIOLATIONS)
        watch = Watch(page, url)
        yield page, watch
        assert not watch.trouble, watch.trouble
    finally:
        context.close()


class Desk:
    """The page as someone sits before it."""

    def __init__(self, page: Page, watch: Watch, url: str) -> None:
        self.page, self.watch, self.url = page, watch, url

    def visit(self, address: str = "") -> None:
        self.page.goto(f"{self.url}/{address}")

    def serves(self, change: Callable[[dict[str, Any]], None]) -> None:
        """From the next visit on, the page's indexes are as ``change`` makes each of them."""

        def altered(match: re.Match[str]) -> str:
            served = json.loads(html.unescape(match[1]))
            for index in served["indexes"]:
                change(index)
            return f'data-indexes="{html.escape(json.dumps(served))}"'

        def fulfil(route: Route) -> None:
            answer = route.fetch()
            text = re.sub('data-indexes="([^"]*)"', altered, answer.text())
            route.fulfill(response=answer, body=text)

        self.page.route(re.compile(re.escape(self.url) + r"/(\?.*)?$"), fulfil)

    def answer(self, act: Callable[[], object]) -> Any:
        """What the service answers after ``act``, once the page shows it."""
        with self.page.expect_response(_is_answer) as answered:
            act()
        answer = answered.value.json()
        self.settle()
        expect(self.page.locator("#result")).to_be_visible()
        assert self.page.locator("#label span").all_inner_texts() == (
            [_name(label["name"]) for label in answer["labels"]] or ["no finding"]
        )
        assert self.neighbours() == [case["id"] for case in answer["neighbours"]]
        return answer

    def settle(self) -> None:
        expect(self.page.locator("#answer")).to_have_attribute("aria-busy", "false")

    def neighbours(self) -> list[str]:
        names = self.page.locator("#neighbours .case").evaluate_all(
            "(cases) => cases.map((one) => one.getAttribute('aria-label'))"
        )
        return [name.rpartition(" ")[2] for name in names]

    def choose(self, name: str, data: bytes) -> None:
        file = {"name": name, "mimeType": "image/png", "buffer": data}
        self.page.set_input_files("#file", file)  # type: ignore[arg-type]

    def hand(self, event: str, names: list[str], data: bytes) -> None:
        """A drop, or a paste, of files of these names."""
        self.page.evaluate(
            """([event, names, data]) => {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                const given = new DataTransfer();
                for (const name of names) given.items.add(new File([bytes], name));
                const form = { bubbles: true, cancelable: true };
                const made = event === "paste"
                    ? [new ClipboardEvent("paste", { ...form, clipboardData: given })]
                    : ["dragover", "drop"].map(
                        (kind) => new DragEvent(kind, { ...form, dataTransfer: given }));
                made.forEach((one) => document.body.dispatchEvent(one));
            }""",
            [event, names, base64.b64encode(data).decode()],
        )

    def shot(self, name: str) -> None:
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=ARTEFACTS / f"page-{name}.png", full_page=True)


def _name(label: str) -> str:
    return f"class {label}" if label.isdecimal() else label


def _is_answer(response: Response) -> bool:
    return response.request.method == "POST" and response.url.endswith(("/classify", "/search"))
