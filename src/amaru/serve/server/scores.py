"""/v1/chat/completions of a reward model: the conversation's last answer scored, each attribute as a token with its value.

    {"choices": [{"message": {"role": "assistant", "content": "helpfulness:1.6171875,correctness:1.6484375"},
                  "logprobs": {"content": [{"token": "helpfulness", "logprob": 1.6171875}, ...]}, "finish_reason": "stop"}]}
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from amaru.errors import CapacityError, ConfigError
from amaru.serve.request import Settings, Token
from amaru.serve.scoring import ScoringEngine
from amaru.serve.server.answer import Answer
from amaru.serve.server.chat import Prompt
from amaru.serve.server.requests import ChatRequest, Message
from amaru.serve.server.responses import AssistantMessage, ChatChoice, ChatCompletion, ChatLogprob, ChatLogprobs, Usage
from amaru.serve.server.served import Served

WRITING: dict[str, Any] = {"stream": False, "n": 1, "tools": [], "top_logprobs": None, "chat_template_kwargs": {}}


class ScoredAnswer:
    """`task = ScoredAnswer(served, request, answer)`, `task.begin()`, then `await task.whole()`.

    Scores are as computed, never rounded or clamped. What decides how text is drawn (temperature, max_tokens, ...) is taken and
    changes nothing, since nothing is drawn; what asks for another form of answer is refused.
    """

    def __init__(self, served: Served, request: ChatRequest, answer: Answer) -> None:
        self._served, self._request, self._answer = served, request, answer
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def begin(self) -> None:
        """Raises what makes the request one that cannot be scored."""
        request, engine = self._request, self._served.engine
        assert isinstance(engine, ScoringEngine)
        for name, neutral in WRITING.items():
            if getattr(request, name) != neutral:
                raise ConfigError(f"The model '{self._served.name}' is a reward model, which writes nothing; leave '{name}' out.")
        if request.response_format.type != "text":
            raise ConfigError(f"The model '{self._served.name}' is a reward model, which writes nothing; leave 'response_format' out.")
        self._served.check_length(sum(len(message.text) for message in request.messages))
        ids = engine.scorer.model.prompts.ids([_turn(message) for message in request.messages])
        if len(ids) > engine.max_tokens:
            raise CapacityError(f"The conversation has {len(ids):,} tokens; this reward model reads at most {engine.max_tokens:,}.")
        self._answer.submit(Prompt(ids), Settings())

    async def whole(self) -> ChatCompletion:
        tokens: Sequence[Token] = ()
        async for _, _, event in self._answer:
            tokens = event.tokens or tokens
        told = [(token.text, token.logprob) for token in tokens if token.logprob is not None]
        choice = ChatChoice(
            index=0,
            message=AssistantMessage(content=",".join(f"{name}:{value!r}" for name, value in told)),
            logprobs=ChatLogprobs(content=[ChatLogprob(token=name, logprob=value, bytes=list(name.encode())) for name, value in told]),
            finish_reason="stop",
        )
        usage = Usage.of(sum(handle.prompt_tokens for handle in self._answer.handles), len(told), 0)
        return ChatCompletion(id=self._id, created=self._created, model=self._served.name, choices=[choice], usage=usage)


def _turn(message: Message) -> dict[str, str]:
    if message.tool_calls:
        raise ConfigError("A reward model reads texts; a message that calls tools cannot be scored.")
    return {"role": message.role, "content": message.text}
