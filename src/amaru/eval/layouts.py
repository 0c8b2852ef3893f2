"""The layouts of task files: which fields a record has, and what item it becomes.

| layout | fields | asks |
| --- | --- | --- |
| choice | query, choices, gold | which choice is likeliest after the query |
| contexts | context_options, continuation, gold | after which context the continuation is likeliest (WinoGrande, Winograd) |
| lettered | question, choices, answer | which letter is likeliest after the question and the choices A. B. C. ... (MMLU) |
| ending | context, continuation | whether the ending is what greedy decoding says, and its likelihood (LAMBADA, sums) |
| answers | context, answer (and aliases) | for a short answer (TriviaQA, SVAMP, key-value retrieval) |
| gsm8k | question, answer with #### | for a number, reasoned out |
| mmlu-pro | question, options, answer | for a letter, reasoned out (MMLU-Pro) |
| math | problem, solution with \\boxed | for a formula, reasoned out (MATH) |
| humaneval | prompt, entry_point, test | for a function, which is run |
| mbpp | prompt, test_list | for a program, which is tested |
| ifeval | prompt, instruction_id_list, kwargs | for a text that follows instructions |
"""

import re
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from amaru.errors import DataError
from amaru.eval.answered import ANSWERED, answered
from amaru.eval.competition_math import MATH, competition
from amaru.eval.gsm8k import GSM8K, problem
from amaru.eval.humaneval import HUMANEVAL, function
from amaru.eval.ifeval.scoring import IFEVAL, instructed
from amaru.eval.items import CHOICE, ENDING, Choice, LastWord, Question
from amaru.eval.mbpp import MBPP, program_asked
from amaru.eval.mmlu_pro import MMLU_PRO, reasoned

Record = Mapping[str, Any]
Item = Choice | LastWord | Question


class Layout(NamedTuple):
    """`version` changes when the same record would be judged in another way, so that old results are not taken for new ones."""

    needs: tuple[str, ...]
    metrics: tuple[str, ...]
    item: Callable[[Record], Item]
    version: int = 1


def _choice(record: Record) -> Choice:
    texts, context = tuple(record["choices"]), asked(record["query"])
    return Choice(tuple((context, f" {text}") for text in texts), texts, _gold(record["gold"], texts))


def asked(query: str) -> str:
    """A query as lm-eval's templates end theirs: after a question comes `Answer:`, and no context ends with a space."""
    query = query.rstrip()
    question = re.search(r"^Question:", query, flags=re.MULTILINE) is not None
    return f"{query}\nAnswer:" if question and not query.endswith(("Answer:", "answer:")) else query


def _contexts(record: Record) -> Choice:
    contexts, ending = tuple(record["context_options"]), f" {record['continuation'].strip()}"
    return Choice(tuple((context, ending) for context in contexts), (ending,) * len(contexts), _gold(record["gold"], contexts))


def _lettered(record: Record) -> Choice:
    choices, answer = record["choices"], record["answer"]
    letters = ascii_uppercase[: len(choices)]
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    context = f"{record['question'].strip()}\n{lines}\nAnswer:"
    gold = letters.index(answer) if isinstance(answer, str) and answer in tuple(letters) else answer
    return Choice(tuple((context, f" {letter}") for letter in letters), tuple(letters), _gold(gold, choices))


def _ending(record: Record) -> LastWord:
    context = record["context"].rstrip()
    joined = context.endswith("=") and record["continuation"] == record["continuation"].strip()  # a sum without spaces
    return LastWord(context, record["continuation"] if joined else f" {record['continuation'].strip()}")


def _gold(gold: object, choices: tuple[str, ...] | list[str]) -> int:
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise ValueError(f"the right answer is {gold!r}, of {len(choices)} choices")
    return gold


LAYOUTS: dict[str, Layout] = {
    "choice": Layout(("query", "choices", "gold"), CHOICE, _choice),
    "contexts": Layout(("context_options", "continuation", "gold"), CHOICE[:1], _contexts),
    "lettered": Layout(("question", "choices", "answer"), CHOICE[:1], _lettered),
    "ending": Layout(("context", "continuation"), ENDING, _ending),
    "answers": Layout(("context", "answer"), ANSWERED, answered),
    "gsm8k": Layout(("question", "answer"), GSM8K, problem),
    "mmlu-pro": Layout(("question", "options", "answer"), MMLU_PRO, reasoned),
    "math": Layout(("problem", "solution"), MATH, competition),
    "humaneval": Layout(("prompt", "entry_point", "test"), HUMANEVAL, function, version=2),
    "mbpp": Layout(("prompt", "test_list"), MBPP, program_asked, version=2),
    "ifeval": Layout(("prompt", "instruction_id_list", "kwargs"), IFEVAL, instructed),
}


def layout_of(record: Record, source: str) -> str:
    """The layout whose fields a record has, of several the one with the most; raises `DataError` that lists what is known."""
    fitting = [name for name, layout in LAYOUTS.items() if set(layout.needs) <= record.keys()]
    if not fitting:
        known = "; ".join(f"{name} ({', '.join(layout.needs)})" for name, layout in LAYOUTS.items())
        raise DataError(f"{source} has the fields {', '.join(record)}, which no layout has. There is: {known}.")
    return max(fitting, key=lambda name: len(LAYOUTS[name].needs))
