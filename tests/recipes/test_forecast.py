"""What a dry run says of the published recipes, against their papers; and of a small one, against the run itself."""

import json
from pathlib import Path

import pytest
from tests.recipes.small import train_words, write_corpus

from amaru.cli.main import main
from amaru.recipes.published import names

PAPER = {  # parameters, steps, rows a step, warm-up steps (nemotron_h, sections 1.1 and 3.1; Nemotron-4's blend is 9.4 M tokens a step)
    "nemotron-h-8b": (8.101e9, 2_384_186, 768, 1319),
    "nemotron-h-56b": (56.32e9, 3_178_915, 768, 3974),
    "nemotron-4-340b-continued": (341.03e9, 105_964, 2304, 0),
    "hymba-1.5b": (1.5228e9, 715_256, 1024, 7153),
}


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["train", *words, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_published_recipe_is_in_the_table() -> None:
    assert names() == sorted(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_published_recipes_are_their_papers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "--recipe", name)
    parameters, steps, rows, warmup = PAPER[name]
    assert found["parameters"] == pytest.approx(parameters, rel=1e-3)
    assert (found["steps"], found["batch"]["rows"], found["warmup_steps"]) == (steps, rows, warmup)
    assert found["memory"]["total"] > 16 * found["parameters"]
    assert found["text"].startswith("not there yet: There is no file data/")
    assert found["phases"][-1]["end"] == steps and "FLOPs at 40%" in found["time"]["by"]


def test_nemotron_h_changes_its_blend_where_the_paper_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "--recipe", "nemotron-h-8b")
    tokens = [phase["end"] * found["batch"]["rows"] * found["batch"]["row_length"] for phase in found["phases"]]
    assert tokens[:3] == pytest.approx([9e12, 12e12, 14.62e12], rel=1e-6)
    assert found["phases"][3]["weights"]["sft"] == pytest.approx(31.8 / 99.9, abs=1e-4)


def test_a_small_run_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = train_words(write_corpus(tmp_path / "corpus", documents=12), tmp_path / "run")[1:]
    found = dry_run(capsys, *words)
    assert "measured now over 5 steps" in found["time"]["by"] and found["time"]["seconds"] > 0
    assert sum(found["parameters_by_kind"].values()) == found["parameters"]
    assert main(["train", *words, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["parameters"], done["tokens"]) == (found["parameters"], found["tokens"])
