"""What is told of held-out answers, against what can be counted by hand."""

import pytest

from amaru.align.rounds import Answered
from amaru.align.rounds.prompts import prompt_of
from amaru.eval.estimate import Score, estimate
from amaru.recipes.alignment.passing import scored

ASKED = [
    ["startend:last_word", {"last_word": "sun"}],
    ["punctuation:no_comma", {}],
]


def test_shares_of_prompts_and_of_checks() -> None:
    record = {"prompt": "Write.", "instruction_id_list": [kind for kind, _ in ASKED], "kwargs": [given for _, given in ASKED]}
    prompts = [prompt_of("p:1", record), prompt_of("p:2", record), prompt_of("p:3", {"prompt": "2 + 2?", "answer": "4"})]
    texts = ["here is the sun", "well,\nhere is the sun", "5"]
    found = scored(prompts, [Answered(text, 3 * number, whole=number < 2) for number, text in enumerate(texts)])
    assert found["items"] == [1, 0, 0] and found["strict"] == estimate([Score(1), Score(0), Score(0)])._asdict()
    assert found["loose"]["mean"] == pytest.approx(2 / 3)  # without its first line the second has no comma
    assert found["checks"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["kinds"] == {"punctuation:no_comma": 0.5, "startend:last_word": 1.0}
    assert (found["whole"], found["tokens"]) == (pytest.approx(2 / 3), 3)
    assert found["examples"][1] == {"prompt": "Write.", "answer": texts[1], "passes": False}
