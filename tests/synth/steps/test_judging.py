"""Judges who see two answers in both orders; and pairs: the verifier first, then scores."""

import json

from tests.synth.scripted import SIDES
from tests.synth.steps.through import through

from amaru.align.layouts import recognised

PAIR = ("chosen_response", "rejected_response", "chosen_reward", "rejected_reward", "judge")


def judge(body):
    """Knows that longer is better; always likes the first of two answers that say "maybe"; cannot tell equally long ones apart."""
    first, second = SIDES.search(body["messages"][-1]["content"]).groups()
    better = "first" if "maybe" in first or len(first) > len(second) else "second" if len(second) > len(first) else "neither"
    return json.dumps({"reason": "so it is", "better": better})


def test_only_verdicts_that_survive_the_swap_make_pairs(tmp_path):
    answers = {"a": ["short", "much longer"], "b": ["much longer", "short"], "c": ["maybe", "maybe not"], "d": ["equal", "EQUAL"]}
    rows = [{"prompt": prompt, "answer": text} for prompt, texts in answers.items() for text in texts]
    rows += [{"prompt": "e", "answer": "twice"}, {"prompt": "e", "answer": "twice"}, {"prompt": "f", "answer": "alone"}]
    steps = [{"kind": "opponents"}, {"kind": "compare", "model": "judge"}]
    made, tallies, server, told = through(tmp_path, rows, *steps, script=judge)
    assert [(row["prompt"], *(row[name] for name in PAIR)) for row in made] == [
        ("a", "much longer", "short", 1.0, 0.0, "judge"),
        ("b", "much longer", "short", 1.0, 0.0, "judge"),
    ]
    assert tallies["step0"].dropped == {"both answers are equal": 2, "no second answer to compare it with": 1}
    assert tallies["step1"].dropped == {"the verdict changes with the order of the answers": 1, "neither answer is better": 1}
    assert server.requests == 8 <= told == 10
    orders = [SIDES.search(body["messages"][-1]["content"]).groups() for body in server.bodies]
    assert all(order[::-1] in orders for order in orders)


def test_a_verdict_goes_before_scores(tmp_path):
    cases = {
        "both": [(True, 1.0), (False, 9.0), (True, 3.0), (False, 4.0)],  # the best right one, the worst wrong one
        "right": [(True, 1.0), (True, 2.0)],
        "wrong": [(False, 1.0), (False, 2.0)],
        "open": [(None, 1.0), (None, 5.0), (None, 3.0)],
        "poor": [(None, 0.5), (None, 1.5)],
        "close": [(None, 5.0), (None, 5.1)],
    }
    rows = [
        {"prompt": prompt, "answer": f"{prompt}{n}", "verified": verdict, "score": score, "attributes": {"helpfulness": score / 2}}
        for prompt, answers in cases.items()
        for n, (verdict, score) in enumerate(answers)
    ]
    step = {"kind": "pairs", "verdict": "verified", "judge": "reward", "least_chosen": 2.0, "least_gap": 0.25}
    made, tallies, _, _ = through(tmp_path, rows, step)
    assert [(row["prompt"], *(row[name] for name in PAIR), row["gaps"]["helpfulness"]) for row in made] == [
        ("both", "both2", "both3", 1.0, 0.0, "verifier", -0.5),
        ("open", "open1", "open0", 5.0, 1.0, "reward", 2.0),
    ]
    reasons = ["all answers are right", "all answers are wrong", "the best answer is not good enough", "answers too close to each other"]
    assert tallies["step0"].dropped == dict.fromkeys(reasons, 2)


def test_prompts_of_several_turns_are_told_apart(tmp_path):
    said = [{"role": "user", "content": "Why?"}]
    rows = [{"prompt": said, "answer": text, "score": n} for n, text in enumerate("ab")] + [{"prompt": "Why?", "answer": "c", "score": 3}]
    made, _, _, _ = through(tmp_path, rows, {"kind": "pairs"})
    assert [(row["prompt"], row["chosen_response"]) for row in made] == [(said, "b")]


def test_all_answers_to_a_prompt_make_one_row(tmp_path):
    rows = [{"prompt": "a", "answer": text, "score": score, "answered_by": "m"} for text, score in (("x", 1.0), ("y", 3.0), ("x", 1.0))]
    rows += [{"prompt": "b", "answer": "alone", "score": 2}, {"prompt": "a", "answer": "z", "score": "high"}]
    made, tallies, _, _ = through(tmp_path, rows, {"kind": "comparisons"})
    responses = [{"content": "y", "score": 3.0, "model": "m"}, {"content": "x", "score": 1.0, "model": "m"}]
    assert made == [{"prompt": "a", "responses": responses}]
    assert sum(tallies["step0"].dropped.values()) == 3


def test_what_is_exported_is_read_by_alignment(tmp_path):
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}, {"role": "user", "content": "Why so?"}]
    rows = [{"prompt": prompt, "answer": f"{n}", "score": float(n)} for prompt in ("What?", said) for n in range(3)]
    for kind, answers in (("pairs", ["2", "0"]), ("comparisons", ["2", "1", "0"])):
        made, _, _, _ = through(tmp_path / kind, rows, {"kind": kind})
        for row, prompt in zip(made, ([{"role": "user", "content": "What?"}], said), strict=True):
            comparison = recognised("rows:1", row).comparison
            assert list(comparison.messages) == prompt
            assert [answer.text for answer in comparison.answers] == answers
            assert [answer.reward for answer in comparison.answers] == [float(text) for text in answers]
