"""Every command that the README shows is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from amaru.cli.main import VERBS, load

README = Path(__file__).parents[2] / "README.md"
COMMANDS = re.findall(r"^(?:    |\$ )(amaru .+)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes_it(command: str) -> None:
    _, verb, *words = shlex.split(command)
    assert verb in VERBS
    parser = load(verb)
    with parser.make_context(verb, words):  # raises for an unknown flag, a missing argument or a wrong type
        pass


def test_no_place_is_left_unfilled() -> None:
    assert "@@" not in README.read_text(encoding="utf-8")


def test_files_named_as_proof_exist() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", README.read_text(encoding="utf-8")):
        assert (README.parent / path).exists(), path
