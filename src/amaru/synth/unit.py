"""What a step works with while it makes something of one row: the row, the prompts that it names, and models to ask."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from amaru.config import fingerprint_bytes
from amaru.errors import ConfigError
from amaru.synth.call import Answer, Call
from amaru.synth.client import Client, Read, said
from amaru.synth.endpoint import Endpoint, Sampling
from amaru.synth.prompt import Prompt
from amaru.synth.row import Row

T = TypeVar("T")
Message = Mapping[str, str]


@dataclass(frozen=True)
class Unit:
    """`await unit.ask("writer", unit.written(), whole_text)`: the key of the call, and what was made of its answer.

    found  what the step found beside the recipe, such as a function
    """

    step: str
    row: Row
    models: Mapping[str, Endpoint]
    prompts: Mapping[str, Prompt]
    seed: int
    client: Client
    found: Any = None

    @property
    def columns(self) -> dict[str, Any]:
        return self.row.columns

    def column(self, name: str) -> Any:
        """Raises `ConfigError` where the row does not have it."""
        if name not in self.columns:
            raise ConfigError(f"Step {self.step} reads column {name}; the row has {', '.join(self.columns)}.")
        return self.columns[name]

    def text(self, name: str) -> str:
        """Raises `ConfigError` where the row has something else there, such as null."""
        if not isinstance(value := self.column(name), str):
            raise ConfigError(f"Step {self.step} reads a text in column {name}; the row has {str(value)[:80]}.")
        return value

    @staticmethod
    async def all(asking: Iterable[Awaitable[T]]) -> list[T]:
        """What all of them give; none is left under way when one fails, as what it costs is to be known by then."""
        done = await asyncio.gather(*asking, return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
        return [each for each in done if not isinstance(each, BaseException)]

    def random(self, *about: str) -> random.Random:
        """What it draws follows from the recipe's seed, the step and the row: the same each time, whichever row comes first."""
        return random.Random(fingerprint_bytes(str(self.seed), self.step, *about, self.row.key))

    def written(self, prompt: str = "prompt", **given: Any) -> str:
        """One of the step's prompts with the row's columns and what is given besides."""
        return self.prompts[prompt].render({**self.columns, **given})

    async def ask(
        self,
        model: str,
        question: str | Sequence[Message],
        accept: Callable[[Answer], T],
        *,
        prompt: str | None = "prompt",
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        sample: int = 0,
        read: Read = said,
    ) -> tuple[str, T]:
        """Ask with a text, or with a conversation, whose own system message is used in place of the endpoint's.

        prompt    the name of the prompt that the question was written by; its version is part of the call
        schema    what the answer must keep to
        sample    the n-th answer to the same question
        """
        endpoint = self.models[model]
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else [dict(message) for message in question]
        if schema:
            messages[-1]["content"] += _wanted(schema)
        if endpoint.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": endpoint.system})
        call = Call(
            endpoint=endpoint.url,
            model=endpoint.model,
            messages=tuple(messages),
            sampling=(sampling or endpoint.sampling).sent,
            schema=schema,
            template=self.prompts[prompt].version if prompt else "",
            sample=sample,
        )
        return call.key, await self.client.ask(endpoint, call, self.step, accept, read)


def _wanted(schema: Mapping[str, Any]) -> str:
    """What is said of the form, to servers that keep to it and to those that do not alike: a call is one call wherever it goes."""
    return f"\n\nAnswer with one JSON object of this schema and nothing else:\n{json.dumps(schema)}"
