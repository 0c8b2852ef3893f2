"""/v1/chat/completions: the next turn of a conversation, whole or as a stream."""

import time
import uuid
from collections.abc import AsyncIterator

from amaru.errors import ConfigError
from amaru.serve.request import Event, Token
from amaru.serve.server.answer import Answer
from amaru.serve.server.asking import settings_of, submit, usage_of
from amaru.serve.server.chat import ChatTemplate, Prompt
from amaru.serve.server.requests import ChatRequest
from amaru.serve.server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    Reason,
    TopLogprob,
    Usage,
)
from amaru.serve.server.served import Served


class ChatTurn:
    """`task = ChatTurn(served, request, answer, 4096)`, `task.begin()`, then `await task.whole()` or `task.chunks()`."""

    def __init__(self, served: Served, request: ChatRequest, answer: Answer, most_tokens: int) -> None:
        """`most_tokens`: of an answer that sets no limit itself."""
        self._served, self._request, self._answer, self._most = served, request, answer, most_tokens
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def begin(self) -> None:
        """Takes its time, so on a thread of its own. Raises what makes the request one that cannot run."""
        served, request, prompt = self._served, self._request, self._prompt()
        limit = request.max_completion_tokens or request.max_tokens
        settings = settings_of(
            served,
            request,
            limit or max(1, min(self._most, served.engine.max_tokens - len(prompt.ids))),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            schema=request.response_format.schema_of_text,
        )
        submit(served, self._answer, [prompt], settings, request.n)

    async def whole(self) -> ChatCompletion:
        texts = [""] * self._request.n
        logprobs = [ChatLogprobs() for _ in texts]
        reasons: list[Reason] = ["stop"] * self._request.n
        async for index, _, event in self._answer:
            texts[index] += event.text
            logprobs[index].content += self._logprobs(event)
            reasons[index] = _reason(event) or reasons[index]
        choices = [
            ChatChoice(
                index=index,
                message=AssistantMessage(content=text),
                logprobs=logprobs[index] if self._request.logprobs else None,
                finish_reason=reasons[index],
            )
            for index, text in enumerate(texts)
        ]
        return ChatCompletion(id=self._id, created=self._created, model=self._served.name, choices=choices, usage=self._usage)

    async def chunks(self) -> AsyncIterator[ChatChunk]:
        for index in range(self._request.n):
            yield self._chunk([ChatChunkChoice(index=index, delta={"role": "assistant", "content": ""})])
        async for index, _, event in self._answer:
            logprobs = ChatLogprobs(content=self._logprobs(event)) if self._request.logprobs and event.tokens else None
            if event.text or logprobs:
                yield self._chunk([ChatChunkChoice(index=index, delta={"content": event.text}, logprobs=logprobs)])
            if reason := _reason(event):
                yield self._chunk([ChatChunkChoice(index=index, delta={}, finish_reason=reason)])
        yield self._chunk([], self._usage)

    @property
    def _usage(self) -> Usage:
        return usage_of(self._answer.handles, self._request.n)

    def _template(self) -> ChatTemplate:
        template, name = self._served.chat, self._served.name
        if template is None:
            raise ConfigError(f"The model '{name}' has no chat template, so it knows no turns; ask /v1/completions to continue a text.")
        if self._request.tools and self._request.tool_choice != "none" and not template.takes_tools:
            raise ConfigError(f"The chat template of '{name}' has no place for tools; leave them out.")
        return template

    def _prompt(self) -> Prompt:
        request, template = self._request, self._template()
        self._served.check_length(sum(len(message.text) for message in request.messages))
        tools = request.tools if request.tool_choice != "none" else []
        return template.prompt(request.messages, tools, request.chat_template_kwargs)

    def _logprobs(self, event: Event) -> list[ChatLogprob]:
        return [self._logprob(token) for token in event.tokens] if self._request.logprobs else []

    def _logprob(self, token: Token) -> ChatLogprob:
        assert token.logprob is not None
        top = [TopLogprob(**self._entry(other, logprob)) for other, logprob in token.top]
        return ChatLogprob(**self._entry(token.id, token.logprob), top_logprobs=top)

    def _entry(self, token: int, logprob: float) -> dict:
        written = self._served.written
        return {"token": written(token), "logprob": logprob, "bytes": list(written.bytes(token))}

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._served.name, choices=choices, usage=usage)


def _reason(event: Event) -> Reason | None:
    return event.finish if event.finish in ("stop", "length") else None
