"""All that was asked, answered and made, in one SQLite file: an answer counts once it is on disk, and is never asked for again."""

import asyncio
import fcntl
import json
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from amaru.errors import ArtifactError, StorageError
from amaru.synth.budget import Usage
from amaru.synth.call import Answer, Call
from amaru.synth.row import FAILED, MADE, Made, Matched, Outcome

TABLES = """
CREATE TABLE IF NOT EXISTS prompts (version TEXT PRIMARY KEY, name TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, step TEXT, request TEXT, content TEXT, finish TEXT,
    calls INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, money REAL, seconds REAL, at REAL DEFAULT (julianday())
);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT, step TEXT, reason TEXT, content TEXT,
    calls INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, money REAL, at REAL DEFAULT (julianday())
);
CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, step TEXT, row TEXT, state TEXT, reason TEXT, at REAL DEFAULT (julianday()));
CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, unit TEXT, number INTEGER, columns TEXT, calls TEXT);
CREATE TABLE IF NOT EXISTS matches (unit TEXT PRIMARY KEY, item TEXT, similarity REAL, words TEXT);
CREATE TABLE IF NOT EXISTS others (row TEXT PRIMARY KEY, keys TEXT);
CREATE INDEX IF NOT EXISTS rows_of_unit ON rows (unit, number);
"""
USAGE = "coalesce(sum(calls), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(money), 0.0)"
Write = tuple[str, Sequence[Any]]


class Store:
    """`with Store("runs/questions/store.sqlite") as store:` in which one process works at a time, and any number look on (`reading`).

    Whatever is awaited here is on disk when the await returns: a thread of its own writes all that is waiting in one transaction and
    syncs once for all of it, so many calls at once cost few syncs. Raises `ArtifactError` when another process is in it, or when the
    file is something else, and `StorageError` when it cannot be written.
    """

    def __init__(self, path: str | Path, reading: bool = False) -> None:
        self.path = Path(path)
        self.reading = reading
        self._claims: dict[str, asyncio.Future[None]] = {}
        self._queue: queue.SimpleQueue[tuple[list[Write], asyncio.Future[None]] | None] = queue.SimpleQueue()

    def __enter__(self) -> "Store":
        if self.reading:
            self._reader = self._found()
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.path.with_name(f".{self.path.name}.lock").open("w")
        except OSError as error:
            raise StorageError(f"Cannot write {self.path}: {error.strerror}. Choose another --out.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._reader = self._connect()
            self._reader.executescript(TABLES)
        except BlockingIOError:
            self._lock.close()
            raise ArtifactError(f"Another process is working in {self.path.parent}; wait for it, or give another --out.") from None
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise self._sentence(error) from None
        self._writer = threading.Thread(target=self._write_all, daemon=True, name="store")
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.reading:
            self._reader.close()
            return
        self._queue.put(None)
        self._writer.join()
        self._reader.close()
        self._lock.close()

    def answer(self, key: str) -> Answer | None:
        """The answer to a call, where there is one on disk."""
        row = self._read("SELECT content, finish, calls, prompt_tokens, completion_tokens, money FROM answers WHERE key = ?", key)
        return Answer(row[0][0], row[0][1], Usage(*row[0][2:])) if row else None

    @asynccontextmanager
    async def claimed(self, key: str) -> AsyncIterator[Answer | None]:
        """The answer to a call where there is one; otherwise whoever enters asks it, and others who want it wait until it is done."""
        while (other := self._claims.get(key)) is not None:
            await asyncio.wait([other])
        self._claims[key] = done = asyncio.get_running_loop().create_future()
        try:
            yield self.answer(key)
        finally:
            del self._claims[key]
            done.set_result(None)

    async def keep(self, call: Call, step: str, answer: Answer, seconds: float) -> None:
        statement = f"INSERT OR REPLACE INTO answers VALUES ({', '.join('?' * 10)}, julianday())"
        await self._write((statement, (call.key, step, call.request, answer.content, answer.finish, *astuple(answer.usage), seconds)))

    async def lament(self, call: Call, step: str, reason: str, usage: Usage, content: str = "") -> None:
        """Record an attempt that came to nothing; what it cost counts."""
        statement = "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, julianday())"
        await self._write((statement, (call.key, step, reason, content, *astuple(usage))))

    async def keep_prompt(self, version: str, name: str, text: str) -> None:
        await self._write(("INSERT OR IGNORE INTO prompts VALUES (?, ?, ?)", (version, name, text)))

    async def finish(
        self, unit: str, step: str, row: str, made: Sequence[Made], state: str = MADE, reason: str = "", matched: Matched | None = None
    ) -> None:
        """What step made of one row, all of it or nothing. A unit that failed may be finished again."""
        unit_row: Write = ("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?, ?, julianday())", (unit, step, row, state, reason))
        rows: list[Write] = [
            (
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)",
                (each.key, unit, number, json.dumps(each.columns, ensure_ascii=False), json.dumps(each.calls)),
            )
            for number, each in enumerate(made)
        ]
        match: list[Write] = [("INSERT OR REPLACE INTO matches VALUES (?, ?, ?, ?)", (unit, *astuple(matched)))] if matched else []
        others: list[Write] = [
            ("INSERT OR REPLACE INTO others VALUES (?, ?)", (each.key, json.dumps(each.others))) for each in made if each.others
        ]
        await self._write(unit_row, *rows, *match, *others)

    def finished(self, unit: str) -> tuple[Made, ...] | None:
        """The rows of a unit, none for one that was dropped; None for one that is not finished, or that failed."""
        state = self._read("SELECT state FROM units WHERE key = ?", unit)
        if not state or state[0][0] == FAILED:
            return None
        found = self._read("SELECT key, columns, calls FROM rows WHERE unit = ? ORDER BY number", unit)
        return tuple(Made(key, json.loads(columns), tuple(json.loads(calls))) for key, columns, calls in found)

    def units(self, step: str) -> dict[str, Outcome]:
        """All units of a step by their keys, those of earlier versions of the step too, read at once."""
        found: dict[str, Outcome] = {}
        states = "SELECT key, state, reason FROM units WHERE step = ?"
        rows = "SELECT unit, rows.key, columns, calls FROM rows JOIN units ON units.key = rows.unit WHERE step = ? ORDER BY unit, number"
        for key, state, reason in self._read(states, step):
            found[key] = Outcome(state, reason, [])
        for unit, key, columns, calls in self._read(rows, step):
            found[unit].made.append(Made(key, json.loads(columns), tuple(json.loads(calls))))
        return found

    def outcome(self, unit: str) -> tuple[str, str] | None:
        """State and reason of a unit."""
        found = self._read("SELECT state, reason FROM units WHERE key = ?", unit)
        return found[0] if found else None

    def matched(self, unit: str) -> Matched | None:
        """What the row of a unit was dropped for, where that is another row or an item."""
        found = self._read("SELECT item, similarity, words FROM matches WHERE unit = ?", unit)
        return Matched(*found[0]) if found else None

    def origin(self, row: str) -> tuple[str, str, list[str]] | None:
        """The step that made a row, the key of the row it was made of, and the keys of the calls; None for a row nobody made."""
        found = self._read("SELECT step, row, calls FROM rows JOIN units ON units.key = rows.unit WHERE rows.key = ?", row)
        return (found[0][0], found[0][1], json.loads(found[0][2])) if found else None

    def others(self, row: str) -> list[str]:
        """The keys of the rows that are in a row besides its parent."""
        found = self._read("SELECT keys FROM others WHERE row = ?", row)
        return json.loads(found[0][0]) if found else []

    def usage(self, step: str | None = None) -> Usage:
        """What was used so far, by all runs on this store; of one step, or of all."""
        where, values = ("WHERE step = ?", (step,)) if step else ("", ())
        kinds = (self._read(f"SELECT {USAGE} FROM {table} {where}", *values)[0] for table in ("answers", "failures"))
        return sum((Usage(*kind) for kind in kinds), Usage())

    def failures(self) -> dict[str, int]:
        """How often which reason was met, the most frequent first."""
        return dict(self._read("SELECT reason, count(*) FROM failures GROUP BY reason ORDER BY count(*) DESC, reason"))

    def asked(self, key: str) -> dict[str, Any] | None:
        """What was asked in a call, and what was answered; None for a call that is not answered."""
        found = self._read("SELECT request, content, prompt_tokens + completion_tokens, seconds FROM answers WHERE key = ?", key)
        if not found:
            return None
        request, answer, tokens, seconds = found[0]
        return {"request": json.loads(request), "answer": answer, "tokens": tokens, "seconds": seconds}

    def requests(self) -> Iterator[dict[str, Any]]:
        """What was asked in every call that was answered."""
        with closing(self._connect()) as connection:
            for (request,) in connection.execute("SELECT request FROM answers"):
                yield json.loads(request)

    def _read(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._sentence(error) from None

    async def _write(self, *writes: Write) -> None:
        done = asyncio.get_running_loop().create_future()
        self._queue.put((list(writes), done))
        await done

    def _write_all(self) -> None:
        with closing(self._connect()) as connection:
            while (first := self._queue.get()) is not None:
                taken, last = [first], False
                while not self._queue.empty() and not last:
                    item = self._queue.get()
                    last = item is None
                    taken += [item] if item else []
                error = self._transaction(connection, [write for writes, _ in taken for write in writes])
                _tell([done for _, done in taken], error)
                if last:
                    return

    def _transaction(self, connection: sqlite3.Connection, writes: list[Write]) -> Exception | None:
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement, values in writes:
                    connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            return self._sentence(error)
        except Exception as error:  # whatever else it is: those who wait are told, and the thread goes on
            return error
        return None

    def _found(self) -> sqlite3.Connection:
        """A connection to what there is already."""
        if not self.path.is_file():
            raise ArtifactError(f"{self.path.parent} holds no synthetic data; give what was the --out of amaru synth run.")
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            raise self._sentence(error) from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _sentence(self, error: sqlite3.DatabaseError) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            return StorageError(f"Cannot use {self.path}: {error}. Free some space or give another --out.")
        return ArtifactError(f"{self.path} is not a store of synthetic data ({error}); give another --out.")


def _tell(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    def tell() -> None:
        for done in waiting:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

    with suppress(RuntimeError):  # nobody waits any more: the loop is closed
        waiting[0].get_loop().call_soon_threadsafe(tell)
