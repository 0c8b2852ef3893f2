"""The HTML of a page, read back by a parser."""

from html.parser import HTMLParser

import pytest

from amaru.report.numbers import size
from amaru.report.page import Card, Cards, Commands, Drawing, Facts, Page, Preformatted, Prose, Section, Table

HOSTILE = """<script>alert("1")</script> & '<img src=x onerror=y>'"""
VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Checks that every element is closed, and collects elements and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.elements)

    def text_of(self, tag):
        return [text for name, text in self.texts if name == tag and text.strip()]


def page_of(*blocks, title="A page"):
    return Page(title, "sub", [Section("First", blocks)], footer="end")


def test_every_kind_of_block_is_on_the_page():
    blocks = (
        Prose("A sentence."),
        Cards([Card("loss", "2.31", "parent 2.24"), Card("memory", "17 MiB")]),
        Drawing("<svg viewBox='0 0 1 1'></svg>", "What to see."),
        Table(["model", "loss"], [["parent", 2.24]], caption="Held-out files."),
        Preformatted("def f():\n    pass", "student"),
        Commands(["amaru demo", "amaru env"]),
        Facts({"seed": 1, "gpu": None}),
    )
    reader = Reader(page_of(*blocks).html())
    assert reader.text_of("h1") == ["A page"] and reader.text_of("h2") == ["First"] and reader.text_of("footer") == ["end"]
    assert reader.text_of("dt") == ["loss", "memory", "seed", "gpu"]
    assert reader.text_of("dd") == ["2.31", "parent 2.24", "17 MiB", "1", "–"]
    assert reader.text_of("figcaption") == ["What to see.", "Held-out files."]
    assert reader.count("svg") == 1
    assert reader.text_of("td") == ["parent", "2.24"]
    assert reader.text_of("pre") == ["def f():\n    pass"] and reader.text_of("span") == ["amaru demo", "amaru env"]


def test_the_page_loads_nothing_and_runs_nothing():
    html = page_of(Prose("text")).html()
    reader = Reader(html)
    assert reader.count("script") == 0
    assert [found["href"] for _, found in reader.elements if "href" in found] == ["data:,"]
    assert not any("src" in found for _, found in reader.elements)
    assert "http" not in html and "url(" not in html and "@import" not in html
    assert len(html) < 12_000


def test_hostile_text_stays_text():
    blocks = (
        Prose(HOSTILE),
        Cards([Card(HOSTILE, HOSTILE, HOSTILE)]),
        Table([HOSTILE, "n"], [[HOSTILE, 1]], caption=HOSTILE),
        Preformatted(HOSTILE, HOSTILE),
        Commands([HOSTILE]),
        Facts({HOSTILE: HOSTILE}),
    )
    reader = Reader(page_of(*blocks, title=HOSTILE).html())
    assert reader.count("script") == reader.count("img") == 0
    for tag in ("title", "h1", "p", "th", "td", "figcaption", "pre", "h3", "span", "dt", "dd"):
        assert HOSTILE in reader.text_of(tag)


def test_tables_mark_the_best_and_align_numbers():
    table = Table(
        ["model", "loss", "memory", "speed"],
        [["a", 2.5, 3 << 20, None], ["b", 2.25, 1 << 20, 7], ["c", float("nan"), 1 << 20, None]],
        formats={"memory": size},
        best={"loss": min, "memory": min, "speed": max},
        marked=1,
    )
    columns = {column.header: column for column in table.columns()}
    assert columns["loss"].best == [False, True, False]
    assert columns["memory"].best == [False, True, True] and columns["memory"].texts == ["3.0 MiB", "1.0 MiB", "1.0 MiB"]
    assert columns["speed"].best == [False] * 3, "one number alone beats nobody"
    assert [column.numeric for column in columns.values()] == [False, True, True, True]
    reader = Reader(page_of(table).html())
    assert reader.count("td", **{"class": "number best"}) == 3
    assert reader.count("tr", **{"class": "marked"}) == 1


def test_an_empty_table_keeps_its_headers():
    assert Reader(page_of(Table(["a", "b"], [])).html()).text_of("th") == ["a", "b"]


def test_a_ragged_table_is_refused():
    with pytest.raises(AssertionError):
        Table(["a", "b"], [["only one"]])


def test_equal_pages_are_equal_bytes_on_disk(tmp_path):
    for name in ("one.html", "two.html"):
        page_of(Table(["a"], [[1.0]]), Facts({"x": "é"})).save(tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert (tmp_path / "one.html").read_text(encoding="utf-8") == page_of(Table(["a"], [[1.0]]), Facts({"x": "é"})).html()
