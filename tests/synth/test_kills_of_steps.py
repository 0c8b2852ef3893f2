"""A recipe of all kinds of steps that ask, killed: what was answered is never asked again, and the rows are those of a calm run."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import yaml
from tests.synth.recipes import run
from tests.synth.scripted import served
from tests.synth.steps.through import recipe

from amaru.config import to_dict
from amaru.synth.client import seed_of
from amaru.synth.reading import read_rows, results
from amaru.synth.store import Store

PERSONAS = ["a beginner", "somebody in a hurry"]
STEPS = [
    {"name": "constrained", "kind": "constrain", "counts": [1, 2]},
    {"name": "answers", "kind": "respond", "models": ["writer", "other", "third"], "pick": 2, "samples": 2},
    {"name": "checked", "kind": "verify", "by": "instructions"},
    {"name": "scored", "kind": "reward", "model": "reward"},
    {"name": "pairs", "kind": "pairs", "verdict": "verified"},
    {"name": "comparisons", "kind": "comparisons", "after": ["scored"]},
    {"name": "opponents", "kind": "opponents", "after": ["scored"]},
    {"name": "compared", "kind": "compare", "model": "judge"},
    {"name": "personas", "kind": "columns", "after": ["rows"], "choose": {"persona": PERSONAS}},
    {"name": "later", "kind": "constrain", "turn": "later"},
    {"name": "dialogues", "kind": "dialogue", "model": "writer", "user": "user", "turns": 2},
    {"name": "good", "kind": "reward", "model": "reward", "of": "messages", "answer": None},
    {"name": "colonies", "kind": "colonies", "after": ["rows"], "column": "prompt", "count": 2},
    {"name": "evolved", "kind": "evolve", "model": "writer", "judge": "judge", "size": 3, "children": 2, "generations": 3},
    {"name": "mined", "kind": "keywords", "files": ["corpus.jsonl"]},
    {"name": "problems", "kind": "list", "model": "writer", "prompt": "Problems of {{ keyword }}: {{ count }}", "column": "p", "count": 2},
]
ROWS = [{"prompt": f"Write about river number {number}."} for number in range(6)]


def seeds_of_answers(store):
    """What the server is sent as the seed of calls whose answers are on disk: it follows from the call."""
    with closing(sqlite3.connect(store)) as connection:
        return {seed_of(key, 0) for (key,) in connection.execute("SELECT key FROM answers")}


def run_and_kill(command, server, until):
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(server.bodies) < until:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.soak)])
def test_every_kind_of_step_goes_on_where_it_was_killed(tmp_path, kills):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"a river delta, {n}"}) + "\n" for n in range(3)))
    out = tmp_path / "killed"
    with served(fast=0.01) as server:
        bound = recipe(ROWS, STEPS, server.url, directory=tmp_path)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(bound.recipe), sort_keys=False))
        command = [sys.executable, "-m", "amaru", "synth", "run", str(tmp_path / "recipe.yaml"), "--out", str(out), "--json"]
        _, undisturbed = asyncio.run(run(bound, tmp_path / "calm"))
        calm, stops = len(server.bodies), []
        assert len({body["seed"] for body in server.bodies}) == calm  # each call is known by its seed
        for kill in range(1, kills + 1):
            run_and_kill(command, server, calm + calm * kill // (kills + 1))
            stops.append((seeds_of_answers(out / "store.sqlite"), len(server.bodies)))
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        bodies = server.bodies
    assert stops[-1][0]  # an early kill may come before anything is on disk
    for done, length in stops:
        assert not done & {body["seed"] for body in bodies[length:]}
    assert told["usage"]["calls"] == calm and len({body["seed"] for body in bodies[calm:]}) == calm
    with Store(out / "store.sqlite") as store:
        assert list(results(bound, read_rows(bound, store))) == undisturbed
    kinds = {"pairs": "chosen_reward", "comparisons": "responses", "good": "messages", "evolved": "solution", "problems": "p"}
    assert all(any(column in row for row in undisturbed) for column in kinds.values())
