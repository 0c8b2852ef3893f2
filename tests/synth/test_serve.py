"""A recipe against a real server of ours with a random model, which keeps to schemas whatever it would rather say."""

import asyncio
from pathlib import Path

import pytest
from tests.serve.server.running import running, served
from tests.synth.recipes import bound, run

KIND = {"type": "object", "properties": {"kind": {"enum": ["question", "task"]}, "hard": {"type": "boolean"}}, "required": ["kind", "hard"]}
STEPS = [
    {"name": "seeds", "kind": "seeds", "rows": [{"text": "1 + 1?"}]},
    {"name": "kinds", "kind": "object", "model": "writer", "prompt": "What is this: {{ text }}", "schema": KIND},
    {"name": "again", "kind": "object", "model": "writer", "prompt": "Is {{ kind }} right for {{ text }}", "schema": KIND},
]


@pytest.mark.soak
def test_rows_made_by_our_own_server_keep_to_their_schema(tmp_path: Path) -> None:
    with running(served()) as server:
        sampling = {"max_tokens": 80, "temperature": 1.0}
        recipe = bound(f"{server.url}/v1", STEPS, model="small", schemas=True, timeout=60.0, sampling=sampling)
        tallies, rows = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
    assert len(rows) == 1 and {row["kind"] for row in rows} <= {"question", "task"} and not any(tally.failed for tally in tallies.values())
