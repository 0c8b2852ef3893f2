"""The stack as text: its pattern with indices, and below each letter what sets that layer apart from others of its kind."""

from collections.abc import Iterator, Mapping, Sequence

MOST_LETTERS = 60
BARS = "▁▂▃▄▅▆▇█"


def draw(pattern: str, rows: Mapping[str, str], width: int = 80) -> Iterator[tuple[str, bool]]:
    """`draw("M-M*-", {"ffn": " ▅  █"})`: lines of at most `width`, and whether each is a ruler; rows have a character for each layer.

                0
                M-M*-
          ffn    ▅  █
    """
    margin = max((len(name) for name in rows), default=0) + 2
    per_line = min(MOST_LETTERS, max(10, (width - margin) // 10 * 10))
    for start in range(0, len(pattern), per_line):
        if start and rows:
            yield "", False
        letters = slice(start, start + per_line)
        ruler = "".join(f"{index:<10}" for index in range(start, min(start + per_line, len(pattern)), 10))
        yield " " * margin + ruler.rstrip(), True
        yield " " * margin + pattern[letters], False
        for name, row in rows.items():
            yield f"{name:<{margin}}{row[letters]}".rstrip(), False


def bars(sizes: Sequence[int | None]) -> str:
    """`bars([512, None, 1024]) == "▄ █"`: shares of the largest; a space where there is none."""
    largest = max((size for size in sizes if size is not None), default=1)
    return "".join(" " if size is None else BARS[max(0, -(-8 * size // largest) - 1)] for size in sizes)
