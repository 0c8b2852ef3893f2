"""Every recipe of ours, a few rows of it through all its steps."""

import asyncio
from pathlib import Path

import pytest
import yaml
from tests.synth.recipes import run
from tests.synth.scripted import Scripted, usual

from amaru.config.strict import build
from amaru.errors import ConfigError
from amaru.synth import recipe as recipes
from amaru.synth.forecast import forecast
from amaru.synth.prompt import our_prompts
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.steps import KINDS

OURS = sorted((Path(recipes.__file__).parent / "recipes").glob("*.yaml"))
PAIR = {"prompt", "chosen_response", "rejected_response", "chosen_reward", "rejected_reward", "judge"}
ENDS = {  # the columns that rows at the end have at least
    "answers": {"prompt", "answer", "answered_by", "attributes", "score"},
    "closed_questions": {"prompt", "document"},
    "dialogues": {"messages", "persona", "attributes", "score"},
    "genetic_instruct": {"task", "solution", "colony", "generation", "made_by", "parents"},
    "incapable_tasks": {"inability", "task", "answer", "messages"},
    "instruction_following": PAIR,
    "open_questions": {"topic", "question", "prompt"},
    "preferences": PAIR,
    "preferences_by_judge": PAIR,
    "preferences_by_reward": PAIR | {"gaps"},
    "problems": {"keyword", "level", "problem"},
    "python_problems": {"keyword", "level", "problem"},
    "topic_following": {"instruction", "distractor", "messages"},
    "two_turn_prompts": {"prompt", "persona", "messages"},
    "writing": {"document_type", "task", "prompt"},
}
SMALL = {"size: 50, children: 10, generations: 20": "size: 2, children: 2, generations: 2", "count: 20}": "count: 4}"}


def ours(name, url):
    """As it is, with every model at one server, and fewer of what takes no rows."""
    text = next(file for file in OURS if file.stem == name).read_text()
    for many, few in SMALL.items():
        text = text.replace(many, few)
    values = yaml.safe_load(text)
    for step in values["steps"]:
        step.pop("share", None)  # what is drawn may be more than a filter's share, so that a plan counts with all
    for given, model in values["models"].items():
        model |= {"url": url, "model": given, "attempts": 2}
    return Bound(build(SynthRecipe, values), OURS[0].parent)


def generous(body):
    """A reward model that finds everything good, so that filters leave rows over."""
    said = usual(body)
    return {name: 3 + score / 4 for name, score in said.items()} if isinstance(said, dict) else said


def test_all_of_them_are_here():
    assert [file.stem for file in OURS] == sorted(ENDS)


@pytest.mark.parametrize("name", ENDS)
def test_a_few_rows_of_a_recipe(tmp_path, name):
    async def body():
        async with Scripted(generous) as server:
            bound = ours(name, server.url)
            tallies, rows = await run(bound, tmp_path / "s.sqlite", only=40 if name == "instruction_following" else 4)  # it draws ways
            return bound, server.requests, tallies, rows

    bound, requests, tallies, rows = asyncio.run(body())
    assert not any(tally.failed for tally in tallies.values()), {name: tally.failed for name, tally in tallies.items() if tally.failed}
    assert 0 < requests <= sum(step.usage.calls for step in forecast(bound))
    for step in bound.recipe.steps:
        if step.asks():
            assert tallies[step.name].taken, f"{step.name} was never tried"
    assert all(ENDS[name] <= row.keys() for row in rows)
    assert rows or name in ("instruction_following", "preferences", "preferences_by_reward")  # pairs may all be too close


def test_rows_of_ones_own_stand_beside_those_that_are_made(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"topic": "Rivers"}\n{"topic": "Bridges"}\n')
    bound = ours("open_questions", "http://127.0.0.1:1/v1")
    taking = Bound(bound.recipe.taking({"own": tmp_path / "own.jsonl"}), bound.directory)
    before, after = ({step.name: step for step in forecast(each)} for each in (bound, taking))
    assert (before["own"].rows, after["own"].rows) == (0, 2)
    assert after["questions"].taken == before["questions"].taken + 2
    with pytest.raises(ConfigError, match=r"Step topics brings no rows of its own\. These do: own"):
        bound.recipe.taking({"topics": tmp_path / "own.jsonl"})


def test_the_page_names_every_recipe_and_kind_and_no_prompt_lies_unused():
    page = (Path(__file__).parents[2] / "docs" / "synthetic_data.md").read_text()
    assert [name for name in ENDS if f"`{name}`" not in page] == []
    assert [kind for kind in KINDS if f"| `{kind}` |" not in page] == []
    used = {prompt.name for name in ENDS for prompts in ours(name, "http://127.0.0.1:1/v1").prompts for prompt in prompts.values()}
    assert set(our_prompts()) <= used
