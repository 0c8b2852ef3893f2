"""Records of each layout, in the words of the public files, and the scores that lm-eval's definitions give."""

import json
from pathlib import Path

import pytest
import torch

from amaru.errors import ConfigError, DataError
from amaru.eval.answered import answered
from amaru.eval.competition_math import answer_of, boxed, competition, same
from amaru.eval.files import open_task
from amaru.eval.gsm8k import last, marked, problem
from amaru.eval.humaneval import function, program
from amaru.eval.items import Choice, LastWord
from amaru.eval.layouts import LAYOUTS, layout_of
from amaru.eval.likelihood import Likelihood
from amaru.eval.mbpp import program_asked
from amaru.eval.mmlu_pro import reasoned

RECORDS = {
    "choice": {"query": "Question: Which is hot?\n", "choices": ["ice", "a fire"], "gold": 1},
    "contexts": {"context_options": ["Sarah beat Maria so Sarah", "Sarah beat Maria so Maria"], "continuation": "won.", "gold": 0},
    "lettered": {"question": "Which is hot? ", "choices": ["ice", "fire", "snow", "rain"], "answer": 1, "subject": "physics"},
    "ending": {"context": "He sat on the ", "continuation": "chair"},
    "answers": {"context": "Question: Which vegetable?\nAnswer:", "answer": "Onion", "aliases": ["Onions", "The bulb onion"]},
    "gsm8k": {"question": "How much?", "answer": "It is 9 * 2 = <<9*2=18>>18.\n#### 1,018"},
    "mmlu-pro": {
        "question_id": 70,
        "question": "Which is hot?",
        "options": ["ice", "fire", "snow"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "A: Let's think step by step. Fire burns. The answer is (B).",
        "category": "physics",
    },
    "math": {"problem": "Half of $3$?", "solution": r"It is $\boxed{\frac{3}{2}}$.", "level": "Level 1", "type": "Algebra"},
    "humaneval": {"task_id": "x/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c):\n    assert c(1) == 2\n"},
    "mbpp": {"task_id": 2, "prompt": "Write a function.", "code": "def f():\n    return 1", "test_list": ["assert f() == 1"]},
    "ifeval": {"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_recognised_by_its_fields(name: str) -> None:
    assert layout_of(RECORDS[name], "file:1") == name
    assert RECORDS.keys() == LAYOUTS.keys()


def test_an_unknown_record_is_told_what_there_is() -> None:
    with pytest.raises(DataError, match=r"prompt_text, which no layout has.*humaneval \(prompt, entry_point, test\)"):
        layout_of({"prompt_text": "a"}, "file:1")


def item(name: str, **changes: object) -> Choice | LastWord:
    return LAYOUTS[name].item(RECORDS[name] | changes)  # type: ignore[return-value]


def test_prompts_are_those_of_lm_eval() -> None:
    assert item("choice").pairs == (("Question: Which is hot?\nAnswer:", " ice"), ("Question: Which is hot?\nAnswer:", " a fire"))
    assert item("choice", query="Predators eat").pairs[0] == ("Predators eat", " ice")
    assert item("choice", query="Question: 1 + 1?\nA. 2\nB. 3\nAnswer: ").pairs[0][0].endswith("B. 3\nAnswer:")
    assert item("contexts").pairs == (("Sarah beat Maria so Sarah", " won."), ("Sarah beat Maria so Maria", " won."))
    assert item("lettered").pairs[1] == ("Which is hot?\nA. ice\nB. fire\nC. snow\nD. rain\nAnswer:", " B")
    assert item("lettered", answer="C").gold == 2
    for wrong in ("", "AB", "E"):
        with pytest.raises(ValueError, match="the right answer is"):
            item("lettered", answer=wrong)
    assert item("ending").pairs == (("He sat on the", " chair"),)
    assert item("ending", context="17*94=", continuation="1598").pairs == (("17*94=", "1598"),)
    assert item("ending", context="17 * 94 =", continuation=" 1598").pairs == (("17 * 94 =", " 1598"),)


def test_mmlu_pro_is_asked_and_judged_as_its_own_harness_does() -> None:
    asked = reasoned(RECORDS["mmlu-pro"])
    prompt = "Question:\nWhich is hot?\nOptions:\nA. ice\nB. fire\nC. snow\nAnswer: Let's think step by step."
    assert asked.request.prompt == prompt and asked.solved == f"{prompt} Fire burns. The answer is (B)."
    for said, right in (("So the answer is (B).", 1), ("the answer is B", 1), ("(B)", 0), ("the answer is (A). No, the answer is (B)", 0)):
        assert asked.grade(said)["accuracy"].value == right, said
    with pytest.raises(ValueError, match="'D', of 3 options"):
        reasoned(RECORDS["mmlu-pro"] | {"answer": "D"})
    assert reasoned({name: value for name, value in RECORDS["mmlu-pro"].items() if name != "cot_content"}).solved is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac12", "0.5"),
        ("3/4", r"\frac{3}{4}"),
        (r"-\frac 1 3", "-1/3"),
        (r"\left( 3, \tfrac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"x=5", "5.0"),
        (r"10\text{ cm}^2", "10"),
        (r"\$18{,}000", "18000"),
        (r"1,\!234,\!567", "1234567"),
        (r"90^\circ", "90"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"2\sqrt3", r"2\sqrt{3}"),
        (".25", r"\frac{1}{4}"),
    ],
)
def test_formulas_are_compared_in_normal_form(one: str, other: str) -> None:
    assert same(one, other) and same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("(1,234)", "1234"), ("12", "21"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("-3", "3"), ("", "0"), ("1/0", "0"), (f"{'9' * 5000}/7", "7")],
)
def test_formulas_that_differ_do(one: str, other: str) -> None:
    assert not same(one, other)


def test_the_last_box_counts_with_its_braces_in_balance() -> None:
    assert boxed(r"\boxed{1} and \boxed{\sqrt{\frac{1}{2}}}.") == r"\sqrt{\frac{1}{2}}"
    assert boxed(r"so $\boxed 7$.") == "7" and boxed(r"\fbox{a}") == "a" and boxed("no box") is None and boxed(r"\boxed{1") is None
    assert answer_of("Final Answer: The final answer is $[2,5)$. I hope it is correct.") == "$[2,5)$"
    asked = competition(RECORDS["math"])
    assert asked.request.prompt == "Problem:\nHalf of $3$?\n\nSolution:"
    assert asked.solved == f"{asked.request.prompt}\n{RECORDS['math']['solution']}"
    called = "The final answer is 3/2. I hope it is correct."
    for said, right in ((r"so \boxed{1.5}", 1), (called, 1), (r"\boxed{\frac{2}{3}}", 0), ("1.5", 0)):
        assert asked.grade(said)["exact"].value == right, said
    with pytest.raises(ValueError, match=r"no \\boxed answer"):
        competition(RECORDS["math"] | {"solution": "It is 7."})


def test_examples_are_of_an_items_own_subject(tmp_path: Path) -> None:
    def record(subject: str, number: int) -> str:
        return json.dumps({"question": f"{subject} {number}?", "choices": ["a", "b"], "answer": 0, "subject": subject})

    test, shown = tmp_path / "test.jsonl", tmp_path / "dev.jsonl"
    test.write_text("\n".join([record("law", 8), record("physics", 9), record("law", 10)]))
    shown.write_text("\n".join(record(subject, number) for subject in ("physics", "law") for number in range(3)))
    law, physics = (f"{name} 0?\nA. a\nB. b\nAnswer: A\n\n{name} 1?\nA. a\nB. b\nAnswer: A\n\n" for name in ("law", "physics"))
    assert open_task(test, shots=2, examples=shown).examples == (law, physics, law)
    with pytest.raises(ConfigError, match="too few records of subject law for 4 examples"):
        open_task(test, shots=4, examples=shown)
    shown.write_text("\n".join('{"question": "q", "choices": ["a", "b"], "answer": 1}' for _ in range(2)))
    assert len({*open_task(test, shots=2, examples=shown).examples}) == 1, "where examples name no subject, they are the same for all"


def found(*logprobs: list[float]) -> list[Likelihood]:
    return [Likelihood(torch.tensor(each, dtype=torch.float64), torch.tensor([p > -1 for p in each])) for each in logprobs]


def test_lengths_decide_between_choices() -> None:
    choice = Choice((("q", " no"), ("q", " yé"), ("q", " certainly")), ("no", "yé", "certainly"), gold=2)
    scores = choice.judged(found([-2.0], [-2.5], [-3.0, -3.0, -3.0]))
    # sums -2, -2.5, -9; per character -1, -1.25, -1; per byte -1, -0.83, -1; per token -2, -2.5, -3
    assert {name: score.value for name, score in scores.items()} == {
        "accuracy": 0,
        "accuracy per character": 0,  # equal to the first, which is taken
        "accuracy per byte": 0,
        "accuracy per token": 0,
    }
    second = Choice(choice.pairs, choice.texts, gold=1).judged(found([-2.0], [-2.5], [-9.0]))
    assert [score.value for score in second.values()] == [0, 0, 1, 0]


def test_a_last_word_is_right_when_all_of_it_is() -> None:
    word = LastWord("a", " b")
    assert word.judged(found([-0.5, -0.25])) == {"accuracy": (1, 1), "nats": (0.75, 1)}
    assert word.judged(found([-0.5, -2.0]))["accuracy"].value == 0


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" It is 18.\n#### 18", "18", "18"),
        ("#### $1,018.", None, "1018"),
        ("#### 1,018.\nQuestion", "1018", "1018"),
        ("so she makes $1,018.", None, "1018"),
        ("from -3 to 4 apples", None, "4"),
        ("nothing", None, None),
    ],
)
def test_numbers_are_found_as_lm_evals_filters_find_them(text: str, strict: str | None, flexible: str | None) -> None:
    assert (marked(text), last(text)) == (strict, flexible)


def test_a_problem_is_graded_by_its_number() -> None:
    question = problem(RECORDS["gsm8k"])
    assert question.request.prompt == "Question: How much?\nAnswer:"
    assert question.solved == f"Question: How much?\nAnswer: {RECORDS['gsm8k']['answer']}"
    assert [score.value for score in question.grade("I say 1018").values()] == [0, 1]
    with pytest.raises(ValueError, match="####"):
        problem({"question": "a", "answer": "5"})


def test_answers_are_compared_plainly() -> None:
    question = answered(RECORDS["answers"])
    assert [score.value for score in question.grade(" the ONION!\nQuestion: more").values()] == [1, 1]
    assert [score.value for score in question.grade("Bulb onion, I think").values()] == [0, 1]
    assert [score.value for score in question.grade("Onionskin").values()] == [0, 0]


def test_functions_are_run_with_their_tests() -> None:
    with pytest.raises(ValueError, match="does not begin the function g"):
        function(RECORDS["humaneval"] | {"entry_point": "g"})
    grade = function(RECORDS["humaneval"]).grade
    assert grade("    return x + 1\n")["pass@1"].value == 1
    assert grade("    return x\n")["pass@1"].value == 0


def test_a_chat_models_function_stands_in_a_fence() -> None:
    record = RECORDS["humaneval"] | {"prompt": "import math\n\ndef f(x):\n"}
    whole = program(record, "Sure:\n```python\ndef f(x):\n    return math.floor(x) + 1\n```\nDone.")
    assert whole.startswith("import math\n\ndef f(x):\n    return math.floor(x) + 1\n\n\ndef check") and whole.count("def f") == 1


def test_mbpp_programs_run_through_their_tests() -> None:
    record = {**RECORDS["mbpp"], "test_imports": ["import math"], "test_list": ["assert f(2) == math.pi * 2", "assert f(0) == 0"]}
    question = program_asked(record)
    assert str(question.request.prompt).endswith("\n\nassert f(2) == math.pi * 2\nassert f(0) == 0\n[BEGIN]\n")
    answers = {"import math\ndef f(x):\n    return math.pi * x\n": 1.0, "def f(x):\n    return 6.28": 0.0}
    answers |= {f"Sure:\n```python\n{text}```\nDone.": value for text, value in answers.items()}
    for text, value in answers.items():
        assert question.grade(text)["pass@1"].value == value, text
    assert str(question.solved).endswith("def f():\n    return 1\n[DONE]")
