"""A page as Markdown with its figures in files beside it, for documentation that is read where it lies."""

import re
from collections.abc import Iterator
from pathlib import Path

from amaru.config import atomic_file
from amaru.report.page import Block, Cards, Column, Commands, Drawing, Facts, Page, Preformatted, Prose, Table


def save_markdown(page: Page, path: str | Path) -> list[Path]:
    """`save_markdown(page, "docs/results/compression.md")`: that file, and `compression-1.svg` and so on; returns all of them.

    Raises `StorageError` when the disk is full; what is there then is whole.
    """
    path = Path(path)
    drawn = [block for section in page.sections for block in section.blocks if isinstance(block, Drawing)]
    names = {id(block): f"{path.stem}-{number}.svg" for number, block in enumerate(drawn, 1)}
    for block in drawn:
        _write(path.with_name(names[id(block)]), f"{block.svg}\n")
    _write(path, markdown(page, names))
    return [path, *(path.with_name(name) for name in names.values())]


def markdown(page: Page, figures: dict[int, str]) -> str:
    """The text; `figures` is the file of every drawing, by its `id`."""
    parts = [f"# {text(page.title)}", text(page.subtitle)]
    for section in page.sections:
        parts += [f"## {text(section.title)}", *(part for block in section.blocks for part in _block(block, section.title, figures))]
    return "\n\n".join(part for part in [*parts, text(page.footer)] if part) + "\n"


def _block(block: Block, title: str, figures: dict[int, str]) -> Iterator[str]:
    match block:
        case Prose():
            yield text(block.text)
        case Cards():
            yield "\n".join(f"- {text(card.name)}: **{text(card.value)}**{_note(card.note)}" for card in block.cards)
        case Drawing():
            yield f"![{text(title)}]({figures[id(block)]})"
            yield text(block.caption)
        case Table():
            yield from _table(block)
        case Preformatted():
            yield text(block.title)
            yield _verbatim(block.text)
        case Commands():
            yield _verbatim("\n".join(block.lines))
        case Facts():
            yield "\n".join(f"- {text(name)}: {text(value)}" for name, value in block.texts())


def _table(table: Table) -> Iterator[str]:
    columns = table.columns()
    rows = [[column.header for column in columns], ["---:" if column.numeric else "---" for column in columns]]
    rows += [[_cell(column, row) for column in columns] for row in range(len(table.rows))]
    yield "\n".join(f"| {' | '.join(row)} |" for row in [[text(cell) for cell in rows[0]], *rows[1:]])
    yield text(table.caption)


def _cell(column: Column, row: int) -> str:
    return f"**{text(column.texts[row])}**" if column.best[row] else text(column.texts[row])


def _note(note: str) -> str:
    return f" ({text(note)})" if note else ""


def _verbatim(lines: str) -> str:
    """Between fences that are longer than any inside."""
    longest = max(map(len, re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{lines}\n{fence}"


def text(plain: str) -> str:
    """`text("M-M*-") == "M-M\\\\*-"`: on one line, and nothing in it means anything to Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(plain.split()))


def _write(path: Path, content: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
