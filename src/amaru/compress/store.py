"""Results of candidates in one file, so that a search which was stopped goes on where it was."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from amaru.errors import ArtifactError, StorageError

TABLE = """
CREATE TABLE IF NOT EXISTS results (
    made_from TEXT, candidate TEXT, stage TEXT, seed INTEGER, result TEXT NOT NULL,
    PRIMARY KEY (made_from, candidate, stage, seed)
)
"""


class CandidateStore:
    """`CandidateStore("search.sqlite", made_from=fingerprint)`: what each candidate scored, by stage and seed.

    `made_from` is a hash of all that determines a result besides the candidate (parent, text, settings): results of
    another origin stay in the file and are never seen. A result is on disk when `put` returns. Raises `ArtifactError`
    when the file is not such a store, `StorageError` when it cannot be written.
    """

    def __init__(self, path: str | Path, made_from: str) -> None:
        self.path = Path(path)
        self.made_from = made_from
        self._run("PRAGMA journal_mode=WAL")
        self._run(TABLE)

    def get(self, candidate: str, stage: str, seed: int = 0) -> dict[str, Any] | None:
        """The result of a candidate's key, or None where there is none yet."""
        rows = self._run("SELECT result FROM results WHERE (made_from, candidate, stage, seed) = (?, ?, ?, ?)", candidate, stage, seed)
        return json.loads(rows[0][0]) if rows else None

    def put(self, candidate: str, stage: str, result: dict[str, Any], seed: int = 0) -> None:
        self._run("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", candidate, stage, seed, json.dumps(result))

    def _run(self, statement: str, *values: Any) -> list[Any]:
        arguments = (self.made_from, *values) if values else ()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                return connection.execute(statement, arguments).fetchall()
        except sqlite3.OperationalError as error:
            raise StorageError(f"Cannot use {self.path}: {error}. Free some space or give another --out.") from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(
                f"{self.path} is not a store of search results ({error}); delete it and run the same command again."
            ) from None
