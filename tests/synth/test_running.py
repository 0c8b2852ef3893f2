"""Recipes against a server that answers by the question alone: counts, the same rows whatever goes wrong, nothing asked twice."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from tests.synth.misbehaving import FAULTS, Misbehaving
from tests.synth.recipes import FIVE_STEPS, bound, run

from amaru.errors import BudgetError, ConfigError, EndpointError
from amaru.synth.forecast import forecast
from amaru.synth.reading import read_rows, trace
from amaru.synth.recipe import find_recipe
from amaru.synth.store import Store

MOSTLY_WELL = [fault for bad in FAULTS for fault in ("ok", "ok", "ok", bad)]


def test_the_documented_run_takes_half_the_calls_of_the_released_code(tmp_path):
    steps = yaml.safe_load(find_recipe(Path("open_questions")).read_text())["steps"]

    async def body():
        async with Misbehaving() as server:
            recipe = bound(server.url, steps, concurrency=64)
            told = sum(step.usage.calls for step in forecast(recipe))
            _, rows = await run(recipe, tmp_path / "s.sqlite")
            return told, server.requests, rows

    told, requests, rows = asyncio.run(body())
    assert (told, requests) == (1341, 1341)  # 1 + 20 + 120 + 1200; the released code makes 2682
    assert len({row["prompt"] for row in rows}) == len(rows) == 6000


def test_whatever_goes_wrong_the_rows_are_those_of_an_undisturbed_run(tmp_path):
    async def body():
        async with Misbehaving() as well, Misbehaving(MOSTLY_WELL) as ill:
            _, expected = await run(bound(well.url), tmp_path / "well.sqlite")
            tallies, rows = await run(bound(ill.url, timeout=0.3), tmp_path / "ill.sqlite")
            assert ill.requests > well.requests == 1 + 4 + 20 + 20
            return expected, tallies, rows

    expected, tallies, rows = asyncio.run(body())
    assert len(expected) == 20 and not any(tally.failed for tally in tallies.values())
    assert [without_id(row) for row in rows] == [without_id(row) for row in expected]
    with Store(tmp_path / "ill.sqlite") as store:
        reasons = " ".join(store.failures())
    for words in ("no answer within 0.3 s", "the connection broke", "status 500", "before it was whole", "is empty", "JSON"):
        assert words in reasons


def without_id(row):
    """Keys cover the endpoint's address, which differs from server to server; levels are chosen by keys."""
    return {name: value for name, value in row.items() if name in ("topic", "question")}


def test_a_second_run_asks_nothing_and_an_edited_step_asks_only_what_follows_from_it(tmp_path):
    async def body():
        async with Misbehaving() as server:
            _, first = await run(bound(server.url), tmp_path / "s.sqlite")
            tallies, second = await run(bound(server.url), tmp_path / "s.sqlite")
            assert (server.requests, second) == (45, first)
            assert [tally.kept_from_before for tally in tallies.values()] == [1, 4, 20, 20, 20]
            edited = [*FIVE_STEPS[:3], {**FIVE_STEPS[3], "prompt": "Answer briefly: {{ asked }}"}, FIVE_STEPS[4]]
            await run(bound(server.url, edited), tmp_path / "s.sqlite")
            return server.requests

    assert asyncio.run(body()) == 45 + 40


def test_a_preview_takes_a_few_rows_and_the_whole_run_asks_for_the_rest_only(tmp_path):
    async def body():
        async with Misbehaving() as server:
            await run(bound(server.url), tmp_path / "s.sqlite", only=2)
            assert server.requests == 1 + 2 + 2 + 2
            await run(bound(server.url), tmp_path / "s.sqlite")
            return server.requests, server.seen

    requests, seen = asyncio.run(body())
    assert requests == len(set(seen)) == 45


def test_a_budget_is_never_overspent_and_a_larger_one_goes_on(tmp_path):
    async def body():
        async with Misbehaving() as server:
            with pytest.raises(BudgetError, match="calls 30, of which 30 are spent"):
                await run(bound(server.url, budget={"calls": 30}), tmp_path / "s.sqlite")
            assert server.requests == 30
            with pytest.raises(BudgetError, match="tokens 1,500"):
                await run(bound(server.url, budget={"tokens": 1500}, sampling={"max_tokens": 64}), tmp_path / "tokens.sqlite")
            await run(bound(server.url, budget={"calls": 45}), tmp_path / "s.sqlite")
            return server.requests, server.seen

    asyncio.run(body())
    with Store(tmp_path / "tokens.sqlite") as store:
        assert 700 < store.usage().tokens <= 1500
    with Store(tmp_path / "s.sqlite") as store:
        assert store.usage().calls == 45


def test_a_key_comes_from_the_environment_and_is_nowhere_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("WRITER_KEY", "sk-very-secret")

    async def body():
        async with Misbehaving(["ok", "500"]) as server:
            await run(bound(server.url, FIVE_STEPS[:2], key="WRITER_KEY"), tmp_path / "s.sqlite")
            assert {headers["authorization"] for headers in server.headers} == {"bearer sk-very-secret"}

    asyncio.run(body())
    assert not any(b"very-secret" in file.read_bytes() for file in tmp_path.iterdir())
    monkeypatch.delenv("WRITER_KEY")
    with pytest.raises(EndpointError, match="WRITER_KEY"):
        asyncio.run(run(bound("http://127.0.0.1:1/v1", key="WRITER_KEY"), tmp_path / "s.sqlite"))


def test_a_refused_key_ends_the_run_and_a_refused_call_only_itself(tmp_path):
    async def body(faults):
        async with Misbehaving(faults) as server:
            return await run(bound(server.url), tmp_path / f"{faults[-1]}.sqlite")

    with pytest.raises(EndpointError, match="status 401"):
        asyncio.run(body(["ok", "401"]))
    tallies, _ = asyncio.run(body(["ok", "ok", "400"]))
    assert tallies["questions"].failed and tallies["questions"].made


def test_rows_that_fail_are_told_and_tried_again(tmp_path):
    async def body():
        async with Misbehaving(["ok", "short"]) as ill:
            tallies, _ = await run(bound(ill.url, FIVE_STEPS[:2], attempts=1, concurrency=1), tmp_path / "s.sqlite")
            assert tallies["questions"].failed == {"4 different items, 5 were asked for (attempt 1)": 2}
            ill.faults = ["ok"]
            tallies, rows = await run(bound(ill.url, FIVE_STEPS[:2], attempts=1, concurrency=1), tmp_path / "s.sqlite")
            assert (len(rows), tallies["questions"].kept_from_before) == (20, 2)

    asyncio.run(body())


def test_rows_from_people_filters_functions_and_equal_rows(tmp_path):
    (tmp_path / "rows.py").write_text(
        "def double(row):\n    return [{**row, 'text': row['text'] + mark} for mark in '!?'] if row['n'] else None\n"
    )
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"n": n, "text": "Aa bB"[: n + 1]}) + "\n" for n in (0, 1, 1, 2, 3)))
    steps = [
        {"name": "seeds", "kind": "seeds", "file": "seeds.jsonl"},
        {"name": "few", "kind": "filter", "where": "n < 3"},
        {"name": "double", "kind": "python", "function": "rows.py:double"},
        {"name": "distinct", "kind": "unique", "column": "text"},
    ]
    tallies, rows = asyncio.run(run(bound("http://127.0.0.1:1/v1", steps, directory=tmp_path), tmp_path / "s.sqlite"))
    assert [row["text"] for row in rows] == ["Aa!", "Aa?", "Aa !", "Aa ?"]  # each once
    assert tallies["double"].dropped == {"rows.py:double gave nothing": 1}


def test_each_row_knows_the_rows_and_calls_that_it_came_from(tmp_path):
    async def body():
        async with Misbehaving() as server:
            recipe = bound(server.url)
            await run(recipe, tmp_path / "s.sqlite")
            return recipe

    recipe = asyncio.run(body())
    with Store(tmp_path / "s.sqlite") as store:
        row = read_rows(recipe, store)[-1].rows[7]
        origins = trace(store, row.key)
        assert [origin["step"] for origin in origins] == ["scores", "answers", "levels", "questions", "topics"]
        asked = store.answer(origins[1]["calls"][0])
    assert asked and asked.content == row.columns["answer"]
    requests = sqlite3.connect(tmp_path / "s.sqlite").execute("SELECT request FROM answers WHERE key = ?", origins[1]["calls"])
    assert row.columns["asked"] in json.loads(requests.fetchone()[0])["messages"][0]["content"]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{**FIVE_STEPS[1], "name": "first"}], "needs column topic, which no step before makes; there are none"),
        ([FIVE_STEPS[0], FIVE_STEPS[0]], "Two steps are called topics"),
        ([FIVE_STEPS[0], {**FIVE_STEPS[1], "after": ["topic"]}], "comes after topic, which is no step above"),
        ([{**FIVE_STEPS[0], "model": "judge"}], "asks model 'judge'. There is: writer"),
        ([{**FIVE_STEPS[0], "prompt": "macro"}], "There is no prompt 'macro'. There is: classify_entity"),
        ([{**FIVE_STEPS[4], "schema": {"type": "object", "properties": {"a": {"pattern": "x"}}}}], "pattern, which answers are not"),
        ([{"name": "f", "kind": "filter", "where": "n <"}], "is no jinja expression"),
        ([{**FIVE_STEPS[0], "cuont": 3}], "has no field 'cuont'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_asked(steps, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        bound("http://127.0.0.1:1/v1", steps)


def test_an_expression_that_a_row_cannot_answer_fails_that_row_only(tmp_path):
    steps = [
        {"name": "seeds", "kind": "seeds", "rows": [{"n": 2}, {"m": 1}, {"n": "two"}]},
        {"name": "few", "kind": "filter", "where": "n"},
        {"name": "more", "kind": "columns", "compute": {"twice": "n | map('upper') if n == 'two' else 2 * n"}},
    ]
    tallies, rows = asyncio.run(run(bound("http://127.0.0.1:1/v1", steps), tmp_path / "s.sqlite"))
    assert [(row["n"], row["twice"]) for row in rows] == [(2, 4)]
    assert "'n' cannot be computed" in next(iter(tallies["few"].failed)) and len(tallies["more"].failed) == 1


def test_pairs_are_the_best_and_the_worst_answer_of_each_prompt(tmp_path):
    scores = {"a": [1, 4, 2], "b": [3, 3], "c": [0, 5], "d": [2.0, 2.4]}
    rows = [{"q": prompt, "text": f"{prompt}{n}", "score": score} for prompt, some in scores.items() for n, score in enumerate(some)]
    steps = [
        {"name": "seeds", "kind": "seeds", "rows": [*rows, {"q": "e", "text": "no score"}, {"q": "a", "text": "a3", "score": "5"}]},
        {"name": "halves", "kind": "columns", "compute": {"half": "0.5 * score"}},
        {"name": "pairs", "kind": "pairs", "prompt": "q", "answer": "text", "score": "half", "least_gap": 0.25},
    ]
    recipe = bound("http://127.0.0.1:1/v1", steps)
    tallies, found = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
    assert [{name: value for name, value in row.items() if name != "id"} for row in found] == [
        {"prompt": "a", "chosen_response": "a1", "rejected_response": "a0", "chosen_reward": 2.0, "rejected_reward": 0.5, "judge": "score"},
        {"prompt": "c", "chosen_response": "c1", "rejected_response": "c0", "chosen_reward": 2.5, "rejected_reward": 0.0, "judge": "score"},
    ]
    assert tallies["pairs"].dropped == {"answers too close to each other": 4}
    assert sorted(tallies["halves"].failed.values()) == [1, 1]  # a row without a score, and one whose score is text
    with Store(tmp_path / "s.sqlite") as store:
        origins = trace(store, found[0]["id"])
        assert [origin["step"] for origin in origins] == ["pairs", "halves", "seeds"]
        (rejected,) = origins[0]["others"]
        *_, seed = trace(store, rejected)
        assert next(row for row in read_rows(recipe, store)[0].rows if row.key == seed["row"]).columns["text"] == "a0"
