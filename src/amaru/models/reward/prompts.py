"""A conversation as a reward model reads it, up to the token at which it is scored: the label prefix, or the end of the last turn.

    <extra_id_0>System\\n{system}\\n<extra_id_1>User\\n{question}\\n<extra_id_1>Assistant\\n{answer}\\n<extra_id_2>
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from amaru.data.chat import Template
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError

Pooled = Literal["label-prefix", "end-of-turn"]
PREFIX = "<extra_id_2>"
SYSTEM = (  # Nemotron-4-340B-Reward was trained with it: an empty one gives other scores
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LABELLED = """\
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{{- '<extra_id_0>System\\n' + system + '\\n' -}}
{%- for message in turns -%}
{{- '<extra_id_1>' + ('User' if message['role'] == 'user' else 'Assistant') + '\\n' + message['content'] + '\\n' -}}
{%- endfor -%}
{{- '<extra_id_2>' -}}
"""
ROLES = ("system", "user", "assistant")

Message = Mapping[str, Any]


class Prompts:
    """`Prompts(tokenizer, "label-prefix", SYSTEM).ids(messages)`: token ids, of which the last is where the score is read.

    At the label prefix `system` is what a conversation without a system message of its own begins with; at the end of turn the
    tokenizer's own chat template is used. Raises `DataError` for a tokenizer that lacks the control tokens, or a template.
    """

    def __init__(self, tokenizer: Tokenizer, pooled: Pooled, system: str = SYSTEM) -> None:
        self.tokenizer, self.pooled, self.system = tokenizer, pooled, system
        self._template = Template(LABELLED, tokenizer) if pooled == "label-prefix" else _own(tokenizer)
        if pooled == "label-prefix" and self._template.unknown:
            raise DataError(
                f"The tokenizer lacks {', '.join(self._template.unknown)}, which answers are scored with. Give --add-special-tokens when "
                "the reward model is trained, or --pool end-of-turn, which uses the model's own chat template."
            )

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Raises `DataError` as `check_turns`, and as `Template.learned`."""
        check_turns(messages)
        if self.pooled == "label-prefix":
            return self._template.ids(self._template.render(messages, {"system": self.system}, begin=False))
        try:
            found = self._template.learned(messages, only_last=True)
        except ConfigError as error:
            raise DataError(str(error)) from None
        return found.ids[: int(np.flatnonzero(found.learned)[-1]) + 1].tolist()


def check_turns(messages: Sequence[Message]) -> None:
    """Raises `DataError` unless these are texts of user and assistant, a system message at most in front, and the last is an answer."""
    for number, message in enumerate(messages, start=1):
        role = message.get("role")
        if role not in ROLES or (role == "system" and number > 1):
            raise DataError(f"Message {number} is from {role!r}; there is user and assistant, and a system message in front.")
        if not isinstance(message.get("content"), str):
            raise DataError(f"The content of message {number} must be text; it is {type(message.get('content')).__name__}.")
    if not messages or messages[-1]["role"] != "assistant":
        last = f"the last message is from {messages[-1]['role']!r}" if messages else "there is no message"
        raise DataError(f"What is scored is an answer, so the last message is the assistant's; {last}.")
    if not messages[-1]["content"].strip():
        raise DataError("The answer is empty, so there is nothing to score.")


def _own(tokenizer: Tokenizer) -> Template:
    template = Template.of(tokenizer)
    if template is None:
        raise DataError("The tokenizer has no chat template, so there is no end of turn to score at; give --template.")
    return template
