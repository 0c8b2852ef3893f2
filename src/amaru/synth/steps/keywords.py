"""Keywords mined from a corpus."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from amaru.data.files import Piece, read
from amaru.errors import DataError
from amaru.synth.mining import FINDERS, mined
from amaru.synth.steps.step import NAME, Known, Starting


class Keywords(Starting):
    """The `count` keywords of a corpus that most documents have, each a row with `column` and `documents`.

    files     beside the recipe: .jsonl and .parquet by `field`, text and programs as a whole; * stands for several. None: a place for a
              corpus to come
    what      terms: one to three words; python: what programs import, call and are built of
    against   a corpus of other texts: terms come first that are frequent here and rare there
    least     documents that a keyword must be in
    """

    kind: Literal["keywords"]
    files: tuple[str, ...]
    field: str = "text"
    what: Literal["terms", "python"] = "terms"
    against: tuple[str, ...] = ()
    column: str = Field(default="keyword", pattern=NAME)
    count: int = Field(default=1000, ge=1)
    least: int = Field(default=2, ge=1)

    def makes(self, has: Known) -> Known:
        return {self.column, "documents"}

    def taking(self, file: str) -> "Keywords":
        return replace(self, files=(file,))

    def rows_from(self, directory: Path) -> list[dict[str, Any]]:
        """Raises `DataError` for files that are not there or cannot be read, and where no keyword is found."""
        if not self.files:
            return []
        here, there = (_texts(directory, names, self.field) for names in (self.files, self.against))
        found = mined(here, there, FINDERS[self.what], self.count, self.least)
        if not found:
            raise DataError(f"No keyword is in {self.least} documents of {', '.join(self.files)}; give more of them, or a lower 'least'.")
        return [{self.column: keyword, "documents": documents} for keyword, documents in found]


def _texts(directory: Path, names: tuple[str, ...], field: str) -> Iterator[str]:
    for name in names:
        paths = sorted(directory.glob(name)) if not Path(name).is_absolute() else [Path(name)]
        if not paths:
            raise DataError(f"There is no file {directory / name}.")
        for path in paths:
            for record in read(Piece(str(path)), field):
                if record.problem:
                    raise DataError(record.problem.sentence)
                yield record.text
