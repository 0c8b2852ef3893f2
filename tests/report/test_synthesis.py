"""The page of a synthesis run: every count of the run is on it, it needs no network, and stays small however long the rows are."""

import asyncio
import json
import re

from tests.synth.misbehaving import Misbehaving
from tests.synth.recipes import FIVE_STEPS, bound

from amaru.report.runs import write_report
from amaru.report.shares import share_bars
from amaru.synth import session

EVALUATION = {"question": "Name number four of all the answers that were ever told", "answer": "a text about nothing at all"}


def test_every_count_is_on_the_page_which_stays_small(tmp_path):
    (tmp_path / "exam.jsonl").write_text(json.dumps(EVALUATION) + "\n")
    seeds = {"name": "seeds", "kind": "seeds", "rows": [{"topic": "Llamas" * 400_000}, {"topic": "Rivers <b>"}], "licence": "CC0-1.0"}
    clean = {"name": "clean", "kind": "decontaminate", "columns": ["answer"], "against": ["exam.jsonl"]}
    questions = {**FIVE_STEPS[1], "prompt": "Ask about {{ topic[:20] }}"}

    async def serve(stop, told):
        async with Misbehaving(["ok", "ok", "ok", "ok", "ok", "ok", "ok", "400"]) as server:
            told.set_result(server.url)
            await stop.wait()

    async def body():
        stop, told = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(stop, told))
        steps = [seeds, questions, *FIVE_STEPS[2:4], clean]
        recipe = bound(await told, steps, directory=tmp_path, licence="Apache-2.0", price={"prompt": 1.0, "completion": 1.0})
        await asyncio.to_thread(session.run, recipe, tmp_path / "out", first_pause=0.005)
        stop.set()
        await serving

    asyncio.run(body())
    facts = json.loads((tmp_path / "out" / "summary.json").read_text())
    page = write_report(tmp_path / "out")
    html = page.read_text()
    for step in facts["steps"]:
        assert f">{step['name']}<" in html
    assert f"{facts['rows']:,}" in html and "status 400: no" in html and "CC0-1.0" in html and "1 items of exam.jsonl" in html
    assert facts["characters"]["people"] > 1_000_000 and "Rivers <b>" not in html
    assert page.stat().st_size < 1_000_000 and not re.search(r'(src|href)="(?!data:|#)', html)


def test_a_bar_is_divided_as_its_numbers_are():
    svg = share_bars({"a": {"went on": 3, "failed": 1}, "b": {"went on": 0, "failed": 2}}, ("went on", "failed"))
    assert svg.count('class="mark"') == 3 and "a: 3 went on (75.0 %)" in svg and "b: 2 failed (100.0 %)" in svg
