"""A recipe against a real server of ours with a random model, which keeps to schemas whatever it would rather say."""

import asyncio
from pathlib import Path

import pytest
from tests.models.reward.small import TOKENIZER, reward_model, said
from tests.serve.server.running import running, served
from tests.synth.recipes import bound, run

from amaru.models.reward import Scorer
from amaru.models.reward.checkpoint import save
from amaru.serve.config import EngineConfig
from amaru.serve.server.served import load_served

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


@pytest.mark.soak
def test_answers_scored_by_our_own_server_make_pairs(tmp_path: Path) -> None:
    model = reward_model()
    save(model.decoder, tmp_path / "reward", TOKENIZER, model.said)
    rows = [{"prompt": f"what is {n // 2}?", "answer": "it is five. " * (1 + n)} for n in range(6)]
    steps = [{"name": "rows", "kind": "seeds", "rows": rows}, {"name": "scored", "kind": "reward", "model": "writer"}]
    with running(*load_served("small", tmp_path / "reward", EngineConfig(max_waiting=40, max_tokens=400))) as server:
        recipe = bound(f"{server.url}/v1", [*steps, {"name": "pairs", "kind": "pairs"}], model="small", timeout=60.0)
        _, pairs = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
    told = Scorer(model)([said(row["prompt"], row["answer"]) for row in rows])
    scores = {row["answer"]: each.attributes for row, each in zip(rows, told, strict=True)}
    assert len(pairs) == 3
    for pair in pairs:
        chosen, rejected = scores[pair["chosen_response"]], scores[pair["rejected_response"]]
        assert pair["chosen_reward"] > pair["rejected_reward"]
        assert pair["gaps"] == {name: chosen[name] - rejected[name] for name in chosen}
