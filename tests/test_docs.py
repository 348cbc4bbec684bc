"""The documentation is true: its commands run and print what it shows, its links lead somewhere."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedder.backbones import BACKBONES
from embedder.datasets import DATASETS
from tests.commands import BIN, environment

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def sessions(page: Path) -> list[tuple[str, str]]:
    """Each ``$ command`` of a console block, and the output shown under it.

    A command goes on in the next line after a ``|``.
    """
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        block = re.sub(r"\|\n +", "| ", block)
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def settle(text: str) -> str:
    """Without what differs from run to run: seconds, the room on the disk, last digits."""
    text = re.sub(r"in \d+\.\d s\)", "in SECONDS)", text)
    text = re.sub(r"\([\d.]+ .?B free\)", "(ROOM free)", text)
    text = re.sub(r'("(?:decode|queue|embed|search|total)": )[\d.]+', r"\1MILLISECONDS", text)
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:HASH", text)
    return re.sub(r"\d\.\d{5,}", lambda found: f"{float(found[0]):.4f}", text).strip()


class Shell:
    """Runs commands as a reader would; one in the background listens on a port that is free."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self._folder = folder
        self._environment = environment(folder, CASEBOOK_PORT="0", **changes)
        self._environment["PATH"] = f"{BIN}:{self._environment['PATH']}"
        self._address = ""
        self._background: list[subprocess.Popen[str]] = []

    def prints(self, command: str) -> str:
        """What a command prints or, in the background, the first line of it."""
        text = command.removesuffix("&").replace("localhost:8000", self._address)
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", f"exec {text}" if text != command else text],
            cwd=self._folder, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if command.endswith("&"):
            self._background.append(process)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready: "), process.communicate()
            self._address = line.split("/")[2]
            return line.replace(self._address, "127.0.0.1:8000")
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return output

    def close(self) -> None:
        for process in self._background:
            process.terminate()
            process.communicate(timeout=60)


def test_consoles_show_what_their_commands_print(real_data: Path, tmp_path: Path) -> None:
    shown = [*sessions(ROOT / "README.md"), *sessions(ROOT / "docs/service.md")]
    names = [command.split()[0] for command, _ in shown]
    assert names == ["embed", "knn-eval", "probe-eval", "casebook", "curl", "curl", "curl", "curl"]
    shell = Shell(tmp_path, CASEBOOK_STORE="store", CASEBOOK_DATA=str(real_data))
    try:
        for command, output in shown:
            if command.startswith("curl") and shutil.which("curl") is None:
                pytest.skip("no curl; the commands before it print what is shown")
            assert settle(shell.prints(command)) == settle(output)
    finally:
        shell.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_says_what_it_must() -> None:
    text = (ROOT / "README.md").read_text()
    for phrase in ("Not a medical device", "CC BY 4.0", "CC BY-NC 4.0"):
        assert phrase in text
    for phrase in ("make test", "make demo", "make serve"):
        assert phrase in text


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from options_of(part)


def test_the_docs_name_every_command_option_that_there_is() -> None:
    import embedder.cli
    import embedder.info
    import evaluate.audit_cli
    import evaluate.cli
    import evaluate.compare_cli
    import evaluate.neighbours
    import evaluate.probe_cli
    import evaluate.profile_cli
    import evaluate.published_cli
    import evaluate.report_cli
    import service.cli
    import service.compact
    import service.keys

    text = " ".join(page.read_text() for page in PAGES)
    modules = (
        embedder.cli, embedder.info, evaluate.cli, evaluate.neighbours, evaluate.probe_cli,
        evaluate.published_cli, evaluate.compare_cli, evaluate.audit_cli,
        evaluate.profile_cli, evaluate.report_cli, service.cli, service.compact, service.keys,
    )  # fmt: skip
    options = {option for module in modules for option in options_of(module.build_parser())}
    assert {"--scope", "--no-require-key"} <= options
    named = set(re.findall(r"--[a-z-]+\b", text))
    assert not options - named - {"-h", "--help"}


def test_the_settings_table_is_that_of_the_settings() -> None:
    from service.settings import settings_table

    text = (ROOT / "docs/service.md").read_text()
    shown = re.search(r"<!-- settings:.*?-->\n(.*?)<!-- end of settings -->", text, re.DOTALL)
    assert shown is not None
    assert shown[1] == settings_table()


def test_the_service_page_names_every_request_error_and_metric() -> None:
    from fastapi import FastAPI

    from service import case_routes, errors, health_routes, prediction_routes
    from service.telemetry import Telemetry

    text = (ROOT / "docs/service.md").read_text()
    app = FastAPI()
    for routes in (prediction_routes, case_routes, health_routes):
        app.include_router(routes.router)
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}" in text
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    statuses = {kind.status for kind in kinds if hasattr(kind, "status")}
    assert len(statuses) > 8
    assert all(re.search(rf"\b{status}\b", text) for status in statuses)
    for metric in Telemetry().registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert f"| `{name}` |" in text


def test_the_architecture_page_names_every_module_and_dependency() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for package in ("embedder", "index", "evaluate", "service"):
        for path in (ROOT / package).glob("*.py"):
            assert path.stem == "__init__" or f"`{path.stem}`" in text, path
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {re.split(r"[>=<\[]", line)[0] for group in groups for line in group}
    tools = {"hypothesis", "mypy", "pytest", "ruff", "scipy"}
    missing = {name for name in named - tools if name.split("-gpu")[0].split("-cpu")[0] not in text}
    assert not missing


def test_the_docs_name_every_benchmark_backbone_and_the_store_every_field() -> None:
    from dataclasses import fields

    from embedder.fingerprint import Fingerprint
    from evaluate.results import Record

    backbones = (ROOT / "docs/backbones.md").read_text()
    assert all(row.name in backbones for row in BACKBONES.values() if row.in_benchmark)
    store = (ROOT / "docs/store-format.md").read_text()
    assert all(f"`{field.name}`" in store for field in fields(Fingerprint))
    evaluation = (ROOT / "docs/evaluation.md").read_text()
    assert all(f"`{field.name}`" in evaluation for field in fields(Record))
    assert all(name in (ROOT / "docs/datasets.md").read_text() for name in DATASETS
               if name.startswith("phantom"))  # fmt: skip
