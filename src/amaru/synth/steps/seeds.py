"""Rows that people bring."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from amaru.data.files import Piece, Problem, objects
from amaru.errors import ConfigError, DataError
from amaru.synth.steps.step import Known, Starting


class Seeds(Starting):
    """Rows that people bring: written in the recipe, or objects of a .jsonl or .parquet file. `rows: []` is a place for rows to come.

    licence   under which they may be used, for the card
    """

    kind: Literal["seeds"]
    rows: tuple[dict[str, Any], ...] | None = None
    file: str | None = None
    licence: str | None = None

    def check(self) -> None:
        super().check()
        if (self.rows is None) == (self.file is None):
            raise ConfigError(f"Step {self.name} has either rows or a file of them.")

    def makes(self, has: Known) -> Known:
        return set.intersection(*(set(row) for row in self.rows)) if self.rows else None

    def taking(self, file: str) -> "Seeds":
        return replace(self, rows=None, file=file)

    def rows_from(self, directory: Path) -> list[dict[str, Any]]:
        return list(self.rows or ()) if self.file is None else _read(directory / self.file)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    found = []
    for _, record in objects(Piece(str(path))):
        if isinstance(record, Problem):
            raise DataError(record.sentence)
        found.append(record)
    if not found:
        raise DataError(f"{path} holds no rows.")
    return found
