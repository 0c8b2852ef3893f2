"""What is exported: rows whose ids lead back, and a card whose tables stay whole whatever is in them."""

import asyncio

from tests.synth.recipes import bound, run

from amaru.synth.export import export
from amaru.synth.reading import trace
from amaru.synth.store import Store

STEPS = [
    {"name": "own", "kind": "seeds", "rows": [{"id": "mine", "n": 1}, {"id": "yours", "n": 2}]},
    {"name": "few", "kind": "filter", "where": "n | int > 1"},
]


def test_ids_lead_back_and_reasons_end_no_cell(tmp_path):
    recipe = bound("http://127.0.0.1:1/v1", STEPS)
    _, (row,) = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
    assert row == {"id": row["id"], "own_id": "yours", "n": 2}
    with Store(tmp_path / "s.sqlite") as store:
        assert [step["step"] for step in trace(store, row["id"])] == ["few", "own"]
        export(recipe, store, tmp_path / "rows.jsonl")
    assert "| few | left out | not: n \\| int > 1 | 1 |" in (tmp_path / "rows.md").read_text()
