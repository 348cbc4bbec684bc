"""Registries are data: tuples of frozen rows, made into dicts here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from embedder.errors import UnknownNameError


class Row(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Row)
V = TypeVar("V")


_LISTED = 40
"""The most names that a message lists."""


def by_name(rows: Iterable[R]) -> dict[str, R]:
    """``{row.name: row}`` in the given order; a name that stands twice is a ValueError."""
    table: dict[str, R] = {}
    for row in rows:
        if row.name in table:
            raise ValueError(f"duplicate registry name {row.name!r}")
        table[row.name] = row
    return table


def find(table: Mapping[str, V], name: str, noun: str) -> V:
    """The row called ``name``; otherwise an UnknownNameError that suggests the nearest names.

    ``noun`` is what a row is called in the message, such as ``"backbone"``.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower(), table, n=3, cutoff=0.5)
    known = ", ".join(table) if len(table) <= _LISTED else f"{len(table)} names"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    raise UnknownNameError(f"unknown {noun} {name!r}; {hint}")
