"""How many of the held-out prompts a checkpoint answers as asked: greedily, every item kept."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import Any

from amaru.align.rounds import Answered, Answering, Prompt
from amaru.align.rounds.prompts import fingerprint_of
from amaru.eval.estimate import Score, estimate
from amaru.recipes.alignment.answers import Voice, answers
from amaru.recipes.run import Run

EXAMPLES = 3


def passing(run: Run, name: str, voice: Voice, prompts: Sequence[Prompt], max_tokens: int) -> dict[str, Any]:
    """Shares of prompts (all that is asked) and of single checks, strictly and loosely, with 95 % intervals over prompts.

    `items` has for each prompt whether its answer passes strictly; `kinds` the share of each kind of instruction.
    """
    how = Answering(samples=1, temperature=0, max_tokens=max_tokens)
    found = answers(run, f"passing-{name}", voice, prompts, how, "held out", title=f"held-out answers of {name}")
    firsts = [some[0] for some in found]
    made_from = {"answers": voice.fingerprint, "prompts": fingerprint_of(prompts), "how": repr(how)}
    return run.result(f"passing-{name}", made_from, lambda: scored(prompts, firsts), title=f"what {name} passes")


def scored(prompts: Sequence[Prompt], found: Sequence[Answered]) -> dict[str, Any]:
    """The record of one model."""
    shares = {
        kind: [prompt.verified(each.text, loose=kind == "loose") or 0.0 for prompt, each in zip(prompts, found, strict=True)]
        for kind in ("strict", "loose")
    }
    passed = {kind: [share == 1 for share in some] for kind, some in shares.items()}
    return {
        **{kind: estimate([Score(float(each)) for each in some])._asdict() for kind, some in passed.items()},
        "checks": mean(shares["strict"]),
        "kinds": _kinds(prompts, found),
        "whole": mean(each.whole for each in found),
        "tokens": mean(each.tokens for each in found),
        "items": [int(each) for each in passed["strict"]],
        "examples": [
            {"prompt": prompt.messages[-1]["content"], "answer": each.text, "passes": bool(ok)}
            for prompt, each, ok in list(zip(prompts, found, passed["strict"], strict=True))[:EXAMPLES]
        ],
    }


def _kinds(prompts: Sequence[Prompt], found: Sequence[Answered]) -> dict[str, float]:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for prompt, each in zip(prompts, found, strict=True):
        for instruction in prompt.instructions:
            by_kind[instruction.kind].append(instruction.follows(each.text))
    return {kind: mean(some) for kind, some in sorted(by_kind.items())}
