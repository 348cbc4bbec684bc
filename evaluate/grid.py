"""A table of the report, and its forms: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """How far a figure is the best, as the paper marks it; each includes those before it."""

    NONE = 0
    OF_SCHEME = 1
    OF_RESOLUTION = 2
    OF_ALL = 3


MARKS = {
    Mark.OF_SCHEME: "Underlined: the best of its scheme and resolution",
    Mark.OF_RESOLUTION: "bold: the best of its resolution",
    Mark.OF_ALL: "bold with a star: the best of all",
}


@dataclass(frozen=True)
class Item:
    """One place in a table. ``sources`` name what its figure is of."""

    text: str
    sources: tuple[str, ...] = ()
    mark: Mark = Mark.NONE


@dataclass(frozen=True)
class Grid:
    """A table; ``name`` is its file's stem (``slug``), ``align`` has ``l`` or ``r`` per column.

    ``group`` says how many columns at the left are names, which are written once where they
    repeat; ``folded`` that a reader opens it on demand.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Item, ...], ...]
    align: str
    group: int = 0
    notes: tuple[str, ...] = ()
    folded: bool = False

    @property
    def headers(self) -> int:
        """How many columns at the left name a row."""
        return max(1, len(self.align) - len(self.align.lstrip("l")))

    def pairs(self) -> list[tuple[tuple[Item, ...], list[Item]]]:
        """Each row as it is and as it is shown."""
        return list(zip(self.rows, self.shown(), strict=True))

    def shown(self) -> list[list[Item]]:
        """The rows, a name that repeats the one above left empty."""
        lines: list[list[Item]] = []
        for above, row in zip((None, *self.rows), self.rows, strict=False):
            line, same = list(row), above is not None
            for column in range(self.group):
                same = same and above is not None and above[column].text == row[column].text
                if same:
                    line[column] = Item("")
            lines.append(line)
        return lines


def slug(text: str) -> str:
    """A name that a file, an address and LaTeX take as it is."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)


def as_markdown(grid: Grid) -> str:
    """A pipe table under its title."""
    dashes = ["---:" if letter == "r" else ":---" for letter in grid.align]
    body = [[_marked(item) for item in row] for row in grid.shown()]
    lines = [list(map(plain, grid.head)), dashes, *body]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = f"\n\n{' '.join(grid.notes)}" if grid.notes else ""
    return f"**{plain(grid.title)}**\n\n{table}{notes}"


def as_csv(grid: Grid) -> str:
    """The head and a line per row; nothing is left out and nothing marked."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(grid.head)
    writer.writerows([item.text for item in row] for row in grid.rows)
    return sink.getvalue()


def as_latex(grid: Grid) -> str:
    """A ``table`` for the packages booktabs and colortbl (with xcolor)."""
    body = [" & ".join(_latex_item(item) for item in row) + r" \\" for row in grid.shown()]
    notes = f"\n\n\\footnotesize {latex(' '.join(grid.notes))}" if grid.notes else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(grid.title)}}}",
            rf"\label{{tab:{grid.name}}}",
            rf"\begin{{tabular}}{{{grid.align}}}",
            r"\toprule",
            " & ".join(latex(word) for word in grid.head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            rf"\end{{tabular}}{notes}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """With every letter that LaTeX would take for a command written out."""
    return re.sub(r"[\\&%$#_{}~^±×→²χ·–—…]", lambda found: _LATEX[found[0]], text)


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "×": r"$\times$", "→": r"$\rightarrow$", "²": r"$^2$", "χ": r"$\chi$",
    "·": r"$\cdot$", "–": "--", "—": "---", "…": r"\ldots{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex_item(item: Item) -> str:
    text = latex(item.text)
    return {
        Mark.NONE: text,
        Mark.OF_SCHEME: rf"\underline{{{text}}}",
        Mark.OF_RESOLUTION: rf"\textbf{{{text}}}",
        Mark.OF_ALL: rf"\cellcolor[gray]{{0.88}}\textbf{{{text}}}$^\star$",
    }[item.mark]


def _marked(item: Item) -> str:
    text = plain(item.text)
    return {
        Mark.NONE: text,
        Mark.OF_SCHEME: f"<u>{text}</u>",
        Mark.OF_RESOLUTION: f"**{text}**",
        Mark.OF_ALL: f"**{text} ★**",
    }[item.mark]


def plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    plain = re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
    return " ".join(plain.split())


def mark_best(
    values: Sequence[tuple[str, int, float | None]], decimals: int = 2
) -> list[Mark]:  # fmt: skip
    """The mark of each (scheme, resolution, value) of one metric; higher is better.

    Compared at the decimals that are shown, so that equal figures have equal marks. None, which
    stands for what is no mean over all datasets, takes no part. Where fewer than two take part,
    nothing is marked.
    """
    known = [(s, r, round(v, decimals)) for s, r, v in values if v is not None]
    marks = []
    for scheme, size, value in values:
        if value is None or len(known) < 2:
            marks.append(Mark.NONE)
            continue
        own = round(value, decimals)
        peers = [v for s, r, v in known if r == size and s == scheme]
        rivals = [v for _, r, v in known if r == size]
        if own == max(v for *_, v in known):
            marks.append(Mark.OF_ALL)
        elif own == max(rivals) and len(rivals) > 1:
            marks.append(Mark.OF_RESOLUTION)
        elif own == max(peers) and len(peers) > 1:
            marks.append(Mark.OF_SCHEME)
        else:
            marks.append(Mark.NONE)
    return marks
