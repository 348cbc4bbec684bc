"""The documentation is true: its commands run and print what it shows, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedder.backbones import BACKBONES
from embedder.datasets import DATASETS
from tests.commands import run

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def sessions(page: Path) -> list[tuple[str, str]]:
    """Each ``$ command`` of a console block, and the output shown under it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def settle(text: str) -> str:
    """Without what differs from run to run: seconds, and the room on the disk."""
    text = re.sub(r"in \d+\.\d s\)", "in SECONDS)", text)
    return re.sub(r"\([\d.]+ .?B free\)", "(ROOM free)", text).strip()


def test_the_readme_shows_what_its_commands_print(real_data: Path, tmp_path: Path) -> None:
    shown = sessions(ROOT / "README.md")
    assert [command for command, _ in shown] == [
        "embed --model hog --dataset pneumoniamnist --res 28",
        "knn-eval --k 11",
    ]
    changes = {"CASEBOOK_STORE": "store", "CASEBOOK_DATA": str(real_data)}
    for command, output in shown:
        done = run(tmp_path, *command.split(), **changes)
        assert settle(done.stdout) == settle(output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_says_what_it_must() -> None:
    text = (ROOT / "README.md").read_text()
    for phrase in ("Not a medical device", "CC BY 4.0", "CC BY-NC 4.0", "make test", "make demo"):
        assert phrase in text


def test_the_docs_name_every_command_option_that_there_is() -> None:
    import embedder.cli
    import embedder.info
    import evaluate.cli
    import evaluate.neighbours

    text = " ".join(page.read_text() for page in PAGES)
    modules = (embedder.cli, embedder.info, evaluate.cli, evaluate.neighbours)
    parsers = [module.build_parser() for module in modules]
    options = {o for parser in parsers for a in parser._actions for o in a.option_strings}
    missing = {option for option in options - {"-h", "--help"} if option not in text}
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
