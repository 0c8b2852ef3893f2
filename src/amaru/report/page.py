"""The model of a report page, and its one self-contained HTML file: no network, no scripts, light and dark, printable.

page = Page("Compressed to 60 %", "demo, 2 CPU threads", [
    Section("In short", [Cards([Card("Validation loss", "2.31", "parent 2.24")])]),
    Section("Before and after", [Table(["model", "loss"], [["parent", 2.24], ["student", 2.31]], best={"loss": min})]),
])
page.save("runs/demo/report.html")
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from amaru.config import atomic_file
from amaru.report.numbers import NONE, plain

Cell = str | int | float | None


@dataclass(frozen=True)
class Prose:
    """One paragraph."""

    text: str
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Card:
    """A lead number with what it is, and one line that puts it in proportion."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Drawing:
    """An inline SVG of `amaru.report.figures`, and the sentence that says what to see in it."""

    svg: str
    caption: str
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Table:
    """Rows under headers.

    >>> Table(["model", "loss", "memory"], [["parent", 2.24, 3 << 20]], formats={"memory": size}, best={"loss": min})

    A cell is text, a number (written by `formats[header]`), or None. `best` marks the `min` or `max` of a column;
    `marked` is the index of a row to set apart.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    formats: Mapping[str, Callable[[float], str]] = field(default_factory=dict)
    best: Mapping[str, Callable[[Iterable[float]], float]] = field(default_factory=dict)
    marked: int | None = None
    caption: str = ""
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.headers) for row in self.rows), "a row has another number of cells than there are headers"
        assert {*self.formats, *self.best} <= {*self.headers}, "a format or a best names no header"

    def columns(self) -> list["Column"]:
        cells_of = list(zip(*self.rows, strict=True)) or [()] * len(self.headers)
        return [self._column(header, cells) for header, cells in zip(self.headers, cells_of, strict=True)]

    def _column(self, header: str, cells: Sequence[Cell]) -> "Column":
        write = self.formats.get(header, plain)
        numbers = [cell for cell in cells if isinstance(cell, int | float)]
        rivals = [number for number in numbers if isfinite(number)]
        best = self.best[header](rivals) if header in self.best and len(rivals) > 1 else None
        texts = [cell if isinstance(cell, str) else NONE if cell is None else write(cell) for cell in cells]
        return Column(header, bool(numbers), texts, [best is not None and cell == best for cell in cells])


@dataclass(frozen=True)
class Column:
    """A column as it is printed."""

    header: str
    numeric: bool
    texts: list[str]
    best: list[bool]


@dataclass(frozen=True)
class Preformatted:
    """Text kept as it is, such as what a model wrote."""

    text: str
    title: str = ""
    kind: ClassVar[str] = "preformatted"


@dataclass(frozen=True)
class Commands:
    """Command lines to copy; a click selects a whole line."""

    lines: Sequence[str]
    kind: ClassVar[str] = "commands"


@dataclass(frozen=True)
class Facts:
    """Names and values: what exactly was run, on what, from what."""

    facts: Mapping[str, Cell]
    kind: ClassVar[str] = "facts"

    def texts(self) -> list[tuple[str, str]]:
        return [(name, value if isinstance(value, str) else NONE if value is None else plain(value)) for name, value in self.facts.items()]


def template(name: str) -> Template:
    """A template beside this module, in which text is escaped."""
    loader = PackageLoader("amaru.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).get_template(name)


Block = Prose | Cards | Drawing | Table | Preformatted | Commands | Facts


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report; equal pages give equal bytes."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str = ""

    def html(self) -> str:
        return template("template.html").render(page=self)

    def save(self, path: str | Path) -> None:
        """Write the page whole or not at all; raises `StorageError` when the disk is full."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
