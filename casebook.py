"""One door to every command: ``casebook COMMAND ...``, each loaded only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from embedder import console
from embedder.errors import UsageError
from embedder.registry import by_name, find


@dataclass(frozen=True)
class Command:
    """``module:function`` is called with the arguments after the command's name."""

    name: str
    target: str
    summary: str


COMMANDS = by_name(
    (
        Command("embed", "embedder.cli:main", "images to stored embeddings"),
        Command("knn-eval", "evaluate.cli:main", "accuracy of the nearest-neighbour vote"),
        Command("probe-eval", "evaluate.probe_cli:main", "accuracy of linear probes"),
        Command("neighbours", "evaluate.neighbours:main", "classify one case, draw its cases"),
        Command("compare", "evaluate.compare_cli:main", "two results on the same cases"),
        Command(
            "published", "evaluate.published_cli:main", "the benchmark's figures and statistics"
        ),
        Command("report", "evaluate.report_cli:main", "the whole study as a page, tables, figures"),
        Command("audit", "evaluate.audit_cli:main", "likely duplicates and wrong labels, balance"),
        Command("profile", "evaluate.profile_cli:main", "what backbones cost at 224 px"),
        Command("serve", "service.cli:main", "classify over HTTP, with a page to look at"),
        Command("compact", "service.compact:main", "remove the bytes of erased cases for good"),
        Command("info", "embedder.info:main", "what is stored, and what is known"),
        Command("keys", "service.keys:main", "API keys of the service: add, list, revoke"),
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    return console.boundary(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        _build_parser().parse_args(arguments)
        raise UsageError(f"which command? one of {', '.join(COMMANDS)}; see casebook --help")
    module, _, function = find(COMMANDS, arguments[0], "command").target.partition(":")
    status: int = getattr(importlib.import_module(module), function)(arguments[1:])
    return status


def _build_parser() -> console.Parser:
    lines = "\n".join(f"  {row.name:<12}{row.summary}" for row in COMMANDS.values())
    parser = console.Parser(
        "casebook",
        "Embeddings of medical images, and predictions from the nearest cases.\n\n"
        f"commands (casebook COMMAND --help):\n{lines}",
    )
    parser.usage = "casebook COMMAND ..."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"casebook {version('casebook')}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
