"""`amaru synth run` killed again and again against a server that misbehaves: nothing lost, nothing asked again that was finished."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml
from tests.synth.misbehaving import FAULTS
from tests.synth.recipes import run

from amaru.config.strict import build
from amaru.synth.reading import read_rows, results
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.store import Store

SERVER = Path(__file__).with_name("misbehaving.py")
MOSTLY_WELL = [fault for bad in FAULTS for fault in (*["ok"] * 9, bad)]
KIND = {"type": "object", "properties": {"kind": {"type": "string"}, "hard": {"type": "boolean"}}, "required": ["kind", "hard"]}


def recipe(url, topics, questions, versions):
    """Five steps; so many records come to the end as the three counts multiply to."""
    writer = {"url": url, "model": "m", "timeout": 1.0, "concurrency": 32, "attempts": 30}
    asking = {"kind": "list", "model": "writer"}
    return {
        "models": {"writer": writer},
        "steps": [
            {"name": "topics", **asking, "prompt": "macro_topics", "column": "topic", "count": topics},
            {"name": "questions", **asking, "prompt": "open_questions", "column": "question", "count": questions},
            {"name": "prompts", **asking, "prompt": "revise_question", "column": "prompt", "count": versions},
            {"name": "told", "kind": "columns", "choose": {"level": ["easy", "hard"]}, "set": {"asked": "{{ level }}: {{ prompt }}"}},
            {"name": "kinds", "kind": "object", "model": "writer", "prompt": "What kind of request is this? {{ asked }}", "schema": KIND},
        ],
    }


@contextmanager
def server(port, log, faults):
    command = [sys.executable, str(SERVER), str(port), str(log), json.dumps(faults), "0", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.kill()


def synth(*words):
    return [sys.executable, "-m", "amaru", "synth", *map(str, words)]


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def finished(store):
    """The questions whose answers were on disk."""
    if not store.exists():
        return set()
    with closing(sqlite3.connect(store)) as connection:
        return {json.loads(request)["messages"][-1]["content"] for (request,) in connection.execute("SELECT request FROM answers")}


def run_and_kill(file, out, log, until):
    """Start, and SIGKILL once the server has answered so many; the questions that were finished by then, and the length of the log."""
    with subprocess.Popen(synth("run", file, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(lines(log)) < until:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    return finished(out / "store.sqlite"), len(lines(log))


@pytest.mark.parametrize(("counts", "kills"), [((10, 10, 10), 2), pytest.param((20, 50, 10), 5, marks=pytest.mark.soak)])
def test_killed_again_and_again_the_rows_are_those_of_an_undisturbed_run(tmp_path, counts, kills):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    topics, questions, versions = counts
    file, out, log = tmp_path / "recipe.yaml", tmp_path / "killed", tmp_path / "log"
    values = recipe(f"http://127.0.0.1:{port}/v1", *counts)
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    bound = Bound(build(SynthRecipe, values), tmp_path)
    calls = 1 + topics + topics * questions + topics * questions * versions

    with server(port, log, MOSTLY_WELL):
        stops = [run_and_kill(file, out, log, calls * (kill + 1) // (kills + 1)) for kill in range(kills)]
        told = json.loads(subprocess.run(synth("run", file, "--out", out, "--json"), check=True, capture_output=True).stdout)
    answered = lines(log)
    for done, length in stops:
        assert done and not done & {json.loads(line) for line in answered[length:]}  # what was finished is never asked again
    assert calls <= len(answered) <= calls + kills * 32  # at most what was under way at a kill is answered twice
    assert told["usage"]["calls"] >= calls

    with server(port, tmp_path / "calm", ["ok"]):
        _, undisturbed = asyncio.run(run(bound, tmp_path / "undisturbed"))
    with Store(out / "store.sqlite") as store:
        rows = list(results(bound, read_rows(bound, store)))
    assert rows == undisturbed
    assert len(rows) == len({row["id"] for row in rows}) == topics * questions * versions
