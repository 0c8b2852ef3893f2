"""What every verb says: one result on stdout, for people or as JSON, and progress on stderr."""

import difflib
import json as json_format
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]

PIPED_WIDTH = 140  # columns assumed when stdout is no terminal, so that tables in files are not cut at 80


class Finding(Exception):
    """Raised after `emit` when the work was done and its result is bad news; one sentence, exit code 1.

    >>> raise Finding("The distilled student does not beat its twin: loss 2.31 against 2.29.")
    """


def emit(result: Mapping[str, Any], *, json: bool, people: Callable[[Mapping[str, Any], Console], None]) -> None:
    """Print a verb's result to stdout: as one JSON document, or by `people(result, console)`.

    >>> emit({"tokens": 512}, json=False, people=lambda result, console: console.print(result["tokens"]))

    `result` holds plain values, paths, numpy or torch scalars. JSON knows no NaN or infinity: they become null.
    The console reads no `[markup]` (tensor shapes and people's text have brackets); style with `style=` or `rich.text.Text`.
    """
    if json:
        print(json_format.dumps(_plain(result), indent=2, allow_nan=False))
    else:
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
        people(result, Console(highlight=False, markup=False, emoji=False, width=wide))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy or torch scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LiveLine:
    """Progress on stderr: one line that changes in place on a terminal, a new line now and then in a log.

    >>> live = LiveLine()
    >>> live.update("step 40/900  loss 3.21  12,000 tokens/s  1.4 GB  2 min left")
    >>> live.note("saved runs/demo/parent")    # a line that stays
    """

    def __init__(self, seconds_between_log_lines: float = 10.0) -> None:
        self._terminal = sys.stderr.isatty()
        self._pause = seconds_between_log_lines
        self._next = 0.0
        self._shown = False

    def update(self, text: str) -> None:
        if self._terminal:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            self._write(f"\r\x1b[K{text[: columns - 1]}")
            self._shown = True
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + self._pause
            self._write(f"{text}\n")

    def note(self, text: str) -> None:
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Remove the changing line, before something else is printed."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def __enter__(self) -> "LiveLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def closest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'train'?` when something is near, else the list of what there is."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" There is: {', '.join(known)}."
