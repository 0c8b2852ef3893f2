"""The stack as text: its pattern with indices, and below each letter what sets that layer apart from others of its kind."""

from collections.abc import Iterator, Mapping, Sequence

LETTERS_PER_LINE = 60
BARS = "▁▂▃▄▅▆▇█"


def draw(pattern: str, rows: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """`draw("M-M*-", {"ffn": " ▅  █"})`: lines, and whether each is a ruler. Rows have one character for each layer.

                0
                M-M*-
          ffn    ▅  █
    """
    margin = max((len(name) for name in rows), default=0) + 2
    for start in range(0, len(pattern), LETTERS_PER_LINE):
        if start and rows:
            yield "", False
        letters = slice(start, start + LETTERS_PER_LINE)
        ruler = "".join(f"{index:<10}" for index in range(start, min(start + LETTERS_PER_LINE, len(pattern)), 10))
        yield " " * margin + ruler.rstrip(), True
        yield " " * margin + pattern[letters], False
        for name, row in rows.items():
            yield f"{name:<{margin}}{row[letters]}".rstrip(), False


def bars(sizes: Sequence[int | None]) -> str:
    """`bars([512, None, 1024]) == "▄ █"`: shares of the largest; a space where there is none."""
    largest = max((size for size in sizes if size is not None), default=1)
    return "".join(" " if size is None else BARS[max(0, -(-8 * size // largest) - 1)] for size in sizes)
