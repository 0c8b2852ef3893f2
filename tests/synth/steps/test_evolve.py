"""Colonies: the same for the same seed, and only tasks whose solutions run and are found fit live."""

import asyncio

from tests.synth.recipes import run
from tests.synth.scripted import Scripted, number, usual
from tests.synth.steps.through import recipe, through

from amaru import sandbox
from amaru.synth.forecast import forecast

TASKS = [{"task": f"Add {number} to a number."} for number in range(5)]
STEPS = [
    {"kind": "colonies", "column": "task", "count": 2},
    {"kind": "evolve", "model": "writer", "coder": "other", "judge": "judge", "size": 3, "children": 2, "generations": 2, "seconds": 5},
]


def by_question(body):
    """Whatever the seed, which follows from the address of the server: what lives here lives in every run of this test."""
    return usual(body | {"seed": 0})


def test_colonies_follow_from_the_seed_and_every_task_that_lives_runs(tmp_path):
    async def body():
        async with Scripted(by_question) as server:
            made = [
                await run(recipe(TASKS, STEPS, server.url, seed), tmp_path / name) for name, seed in (("a", 0), ("b", 0), ("c", 1))
            ]
            return made, server.requests, sum(step.usage.calls for step in forecast(recipe(TASKS, STEPS)))

    ((tallies, first), (_, again), (_, other)), requests, told = asyncio.run(body())
    assert first == again != other
    assert len(first) >= 2 and not any(tally.failed for tally in tallies.values())
    known = {task["task"] for task in TASKS} | {row["task"] for row in first}
    for row in first:
        assert sandbox.run(row["solution"]).passed
        assert row["task"] not in row["parents"] and known >= set(row["parents"])
        assert 1 <= row["generation"] <= 2 and (row["made_by"] == "crossover") == (len(row["parents"]) > 1)
    assert {row["colony"] for row in first} == {0, 1} and max(row["generation"] for row in first) > 1
    assert requests <= 3 * told == 3 * 2 * 4 * 3


def test_what_does_not_run_or_is_not_fit_dies(tmp_path):
    def hopeless(body):
        question = body["messages"][-1]["content"]
        if body["model"] == "other":
            wrong = "```python\nassert False\n```" if "Add 0" in question else "I cannot."
            return wrong if "Add 0" in question or "Add 2" in question else "```\nassert True\n```"
        return '{"clear": true, "correct": false, "tested": true}' if body["model"] == "judge" else f"Harder: {question}"

    rows, tallies, server, _ = through(tmp_path, TASKS, *STEPS, script=hopeless)
    assert not rows and tallies["step1"].dropped == {"no task of this colony was found fit": 2}
    assert {body["model"] for body in server.bodies} == {"writer", "other", "judge"}


def test_a_child_whose_calls_give_nothing_of_use_does_not_stop_its_colony(tmp_path):
    def silent_at_times(body):
        question = body["messages"][-1]["content"]
        return "" if body["model"] == "other" and number(question, below=3) == 0 else by_question(body)

    rows, tallies, server, _ = through(tmp_path, TASKS, STEPS[0] | {"count": 1}, STEPS[1] | {"children": 6}, script=silent_at_times)
    assert not all(silent_at_times(body) for body in server.bodies)
    assert rows and not tallies["step1"].failed
