"""Prompts without answers, and what a verifier needs to check one: instructions, or the right answer.

    {"prompt": "Write about rivers. Use no commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amaru.align.comparisons import Answer, Comparison
from amaru.config import fingerprint_bytes
from amaru.data.corpus import find
from amaru.data.files import LINES, PARQUET, Piece, Problem, objects
from amaru.errors import DataError
from amaru.instructions import Instruction, comes_to, instructions_of

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """`Prompt(({"role": "user", "content": "2 + 2?"},), answer="4").verified("It is 4.") == 1.0`

    messages      the conversation up to the answer
    instructions  that the answer has to follow
    answer        that it has to come to (`comes_to`); None where nobody knows
    record        the row as it was read, for verifiers of one's own
    """

    messages: tuple[Message, ...]
    instructions: tuple[Instruction, ...] = ()
    answer: str | None = None
    source: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verifiable(self) -> bool:
        return bool(self.instructions) or self.answer is not None

    def verified(self, text: str, loose: bool = False) -> float | None:
        """The share of what was asked that an answer does, 0 to 1; None where nothing can be checked."""
        found = [float(each.follows(text, loose)) for each in self.instructions]
        if self.answer is not None:
            found.append(float(comes_to(text, self.answer)))
        return sum(found) / len(found) if found else None

    @property
    def asked(self) -> str:
        """What is asked, to be compared with other prompts: words in their roles, however they are spaced and written."""
        return Comparison(self.messages, ()).prompt

    @property
    def identity(self) -> str:
        checks = [[each.kind, dict(each.arguments)] for each in self.instructions]
        return json.dumps([self.messages, checks, self.answer], sort_keys=True, ensure_ascii=False)

    def comparison(self, texts: Sequence[str]) -> Comparison:
        """The prompt with answers, as judges take them."""
        return Comparison(self.messages, tuple(Answer(text) for text in texts), source=self.source)


def read_prompts(patterns: Sequence[str]) -> tuple[Prompt, ...]:
    """Every prompt in the .jsonl and .parquet files that the patterns stand for, equal ones once.

    Raises `DataError` for a file or a row that is no prompt, and where nothing is found.
    """
    found: dict[str, Prompt] = {}
    for file in find(list(patterns)).files:
        if file.suffix.lower() not in (*LINES, *PARQUET):
            raise DataError(f"{file} holds no prompts: they are read from {', '.join((*LINES, *PARQUET))}.")
        for source, record in objects(Piece(str(file))):
            if isinstance(record, Problem):
                raise DataError(record.sentence)
            prompt = prompt_of(source, record)
            found.setdefault(prompt.identity, prompt)
    if not found:
        raise DataError(f"There is no prompt in {', '.join(patterns)}.")
    return tuple(found.values())


def prompt_of(source: str, record: Mapping[str, Any]) -> Prompt:
    """Raises `DataError` with the row's number for one without a prompt, or with instructions that nobody can check."""
    messages = record.get("messages") or record.get("prompt")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    fits = isinstance(messages, list) and all(isinstance(each, Mapping) and isinstance(each.get("content"), str) for each in messages)
    if not fits or not messages:
        raise DataError(f"{source} is no prompt: it needs prompt (a text) or messages (role and content); it has {', '.join(record)}.")
    if not all(isinstance(each.get("role"), str) for each in messages) or not messages[-1]["content"].strip():
        raise DataError(f"{source} is no prompt: a message without a role, or nothing asked in the last one.")
    if messages[-1].get("role") == "assistant":
        raise DataError(f"{source} ends with an answer; a prompt ends with a turn of somebody else.")
    try:
        instructions = instructions_of(record) if record.get("instruction_id_list") else ()
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from None
    answer = record.get("answer")
    if answer is not None and not str(answer).strip():
        raise DataError(f"{source}: the answer that is to be come to is empty; leave it out where nobody knows it.")
    return Prompt(tuple(messages), instructions, None if answer is None else str(answer), source, record)


def fingerprint_of(prompts: Sequence[Prompt]) -> str:
    return fingerprint_bytes(*(each.identity for each in prompts))


def chosen(prompts: Sequence[Prompt], count: int | None, seed: str) -> tuple[Prompt, ...]:
    """So many of them, by a hash, in an order that the hash gives; all of them where there are no more."""
    by_hash = sorted(prompts, key=lambda each: fingerprint_bytes(seed, each.identity))
    return tuple(by_hash[:count])
