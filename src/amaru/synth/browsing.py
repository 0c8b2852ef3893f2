"""The rows of a run to look through: an index of all of them in the order of the recipe, and a server for this machine alone."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from amaru.errors import ConfigError
from amaru.synth.reading import Finished, read_rows, trace
from amaru.synth.recipe import Bound
from amaru.synth.row import MADE
from amaru.synth.store import Store

TABLE = """
CREATE TABLE shown (number INTEGER PRIMARY KEY, step TEXT, state TEXT, reason TEXT, key TEXT, unit TEXT, columns TEXT);
CREATE INDEX by_step ON shown (step, state, number);
"""
PAGE = 50  # rows at once


class Browser:
    """`with Browser(bound, store, page) as browser: browser.url`; rows that are made meanwhile are not in it.

    page   the HTML page, which asks for `facts`, `rows` and `row`
    port   0 is any that is free
    """

    def __init__(self, bound: Bound, store: Store, page: str, port: int = 0) -> None:
        self.bound = bound
        self.store = store
        self.page = page
        self.port = port
        self._one = threading.Lock()

    def __enter__(self) -> "Browser":
        self._directory = TemporaryDirectory(prefix="amaru-browse-")
        self._index = sqlite3.connect(Path(self._directory.name) / "index.sqlite", check_same_thread=False)
        self._index.executescript(TABLE)
        found = read_rows(self.bound, self.store)
        self._index.executemany("INSERT INTO shown VALUES (NULL, ?, ?, ?, ?, ?, ?)", _shown(self.bound, found))
        self._index.commit()
        self._server = _Server(self, self.port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="browser").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._index.close()
        self._directory.cleanup()

    def facts(self) -> dict[str, Any]:
        """The steps with how many rows are in which state, and the columns by which can be filtered; the last step first."""
        counted = self._read("SELECT step, state, count(*) FROM shown GROUP BY step, state")
        columns = "SELECT DISTINCT json_each.key FROM (SELECT columns FROM shown WHERE step = ? LIMIT 200) AS some, json_each(some.columns)"
        return {
            "steps": [
                {
                    "name": step.name,
                    "kind": step.kind,
                    "counts": {state: number for name, state, number in counted if name == step.name},
                    "columns": [name for (name,) in self._read(columns, step.name)],
                }
                for step in reversed(self.bound.recipe.steps)
            ]
        }

    def rows(
        self, step: str, state: str = MADE, text: str = "", column: str = "", value: str = "", offset: str = "0"
    ) -> dict[str, Any]:
        """So many as fit a page, and how many there are: of a step, in a state, with `text` in any column, or `value` in that one."""
        where, values = "step = ? AND state = ?", [step, state]
        if text:
            where, values = f"{where} AND instr(lower(columns || reason), lower(?))", [*values, _inside(text)]
        if column and value:
            path = '$."' + column.replace('"', "") + '"'
            where, values = f"{where} AND instr(lower(json_extract(columns, ?)), lower(?))", [*values, path, value]
        count = self._read(f"SELECT count(*) FROM shown WHERE {where}", *values)[0][0]
        page = f"SELECT key, unit, reason, columns FROM shown WHERE {where} ORDER BY number LIMIT {PAGE} OFFSET ?"
        rows = [
            {"key": key, "unit": unit, "reason": reason, "columns": json.loads(columns)}
            for key, unit, reason, columns in self._read(page, *values, int(offset))
        ]
        return {"count": count, "page": PAGE, "rows": rows}

    def row(self, key: str, unit: str = "") -> dict[str, Any]:
        """Where a row came from, with all that was asked for it, and what it was left out for."""
        with self._one:
            steps = [step | {"calls": [self.store.asked(call) for call in step["calls"]]} for step in trace(self.store, key)]
            matched = self.store.matched(unit)
        return {"steps": steps, "matched": vars(matched) if matched else None}

    def _read(self, statement: str, *values: Any) -> list[Any]:
        with self._one:
            return self._index.execute(statement, values).fetchall()


def _inside(text: str) -> str:
    """As JSON has it between quotes: rows are looked through as they are stored."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _shown(bound: Bound, found: list[Finished]) -> Iterator[tuple[str, str, str, str, str, str]]:
    for step, each in zip(bound.recipe.steps, found, strict=True):
        for row in each.rows:
            yield step.name, MADE, "", row.key, "", json.dumps(row.columns, ensure_ascii=False)
        for lost in each.lost:
            yield step.name, lost.state, lost.reason, lost.row.key, lost.unit, json.dumps(lost.row.columns, ensure_ascii=False)


class _Server(ThreadingHTTPServer):
    """Answers on this machine only, and to no page of another origin: a name that leads here is not enough."""

    daemon_threads = True

    def __init__(self, browser: Browser, port: int) -> None:
        self.browser = browser
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigError(f"Port {port} cannot be used: {error.strerror}; choose another --port.") from None


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self._answer(403, "text/plain", b"only this machine")
        elif address.path == "/":
            self._answer(200, "text/html; charset=utf-8", self.server.browser.page.encode())
        elif address.path in ("/facts", "/rows", "/row"):
            try:
                answer = getattr(self.server.browser, address.path[1:])(**dict(parse_qsl(address.query)))
            except (TypeError, ValueError) as error:
                self._answer(400, "text/plain", str(error).encode())
            else:
                self._answer(200, "application/json", json.dumps(answer, ensure_ascii=False).encode())
        else:
            self._answer(404, "text/plain", b"not here")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who looks at rows wants to see no requests."""
