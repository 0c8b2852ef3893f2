"""Every command that the README and the pages of docs/ show is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from amaru.cli.main import VERBS, load

README = Path(__file__).parents[2] / "README.md"
PAGES = [README, *sorted((README.parent / "docs").rglob("*.md"))]
COMMANDS = [
    re.split(r"\s{2,}#", command)[0]
    for page in PAGES
    for command in re.findall(r"^(?:    |\$ )(amaru .+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
]


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes_it(command: str) -> None:
    _, verb, *words = shlex.split(command)
    assert verb in VERBS
    name, parser, words = load(verb, words)
    with parser.make_context(name, words):  # raises for an unknown flag, a missing argument or a wrong type
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_place_is_left_unfilled(page: Path) -> None:
    assert "@@" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|benchmarks)/[\w/.]+)`", text) + re.findall(r"python ((?:tests|benchmarks)/[\w/.]+)", text):
        assert (README.parent / path).exists(), path
    for link in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (page.parent / link).exists(), link
