"""A page as Markdown, read back by a Markdown parser."""

import re

from markdown_it import MarkdownIt

from amaru.report.markdown import save_markdown
from amaru.report.page import Card, Cards, Commands, Drawing, Facts, Page, Preformatted, Prose, Section, Table

HOSTILE = "M-M*-M*- _a_ <b> [c](d) | `e` # f \\"


def page_of(*blocks):
    return Page("A page", "sub", [Section("First", blocks)], footer="end")


def tokens_of(path):
    return MarkdownIt("commonmark").enable("table").parse(path.read_text())


def texts(path):
    return [child.content for token in tokens_of(path) for child in token.children or () if child.type == "text"]


def cells(path):
    tokens = tokens_of(path)
    opened = [at for at, token in enumerate(tokens) if token.type in ("th_open", "td_open")]
    return ["".join(child.content for child in tokens[at + 1].children) for at in opened]


def test_every_kind_of_block_is_there(tmp_path):
    drawings = Drawing("<svg>1</svg>", "What to see."), Drawing("<svg>2</svg>", "More.")
    blocks = (
        Prose("A sentence."),
        Cards([Card("loss", "2.31", "parent 2.24"), Card("memory", "17 MiB")]),
        *drawings,
        Table(["model", "loss"], [["parent", 2.24], ["student", 2.5]], best={"loss": min}, caption="Held-out files."),
        Preformatted("def f():\n\n    ```pass", "student"),
        Commands(["amaru demo", "amaru env"]),
        Facts({"seed": 1, "gpu": None}),
    )
    written = save_markdown(page_of(*blocks), tmp_path / "page.md")
    assert [path.name for path in written] == ["page.md", "page-1.svg", "page-2.svg"]
    assert [path.read_text() for path in written[1:]] == ["<svg>1</svg>\n", "<svg>2</svg>\n"]
    tokens = tokens_of(written[0])
    images = [child.attrs["src"] for token in tokens for child in token.children or () if child.type == "image"]
    assert images == ["page-1.svg", "page-2.svg"]
    assert [token.content for token in tokens if token.type == "fence"] == ["def f():\n\n    ```pass\n", "amaru demo\namaru env\n"]
    assert cells(written[0]) == ["model", "loss", "parent", "2.24", "student", "2.5"]
    strong = [at for token in tokens for at, child in enumerate(token.children or ()) if child.type == "strong_open"]
    assert len(strong) == 3, "two cards and the lower of two losses"
    said = " ".join(texts(written[0]))
    assert all(each in said for each in ("A page", "sub", "First", "A sentence.", "parent 2.24", "What to see.", "Held-out files.", "end"))


def test_nothing_in_a_text_means_anything_to_markdown(tmp_path):
    table = Table([HOSTILE, "b"], [[HOSTILE, 1]], caption=HOSTILE)
    (path,) = save_markdown(page_of(Prose(HOSTILE), Cards([Card(HOSTILE, "1")]), table), tmp_path / "page.md")
    found = re.sub(r"\s+", " ", " ".join(cells(path)))
    assert found == f"{HOSTILE} b {HOSTILE} 1"
    said = ["".join(child.content for child in token.children) for token in tokens_of(path) if token.type == "inline"]
    assert said.count(HOSTILE) == 4, "the paragraph, header, cell and caption"
    kinds = {child.type for token in tokens_of(path) for child in token.children or ()}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close"}
