"""Links between pages lead to files and headings that exist, and the site lists every page."""

from pathlib import Path

import pytest
from website.gather import ROOT, documents, unlisted
from website.links import broken

PAGES = [path for path in documents() if path.suffix == ".md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `thing`, and two\n\n## Again\n\n## Again\n")
    page = tmp_path / "page.md"
    good = ("[a](other.md) [b](other.md#one-thing-and-two) [c](other.md#again_1) [d](#here) [e](https://example.org/x)", "`[f](none.md)`")
    page.write_text("# Here\n\n" + "\n\n    [g](none.md)\n\n".join(good))
    assert list(broken(page)) == []
    page.write_text("# Here\n\n[a](none.md) [b](other.md#three) [c](#there) ![d](none.svg)\n")
    assert list(broken(page)) == ["none.md", "other.md#three", "#there", "none.svg"]


def test_the_site_lists_every_page() -> None:
    assert unlisted() == set(), "list it in website/site.yml"
