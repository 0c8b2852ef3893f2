"""Verbs as people call them, and a run that is stopped on its way."""

import json

import pytest

from amaru.cli.main import main


def run(capsys: pytest.CaptureFixture, *words: object, code: int = 0) -> tuple[dict, str]:
    """What `amaru WORDS --json` prints, and what it says on the way."""
    found = main([*map(str, words), "--json"])
    said = capsys.readouterr()
    assert found == code, said.err
    return json.loads(said.out), said.err


class Stops:
    """Progress that is stopped by whoever watches, at the nth thing that is said."""

    def __init__(self, after: int) -> None:
        self.left = after

    def note(self, text: str) -> None: ...

    def update(self, text: str) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
