"""The interop scripts run as their README says, with the one other program that the development environment has."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GREEDY = Path(__file__).parents[2] / "benchmarks" / "interop" / "greedy.py"


def told(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(GREEDY), *arguments, "--tokens", "7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_amaru_alone_agrees_with_itself_and_says_who_was_left_out() -> None:
    facts = told("partly:0")
    assert facts["left_out"] == ["transformers", "vllm", "llama"]
    assert [(engine["engine"], engine["equal"], engine["prompts"]) for engine in facts["engines"]] == [("amaru", 5, 5)]


@pytest.mark.soak
@pytest.mark.parametrize("model", ["even:1", "uneven:0", "experts:2"])
def test_transformers_gives_the_same_tokens(model: str) -> None:
    facts = told(model, "--transformers", sys.executable)
    assert {engine["engine"]: engine["equal"] for engine in facts["engines"]} == {"amaru": 5, "transformers": 5}
