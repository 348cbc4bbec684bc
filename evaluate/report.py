"""A report: sections of sentences, tables and pictures, and its forms as HTML and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from evaluate.canvas import png_bytes, svg_bytes
from evaluate.grid import MARKS, Grid, Item, Mark, as_markdown, plain

_NAMED = 6
"""The most sources that a figure's tooltip names before it counts them."""

_SAID = {
    mark: Markup('<span class="unseen">, {}</span>').format(text.partition(": ")[2])
    for mark, text in MARKS.items()
} | {Mark.NONE: Markup("")}
"""What only a screen reader tells of a mark."""

_CLASSES = {
    Mark.NONE: "", Mark.OF_SCHEME: "of-scheme", Mark.OF_RESOLUTION: "of-resolution",
    Mark.OF_ALL: "of-all",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with the stem of its files, its caption, and what it shows in words.

    ``images`` says that it is made of pixels, and a drawing of lines would be larger.
    """

    stem: str
    title: str
    caption: str
    figure: Figure
    images: bool = False


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


Part = str | Heading | Grid | Picture


@dataclass(frozen=True)
class Section:
    """``anchor`` is its name within the page."""

    anchor: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Report:
    """``lead`` are the sentences under the title; ``numbers`` names each source by its number."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)

    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            yield from (part for part in section.parts if isinstance(part, Picture))

    def grids(self) -> Iterator[Grid]:
        for section in self.sections:
            yield from (part for part in section.parts if isinstance(part, Grid))


def as_html(report: Report) -> str:
    """One page that needs nothing else: style and pictures are within it, and no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluate"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["address"] = _address
    environment.filters["width"] = _width
    return environment.get_template("report.html").render(
        report=report, kind=_kind, row_class=_CLASSES, figure=_Figures(report.numbers).html
    )


def as_markdown_text(report: Report) -> str:
    """With the pictures as files beside it, in ``figures/``."""
    lines = [f"# {plain(report.title)}", *map(plain, report.lead)]
    for section in report.sections:
        lines.append(f"## {section.title}")
        lines += [_part(part) for part in section.parts]
    return "\n\n".join(lines) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, Grid):
        return as_markdown(part)
    if isinstance(part, Picture):
        title, caption = plain(part.title), plain(part.caption)
        return f"![{title}](figures/{part.stem}.png)\n\n*{title}.* {caption}"
    return f"### {plain(part.text)}" if isinstance(part, Heading) else plain(part)


def _kind(part: Part) -> str:
    """The name of its class, lower case; ``str`` for words."""
    return type(part).__name__.lower()


def _address(picture: Picture) -> str:
    """The picture itself as an address."""
    block = png_bytes(picture.figure) if picture.images else svg_bytes(picture.figure)
    kind = "png" if picture.images else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(block).decode('ascii')}"


def _width(picture: Picture) -> int:
    """In CSS pixels, of which an inch has 96."""
    return round(96 * picture.figure.get_figwidth())


@dataclass(frozen=True)
class _Figures:
    """How the page shows a figure, and what it says of its sources."""

    numbers: Mapping[str, int]

    def html(self, item: Item) -> Markup:
        """The text; where records stand behind it a link to the first, and the names of all."""
        if not item.sources:
            return Markup("{}").format(item.text)
        first = self.numbers.get(item.sources[0])
        place = "sources" if first is None else f"record-{first}"
        link = Markup('<a href="#{}" title="{}">{}</a>')
        return link.format(place, self._said(item.sources), item.text) + _SAID[item.mark]

    def _said(self, sources: Sequence[str]) -> str:
        known = sorted(self.numbers[name] for name in sources if name in self.numbers)
        if len(known) < len(sources):
            return name_some(sources)
        return f"record{'s' if len(known) > 1 else ''} {ranges(known)}"


def name_some(names: Sequence[str]) -> str:
    """The names, but of many only how many there are, with the first and the last."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{len(names)} from {names[0]} to {names[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, those in a row as a range: ``1–3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs)
