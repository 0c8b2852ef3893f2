"""What the server asks a model by: its chat template over messages as OpenAI has them, and where prompts are likely to be shared."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amaru.data.chat import Template
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.serve.server.requests import Message


class Prompt(NamedTuple):
    """`boundaries`: lengths after which other prompts are likely to go on: behind the system message, and behind the last turn."""

    ids: list[int]
    boundaries: tuple[int, ...] = ()


class ChatTemplate:
    """`ChatTemplate.of(tokenizer).prompt([Message(role="user", content="hello")])`; `of` gives None where there is no template."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self.takes_tools = template.takes_tools

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ChatTemplate | None":
        template = Template.of(tokenizer)
        return None if template is None else cls(template)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), settings: Mapping[str, Any] | None = None
    ) -> Prompt:
        """Token ids up to where the assistant begins. Raises `ConfigError` when the template refuses these messages."""
        turns = [_turn(message) for message in messages]
        values = {"tools": list(tools) or None, **(settings or {})}
        ids = self._template.ids(self._template.render(turns, values, begin=True))
        known = [turns[:1]] if len(turns) > 1 and turns[0]["role"] == "system" else []
        places = [_shared(ids, self._beginning(part, values)) for part in [*known, turns]]
        return Prompt(ids, tuple(sorted({place for place in places if 0 < place < len(ids)})))

    def _beginning(self, turns: list[dict[str, Any]], values: Mapping[str, Any]) -> list[int]:
        """The ids of some turns without what begins an answer; none where the template wants more than these."""
        try:
            return self._template.ids(self._template.render(turns, values, begin=False))
        except ConfigError:
            return []


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates expect it: one text, arguments of calls as objects."""
    rest = message.model_dump(exclude_none=True, exclude={"content"})
    for call in rest.get("tool_calls", []):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _object(function["arguments"])
    return {**rest, "content": message.text}


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("The arguments of a tool call are JSON in a text; these are not.") from None


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
