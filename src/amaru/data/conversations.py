"""Conversations from JSON lines and parquet, in the three shapes that people publish, as one: messages of role and content.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "tools": [...]}
    {"prompt": "2 + 2?", "completion": "4"}                      texts, or lists of messages
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}], "system": "Be brief."}
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.data.corpus import find
from amaru.data.files import LINES, PARQUET, Piece, Problem, objects
from amaru.errors import DataError

SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Conversation:
    """`messages` as chat templates take them; `values` are what else the template is given, such as tools."""

    source: str
    messages: tuple[Mapping[str, Any], ...]
    values: Mapping[str, Any]

    @property
    def identity(self) -> str:
        return json.dumps([self.messages, self.values], sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Conversations:
    """Distinct conversations; `shapes` and `left_out` say how many came in which shape, and what was not taken and why."""

    found: tuple[Conversation, ...]
    files: int
    shapes: dict[str, int]
    left_out: dict[str, int]

    def __str__(self) -> str:
        shapes = ", ".join(f"{count:,} in shape {shape}" for shape, count in self.shapes.items())
        left_out = "".join(f"; {count:,} left out: {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{len(self.found):,} conversations from {self.files} files ({shapes}){left_out}"

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(*(each.identity for each in self.found))


def read(patterns: Sequence[str]) -> Conversations:
    """Every conversation in the files that the patterns stand for, equal ones once.

    Raises `DataError` for a file that is neither JSON lines nor parquet, for a record of no known shape, and where nothing is found.
    """
    found: dict[str, Conversation] = {}
    shapes, left_out, files = Counter[str](), Counter[str](), find(list(patterns)).files
    for file in files:
        if file.suffix.lower() not in (*LINES, *PARQUET):
            raise DataError(f"{file} holds no conversations: they are read from {', '.join((*LINES, *PARQUET))}.")
        for source, record in objects(Piece(str(file))):
            if isinstance(record, Problem):
                raise DataError(record.sentence)
            shape, conversation = recognised(source, record)
            shapes[shape] += 1
            if not any(message["role"] == "assistant" for message in conversation.messages):
                left_out["no answer of an assistant"] += 1
            elif found.setdefault(conversation.identity, conversation) is not conversation:
                left_out[DUPLICATE] += 1
    if not found:
        raise DataError(f"There is no conversation with an answer in {', '.join(patterns)}.")
    return Conversations(tuple(found.values()), len(files), dict(shapes), dict(left_out))


def recognised(source: str, record: Mapping[str, Any]) -> tuple[str, Conversation]:
    """The shape of a record, and what it says; raises `DataError` when it has none of the three."""
    values = {name: record[name] for name in ("tools", "documents") if record.get(name)}
    if isinstance(record.get("messages"), list):
        return "messages", Conversation(source, _messages(source, record["messages"]), values)
    if "prompt" in record and "completion" in record:
        turns = [*_turns("user", record["prompt"]), *_turns("assistant", record["completion"])]
        return "prompt/completion", Conversation(source, _messages(source, turns), values)
    if isinstance(record.get("conversations"), list):
        system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
        return "conversations", Conversation(source, _messages(source, [*system, *_sharegpt(source, record["conversations"])]), values)
    raise DataError(
        f"{source} is no conversation: it has {', '.join(record) or 'no fields'}. It needs messages (a list of role and content), "
        "prompt and completion, or conversations (a list of from and value)."
    )


def _turns(role: str, value: Any) -> list[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _sharegpt(source: str, turns: list[Any]) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or turn.get("from") not in SHAREGPT:
            found = turn.get("from") if isinstance(turn, dict) else type(turn).__name__
            raise DataError(f"{source}: turn {number} is from {found!r}; there is {', '.join(SHAREGPT)}.")
        yield {"role": SHAREGPT[turn["from"]], "content": turn.get("value")}


def _messages(source: str, messages: list[Any]) -> tuple[dict[str, Any], ...]:
    """Checked: a role each, and a text or a call of tools. Empty fields, which parquet gives to every row, are left out."""
    found = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(f"{source}: message {number} has no role; a message is an object with role and content.")
        kept = {name: value for name, value in message.items() if value is not None}
        if not isinstance(kept.get("content"), str) and not kept.get("tool_calls"):
            raise DataError(f"{source}: the content of message {number} must be text; it is {type(message.get('content')).__name__}.")
        found.append(kept if "content" in kept else {**kept, "content": ""})
    return tuple(found)


def sample(some: Sequence[Conversation], share: float, seed: int) -> list[Conversation]:
    """`share` of some conversations, rounded to whole ones, chosen by a hash of what they say: for the replay of an earlier stage."""
    by_hash = sorted(some, key=lambda each: fingerprint_bytes(str(seed), each.identity))
    return by_hash[: round(share * len(some))]
