"""What makes the site: drawings as their code draws them, pages from docstrings, and what a built site is refused for."""

from pathlib import Path

import pytest
from website import api
from website.built import faults
from website.figures import CONCEPTS, DRAWINGS

import amaru.compress


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_what_their_code_draws(name: str) -> None:
    assert (CONCEPTS / f"{name}.svg").read_text(encoding="utf-8") == DRAWINGS[name]() + "\n", "run python -m website.figures"


def test_a_package_shows_all_that_it_exports() -> None:
    page = api.page("compress")
    assert {name for name in amaru.compress.__all__ if f"`from amaru.compress import {name}`" not in page} == set()
    assert "\n### matching\n" not in page and "- `amaru.compress.surgery`: " in page


def test_every_package_that_a_program_may_import_has_a_page() -> None:
    packages = {path.name for path in (api.SOURCE / "amaru").iterdir() if (path / "__init__.py").exists()}
    assert {*api.PACKAGES} - {"errors"} == packages - {"cli", "recipes", "report"}


def test_docstrings_keep_what_was_laid_out_and_lose_no_character() -> None:
    text = "Of x [T], *not* bold_face <= 1.\n\n>>> f(x)\n\nname   what it is\nlonger   more\n\nThe `a[b]_c` end."
    flowing = r"Of x \[T\], \*not\* bold\_face &lt;= 1."
    assert api.prose(text) == f"{flowing}\n\n```pycon\n>>> f(x)\n```\n\n```text\nname   what it is\nlonger   more\n```\n\nThe `a[b]_c` end."


def test_a_site_is_refused_for_dead_links_and_for_what_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "style.css").write_text("body { background: url('//fonts.example/x.woff') }")
    (tmp_path / "a.html").write_text('<p id="here">x</p><a href="b.html#there">b</a><a href="#here">a</a><a href="https://example.org">out</a>')
    loads = '<link href="look/style.css"><img src="no.svg"><script src="//cdn/x.js"></script>'
    (tmp_path / "b.html").write_text(f'<p id="there">x</p><a href="a.html#gone">a</a>{loads}')
    assert list(faults(tmp_path)) == [
        "b.html loads //cdn/x.js, which lies outside the site.",
        "b.html links to a.html#gone, which leads nowhere.",
        "b.html links to no.svg, which leads nowhere.",
        "look/style.css loads //fonts.example/x.woff, which lies outside the site.",
    ]
