"""/v1/completions: texts continued, whole or as a stream, with log-probabilities as OpenAI's first interface and lm-eval have them."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import accumulate

from amaru.serve.request import Event, Handle, Token
from amaru.serve.server.answer import Answer
from amaru.serve.server.asking import settings_of, submit, usage_of
from amaru.serve.server.chat import Prompt
from amaru.serve.server.requests import CompletionRequest
from amaru.serve.server.responses import Completion, CompletionChoice, CompletionLogprobs, Reason, Usage
from amaru.serve.server.served import Served
from amaru.serve.server.token_text import TokenText
from amaru.serve.text import TextStream


class TextCompletion:
    """`task = TextCompletion(served, request, answer)`, `task.begin()`, then `await task.whole()` or `task.chunks()`."""

    def __init__(self, served: Served, request: CompletionRequest, answer: Answer) -> None:
        self._served, self._request, self._answer = served, request, answer
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._choices: list[Choice] = []

    def begin(self) -> None:
        """Takes its time, so on a thread of its own. Raises what makes the request one that cannot run."""
        served, request = self._served, self._request
        prompts = [Prompt(served.encode(given) if isinstance(given, str) else given) for given in request.prompt]
        settings = settings_of(
            served,
            request,
            max(1, request.max_tokens),
            logprobs=request.logprobs,
            prompt_logprobs=request.echo and request.logprobs is not None,
        )
        # Whoever measures a text (lm-eval) counts on exactly one place behind it, so an end of text is a token there like others.
        ends = settings.stop if request.echo and request.max_tokens <= 1 else ()
        settings = replace(settings, stop=()) if ends else settings
        submit(served, self._answer, prompts, settings, request.n)
        for given, prompt in zip(request.prompt, prompts, strict=True):
            text = given if isinstance(given, str) else served.tokenizer.decode(given) if request.echo else ""
            for _ in range(request.n):
                self._choices.append(Choice(len(self._choices), served, request, prompt.ids, text, ends))

    async def whole(self) -> Completion:
        results: dict[int, CompletionChoice] = {}
        async for index, handle, event in self._answer:
            new = self._choices[index].add(event)
            if event.finish and self._request.echo:
                new = joined(self._choices[index].echo(handle), results.pop(index, None), new)
            results[index] = joined(results.get(index), new)
        usage = usage_of(self._answer.handles, self._request.n)
        if not self._request.max_tokens:
            usage = Usage.of(usage.prompt_tokens, 0, usage.prompt_tokens_details.cached_tokens)
        return self._completion([results[index] for index in sorted(results)], usage)

    async def chunks(self) -> AsyncIterator[Completion]:
        async for index, _, event in self._answer:
            choice = self._choices[index].add(event)
            if choice.text or choice.finish_reason or (choice.logprobs and choice.logprobs.tokens):
                yield self._completion([choice])
        yield self._completion([], usage_of(self._answer.handles, self._request.n))

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._served.name, choices=choices, usage=usage)


class Choice:
    """Turns one choice's events into parts of its result; `ends` are tokens that end it although the engine knows nothing of it."""

    def __init__(
        self, index: int, served: Served, request: CompletionRequest, prompt: list[int], text: str, ends: tuple[int, ...]
    ) -> None:
        self._index, self._served, self._request = index, served, request
        self._prompt, self._text, self._ends = prompt, text, ends
        self._written = served.written
        self._offset = len(text) if request.echo else 0

    def add(self, event: Event) -> CompletionChoice:
        reason: Reason | None = event.finish if event.finish in ("stop", "length") else None
        if not self._request.max_tokens:  # a token that nobody asked for
            event = replace(event, tokens=(), text="")
        elif self._ends and any(token.id in self._ends for token in event.tokens):
            event, reason = replace(event, text=""), "stop"
        logprobs = None
        if self._request.logprobs is not None:
            starts = list(accumulate((len(token.text) for token in event.tokens), initial=self._offset))
            self._offset = starts.pop()
            logprobs = logprobs_of(event.tokens, starts, self._written)
        return CompletionChoice(index=self._index, text=event.text, logprobs=logprobs, finish_reason=reason)

    def echo(self, handle: Handle) -> CompletionChoice:
        """The prompt as the first part of the result; nothing precedes its first token, so that has no probability."""
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = logprobs_of([Token(self._prompt[0]), *handle.prompt_logprobs], self._starts(), self._written)
            logprobs.top_logprobs[0] = None
        return CompletionChoice(index=self._index, text=self._text, logprobs=logprobs)

    def _starts(self) -> list[int]:
        """Where in the echoed text each of the prompt's tokens begins; a first token that the text does not show takes no place."""
        stream = TextStream(self._served.tokenizer, [])
        *starts, end = accumulate((len(stream.add(token)) for token in self._prompt), initial=0)
        unseen = max(0, end + len(stream.rest()) - len(self._text))
        return [max(0, start - unseen) for start in starts]


def logprobs_of(tokens: list[Token] | tuple[Token, ...], starts: list[int], written: TokenText) -> CompletionLogprobs:
    """The chosen token is always among the likeliest; two tokens of the same text are one entry, with the larger probability."""
    result = CompletionLogprobs(text_offset=starts)
    for token in tokens:
        top: dict[str, float] = {}
        for other, logprob in [*token.top, *([] if token.logprob is None else [(token.id, token.logprob)])]:
            top.setdefault(written(other), logprob)
        result.tokens.append(written(token.id))
        result.token_logprobs.append(token.logprob)
        result.top_logprobs.append(top)
    return result


def joined(*parts: CompletionChoice | None) -> CompletionChoice:
    """Parts of one choice, in order, as one."""
    first, *others = [part for part in parts if part is not None]
    for part in others:
        first.text += part.text
        first.finish_reason = part.finish_reason
        if first.logprobs and part.logprobs:
            for name in CompletionLogprobs.model_fields:
                getattr(first.logprobs, name).extend(getattr(part.logprobs, name))
    return first
