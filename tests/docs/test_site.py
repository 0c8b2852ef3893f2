"""The built site in a browser, opened as files: nothing is missing, nothing is asked of anywhere else, and search answers."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.server.chromium import PROGRAM, Page, browser

ROOT = Path(__file__).parents[2]
GUIDES = ("docs/quickstart", "docs/concepts/hybrids", "docs/serving", "docs/performance", "docs/results/tied_lora")
PAGES = ("index", *GUIDES, "api/ops", "api/serve")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="the extra docs is not installed"),
]


@pytest.fixture(scope="module")
def site() -> Path:
    built = subprocess.run([sys.executable, "-m", "website"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ROOT / "build" / "site" / "html"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as page:
        yield page


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_whole_and_ask_nobody_else(page: Page, site: Path, width: int) -> None:
    page.resize(width, 900)
    for name in PAGES:
        page.open((site / f"{name}.html").as_uri())
        page.until("[...document.images].every(image => image.complete && image.naturalWidth)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"
    assert [request for request in page.requests if not request.startswith(("file:", "data:", "blob:"))] == []
    assert page.complaints == []


def test_a_dark_reader_sees_a_dark_page(page: Page, site: Path) -> None:
    page.prefer("dark")
    page.open((site / "docs" / "concepts" / "rpo.html").as_uri())
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"


def test_search_answers_without_a_server(page: Page, site: Path) -> None:
    page.open((site / "index.html").as_uri())
    page.evaluate("document.querySelector('.md-search__button').click()")
    found = "[...document.querySelectorAll('*')].some(each => each.shadowRoot?.textContent.includes('Group-aware pruning'))"
    assert not page.evaluate(found)
    page.call("Input.insertText", text="heads of another group")
    page.until(found)
    assert page.complaints == []
