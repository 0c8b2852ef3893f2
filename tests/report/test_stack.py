"""The drawn stack: every letter below its index, every mark below its letter."""

import pytest

from amaru.report.stack import BARS, bars, draw


def test_a_mark_stands_below_its_letter_and_the_letter_below_its_index() -> None:
    pattern = "".join("M-*E"[(index * index) % 4] for index in range(133))
    marks = "".join(chr(ord("a") + index % 26) if index % 3 else " " for index in range(133))
    lines = [line for line, _ in draw(pattern, {"kv": marks}) if line]
    rulers, letters, rows = lines[::3], lines[1::3], lines[2::3]
    assert max(map(len, lines)) <= 80 and len(rulers) == len(letters) == len(rows) == 3
    assert "".join(line[4:] for line in letters) == pattern
    assert "".join(f"{line[4:]:<60}" for line in rows).rstrip() == marks.rstrip()
    for index in range(0, 133, 10):
        assert rulers[index // 60][4 + index % 60 :].startswith(str(index))


@pytest.mark.parametrize("width", [24, 40, 63, 80, 200])
def test_lines_are_no_wider_than_asked(width: int) -> None:
    lines = [line for line, _ in draw("M-" * 70, {"a": "x" * 140}, width)]
    assert max(map(len, lines)) <= width and "".join(line[3:] for line in lines if line.startswith("a")) == "x" * 140


def test_only_rulers_are_told_to_be_rulers() -> None:
    assert [ruler for _, ruler in draw("M" * 61, {})] == [True, False, True, False]


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ([512, None, 1024], "▄ █"),
        ([1, 8, 16], "▁▄█"),
        ([None, None], "  "),
        ([0, 5], "▁█"),
        (list(range(1, 9)), BARS),
        ([999, 1000, 126, 124], "██▂▁"),
    ],
)
def test_bars_are_shares_of_the_largest(sizes: list[int | None], drawn: str) -> None:
    assert bars(sizes) == drawn
