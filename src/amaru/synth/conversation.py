"""Conversations in rows: a text is what a user asks, a list of messages is what was said so far."""

import re
from collections.abc import Sequence
from typing import Any

from amaru.errors import ConfigError
from amaru.synth.unit import Message

SPEAKERS = {"system": "Instruction", "user": "User", "assistant": "Assistant"}


def messages_of(value: Any) -> list[Message]:
    """`messages_of("2 + 2?") == [{"role": "user", "content": "2 + 2?"}]`; a list of messages as it is.

    Raises `ConfigError` for anything else, as the row does not fit the step.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    fits = isinstance(value, list) and value and all(map(_is_message, value))
    if not fits:
        raise ConfigError(f"A conversation is a text or a list of messages whose role and content are texts; got {str(value)[:80]}.")
    return [{"role": each["role"], "content": each["content"]} for each in value]


def shown(messages: Sequence[Message]) -> str:
    """As a prompt shows it: who speaks, and a blank line between turns, so that none runs into the next."""
    return "\n\n".join(f"{SPEAKERS.get(each['role'], each['role'])}: {each['content']}" for each in messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))


# What people say out of courtesy around what they want.
THANKS = (
    r"(?:thanks?(?: you)?(?: (?:so|very) much| a lot)?(?: (?:again|in advance))?"
    r"|(?:i )?(?:really )?appreciate (?:it|that|your help|this))"
)
PRAISE = (
    r"(?:(?:that'?s|that is|this is|what|it'?s|how|sounds|very|so|really|an?) )*"
    r"(?:great|awesome|perfect|wonderful|excellent|amazing|fantastic|interesting|fascinating|helpful|good to know|nice)"
    r"(?: (?:explanation|answer|point|insight|information|idea|question|suggestions?|help))?"
)
ASSENT = r"(?:(?:sure|ok(?:ay)?|of course|certainly|absolutely|hi|hello|hey)(?: there)?|i see|got it|you'?re welcome)"
FOR = r"(?: (?:for|to) (?:the|your|you|that|this|all|sharing|explaining|clarifying)[^.!?\n]*)?"
COURTESY = re.compile(rf"^(?:{THANKS}{FOR}|{PRAISE}|{ASSENT})[,.!:;]*$", re.IGNORECASE)
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+|\n|\Z)\s*|[.!?\n]+\s*")
LEADING = re.compile(rf"^(?:{THANKS}|{PRAISE}|{ASSENT})[,!:;] +(?=\S)", re.IGNORECASE)


def without_politeness(text: str) -> str:
    """`without_politeness("Thanks, that's great! Why is it so?") == "Why is it so?"`: no thanks, praise or greeting at either end.

    What stands in the middle stays, and a text that is nothing else becomes empty.
    """
    sentences = [match[0] for match in SENTENCE.finditer(text.strip())]
    while sentences and _courteous(sentences[0]):
        sentences.pop(0)
    while sentences and _courteous(sentences[-1]):
        sentences.pop()
    left = "".join(sentences).strip()
    while found := LEADING.match(left):
        left = left[found.end() :]
    return left[:1].upper() + left[1:]


def _courteous(sentence: str) -> bool:
    """Whether all parts of a sentence are courtesy: `Great, thanks a lot!`"""
    return all(COURTESY.match(part.strip()) for part in sentence.strip().split(",") if part.strip(" .!"))
