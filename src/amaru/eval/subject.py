"""The model under test, as tasks see it: texts in, likelihoods and answers out.

    subject = Subject(load("student"), Tokenizer.load("student"), fingerprint("student"))
    for index, text in subject.answers([Request("Question: 2 + 2?\\nAnswer:", max_tokens=8, stop=("\\n",))]): ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from amaru.data.chat import Message, Template
from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, ConfigError, DataError
from amaru.eval.likelihood import Ending, Likelihood, likelihoods
from amaru.models.decoder import Decoder
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sampler import GREEDY

RUNNING = 32  # answers that are generated at once, memory permitting


class Request(NamedTuple):
    """A text to go on with, greedily, until one of `stop` or the end of text; `shared` characters begin other requests too.

    A chat model ends its turn by itself, so it is not given `stop`. Instead of a text there may be the messages of a conversation.
    """

    prompt: str | tuple[Message, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    shared: int = 0

    def behind(self, examples: str) -> "Request":
        """A text with solved examples before it, which other requests share."""
        assert isinstance(self.prompt, str)
        return self._replace(prompt=examples + self.prompt, shared=len(examples))


@dataclass(frozen=True)
class Subject:
    """`fingerprint` is that of the weights; with `chat` generated answers are asked for by the model's template; `memory` bytes are
    for states and caches while answers are generated."""

    decoder: Decoder
    tokenizer: Tokenizer
    fingerprint: str
    chat: Template | None = None
    memory: int = 2 * 2**30

    @property
    def identity(self) -> str:
        """Of all that decides what the subject says."""
        return "/".join([self.fingerprint, self.tokenizer.fingerprint, "chat" if self.chat else "plain"])

    def ending(self, context: str, continuation: str) -> Ending:
        """Where the continuation's tokens begin, as lm-eval cuts: spaces at the context's end belong to the continuation, both are
        tokenised as one text, and what the context alone has as many tokens of is the context. An empty context is the
        token that begins texts.
        """
        bare = context.rstrip()
        whole = self.tokenizer.encode(context + continuation)
        first = len(self.tokenizer.encode(bare)) if bare else 0
        if not first:
            before = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
            whole, first = (whole if whole[:1] == [before] else [before, *whole]), 1  # some tokenizers put it there themselves
        if first >= len(whole):
            raise DataError(f"The answer {continuation!r} has no token of its own after its question; it cannot be measured.")
        return Ending(tuple(whole), first)

    def likelihoods(self, endings: Sequence[Ending]) -> Iterator[tuple[int, Likelihood]]:
        return likelihoods(self.decoder, endings)

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Each request's index and answer, as they finish; they run together in one engine, and share what they begin with."""
        if not requests:
            return
        prompts = [self.prompt(request.prompt) for request in requests]
        engine = self._engine(len(prompts), max(len(ids) + each.max_tokens for ids, each in zip(prompts, requests, strict=True)))
        done: list[tuple[int, str]] = []
        raised: list[Exception] = []
        for index, (ids, request) in enumerate(zip(prompts, requests, strict=True)):
            engine.submit(ids, self._settings(request), _Collector(index, done, raised), self._boundaries(request))
        more = True
        while more:
            more = engine.step()
            if raised:
                raise raised[0]
            yield from done
            done.clear()

    def _engine(self, count: int, longest: int) -> Engine:
        sizes = EngineConfig(
            memory=self.memory, max_tokens=longest, max_running=RUNNING, max_waiting=count, prefix_bytes=self.memory // 4
        )
        return Engine(self.decoder, self.tokenizer, sizes)

    def _settings(self, request: Request) -> Settings:
        ends = () if self.chat else request.stop
        return Settings(max_tokens=request.max_tokens, stop=(self.tokenizer.eos_id,), stop_strings=ends, sampling=GREEDY)

    def _boundaries(self, request: Request) -> list[int]:
        """How many tokens other requests begin with too."""
        if not request.shared or self.chat or not isinstance(request.prompt, str):
            return []
        return [len(self.tokenizer.encode(request.prompt[: request.shared]))]

    def prompt(self, said: str | tuple[Message, ...]) -> list[int]:
        """The ids of a text to go on with, as it stands or as the first message of a conversation; or of a conversation."""
        if isinstance(said, str) and self.chat is None:
            return self.tokenizer.encode(said)
        if self.chat is None:
            raise ConfigError("Messages need a chat template; give --chat.")
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        return self.chat.ids(self.chat.render(messages, begin=True))


class _Collector:
    """Keeps a request's text until it ends; what goes wrong is for the caller of `answers`."""

    def __init__(self, index: int, done: list[tuple[int, str]], raised: list[Exception]) -> None:
        self._index, self._done, self._raised, self._text = index, done, raised, ""

    def __call__(self, handle: Handle, event: Event) -> None:
        self._text += event.text
        if event.error:
            self._raised.append(CheckpointError(event.error))
        if event.finish:
            self._done.append((self._index, self._text))


def chat_of(tokenizer: Tokenizer) -> Template:
    """The template of a chat model; raises `ConfigError` where the tokenizer brings none."""
    template = Template.of(tokenizer)
    if template is None:
        raise ConfigError("The model brings no chat template; leave --chat out to have it go on with the bare text.")
    return template
