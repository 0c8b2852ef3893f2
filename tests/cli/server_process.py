"""`amaru serve` in a process of its own, for tests of what only a process shows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


@contextmanager
def server_process(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The process, and what it said when it was ready."""
    line = [sys.executable, "-m", "amaru", "serve", *words, "--port", "0", "--json", "--memory", "64MiB", "--prefix-memory", "0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as running:
        assert running.stdout is not None
        try:
            yield running, _read_document(running.stdout)
        finally:
            running.kill()


def _read_document(stream: IO[str]) -> dict[str, Any]:
    lines = []
    for line in stream:
        lines.append(line)
        if line == "}\n":
            return json.loads("".join(lines))
    raise AssertionError(f"it ended without being ready: {lines}")
