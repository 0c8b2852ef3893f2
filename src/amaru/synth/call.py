"""One question to one model, the hash of everything that decides its answer, and the answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.synth.budget import Usage


@dataclass(frozen=True, kw_only=True)
class Call:
    """`Call(endpoint="http://localhost:8000/v1", model="small", messages=({"role": "user", "content": "2 + 2?"},)).key`

    messages   with the system prompt, as they are sent
    sampling   temperature, top_p, max_tokens: what is sent besides
    schema     the JSON schema that the answer must keep to
    template   the version of the prompt that was rendered
    sample     the n-th answer to the same question
    """

    endpoint: str
    model: str
    messages: tuple[Mapping[str, str], ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    template: str = ""
    sample: int = 0

    @classmethod
    def read(cls, request: str) -> "Call":
        """The call whose `request` this is."""
        return cls(**json.loads(request))

    @cached_property
    def request(self) -> str:
        """All fields as JSON: what `key` is the hash of, and what the store keeps."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)}, sort_keys=True, ensure_ascii=False)

    @cached_property
    def key(self) -> str:
        return fingerprint_bytes(self.request)

    @property
    def most_prompt_tokens(self) -> int:
        """An upper bound: no token of a text is shorter than a byte, and a turn is framed by a few."""
        schema = len(json.dumps(self.schema)) if self.schema else 0
        return schema + sum(len(message["content"].encode()) + 16 for message in self.messages)


@dataclass(frozen=True)
class Answer:
    """What came back, and what it cost. `finish` is the server's reason to end, such as stop or length."""

    content: str
    finish: str
    usage: Usage
