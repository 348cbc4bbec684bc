"""``casebook keys``: add, list and revoke the API keys of the service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from embedder import console
from embedder.store import default_root
from service.keyring import FILE, Keyring, Scope


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser("casebook keys", "API keys of the service; only hashes are stored.")
    actions = parser.add_subparsers(dest="action", metavar="add|list|revoke", required=True)
    for name, text in (
        ("add", "Make a key and print it: the only time that it is shown."),
        ("list", "Show every key's id, name, scope and times; never the key."),
        ("revoke", "Make a key invalid at once, on running servers too."),
    ):
        action = actions.add_parser(name, help=text, description=text)
        if name == "add":
            action.add_argument(
                "name", metavar="NAME", help="whose key it is, up to 100 characters"
            )
            action.add_argument(
                "--scope", choices=[str(scope) for scope in Scope], default="read",
                help="read, or write, which includes reading (default: read)",
            )  # fmt: skip
        if name == "revoke":
            action.add_argument("id", metavar="ID", help="as casebook keys list shows it")
        console.add_folders(action)
    return parser


def _handle(options: argparse.Namespace) -> int:
    keyring = Keyring((options.store or default_root()) / FILE)
    if options.action == "add":
        print(keyring.add(options.name, Scope(options.scope)), flush=True)
        print("the key is shown only now; keep it where only its owner reads", file=sys.stderr)
    elif options.action == "list":
        print(_table(keyring))
    else:
        row = keyring.revoke(options.id)
        print(f"revoked {row.id} ({row.name})")
    return 0


def _table(keyring: Keyring) -> str:
    rows = [
        (row.id, row.name, row.scope, row.created, row.revoked or "-") for row in keyring.rows()
    ]
    if not rows:
        return f"{keyring.path} holds no keys; casebook keys add makes one"
    return console.table(rows, ("id", "name", "scope", "created", "revoked"), "lllll")


if __name__ == "__main__":
    sys.exit(main())
