"""Results of single items in one file, so that a stopped evaluation goes on where it was, and none is made twice."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from amaru.errors import ArtifactError, StorageError

TABLE = """
CREATE TABLE IF NOT EXISTS judged (
    model TEXT, task TEXT, item INTEGER, result TEXT NOT NULL, PRIMARY KEY (model, task, item)
)
"""


class Store:
    """`Store("evaluations.sqlite").get(model, task)`: what was judged so far, by item.

    `model` and `task` are fingerprints: of the weights, and of all that decides a result besides (items, examples, settings). What comes
    from others stays in the file and is never seen. Results are on disk when `put` returns. Raises `ArtifactError` when the file is not
    such a store, `StorageError` when it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._run("PRAGMA journal_mode=WAL")
        self._run(TABLE)

    def get(self, model: str, task: str) -> dict[int, dict[str, Any]]:
        rows = self._run("SELECT item, result FROM judged WHERE (model, task) = (?, ?)", [(model, task)])
        return {item: json.loads(result) for item, result in rows}

    def put(self, model: str, task: str, results: Iterable[tuple[int, dict[str, Any]]]) -> None:
        values = [(model, task, item, json.dumps(result)) for item, result in results]
        self._run("INSERT OR REPLACE INTO judged VALUES (?, ?, ?, ?)", values)

    def _run(self, statement: str, values: list[tuple[Any, ...]] | None = None) -> list[Any]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                if statement.startswith("INSERT"):
                    return connection.executemany(statement, values or []).fetchall()
                return connection.execute(statement, *(values or [])).fetchall()
        except sqlite3.OperationalError as error:
            raise StorageError(f"Cannot use {self.path}: {error}. Free some space or give another --cache.") from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(f"{self.path} is not a store of evaluations ({error}); delete it or give another --cache.") from None
