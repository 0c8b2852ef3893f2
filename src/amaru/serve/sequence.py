"""One request while it runs: its tokens, how many of them the state has seen, and what it holds in the pool."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amaru.data.tokenizer import Tokenizer
from amaru.serve.constraint import Constraint
from amaru.serve.request import Event, Finish, Handle, Settings, Token
from amaru.serve.rows import Row
from amaru.serve.sampler import Sampler, penalised
from amaru.serve.state_pool import Lease
from amaru.serve.text import StopGate, TextStream

OnEvent = Callable[[Handle, Event], None]


class Running:
    """`ids` are prompt and answer so far, of which the first `computed` are in the state."""

    def __init__(
        self,
        handle: Handle,
        prompt: list[int],
        settings: Settings,
        on_event: OnEvent,
        tokenizer: Tokenizer | None = None,
        boundaries: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self.handle = handle
        self.ids = list(prompt)
        self.settings = settings
        self.on_event = on_event
        self.boundaries = sorted({*boundaries, len(prompt)})
        self.computed = 0
        self.cancelled = False
        self.finish: Finish | None = None
        self.lease: Lease | None = None
        self._sampler = Sampler(settings.sampling)
        self._answer: Counter[int] = Counter()
        self._prompt = set(prompt) if settings.sampling.penalises else set()
        self._stream = None if tokenizer is None else TextStream(tokenizer, prompt)
        self._gate = StopGate(settings.stop_strings)
        self._constraint = constraint

    @property
    def prompt(self) -> list[int]:
        return self.ids[: self.handle.prompt_tokens]

    @property
    def waiting(self) -> int:
        """Tokens that the model has not seen yet: the rest of the prompt, or the newest token."""
        return len(self.ids) - self.computed

    @property
    def decodes(self) -> bool:
        """The prompt is behind it."""
        return not self.finish and self.computed >= self.handle.prompt_tokens

    @property
    def reach(self) -> int:
        """Tokens that it can have at most."""
        return self.handle.prompt_tokens + self.settings.max_tokens

    def until_boundary(self, seen: int) -> int:
        """Tokens from place `seen` up to the next one after which a state is worth remembering, or to the end."""
        place = bisect_right(self.boundaries, seen)
        return (self.boundaries[place] if place < len(self.boundaries) else len(self.ids)) - seen

    def choose(self, row: Row) -> Event:
        """The next token from a row of logits: sets `finish` when it ends the request; a stop token is not part of it."""
        token = self._sampler(self._penalised(row), self._allowed(row.logits))
        if token in self.settings.stop or (self._constraint and self._constraint.ends(token)):
            return self.end("stop")
        if self._constraint:
            self._constraint.advance(token)
        self.ids.append(token)
        self._answer[token] += 1
        self.handle.completion_tokens += 1
        text = self._stream.add(token) if self._stream else ""
        shown, stopped = self._gate.add(text, self.handle.completion_tokens >= self.settings.min_tokens)
        told = Event(tokens=(self._token(token, text, row.logits),), text=shown)
        if stopped:
            self.finish = "stop"
            return replace(told, finish="stop")
        whole = self._constraint is not None and self._constraint.whole
        if whole or self.handle.completion_tokens == self.settings.max_tokens:
            last = self.end("stop" if whole else "length")
            return replace(told, text=told.text + last.text, finish=last.finish)
        return told

    def end(self, finish: Finish, error: str | None = None) -> Event:
        """The last event, with the text that was held back."""
        self.finish = finish
        shown, stopped = self._gate.add(self._stream.rest() if self._stream else "", True)
        return Event(text=shown if stopped else shown + self._gate.rest(), finish=finish, error=error)

    def tell_prompt(self, logits: Tensor, first: int) -> None:
        """Log-probabilities of the prompt's tokens after place `first`, from the logits [n, vocab] of the places before them."""
        for row, place in zip(logits, range(first + 1, self.handle.prompt_tokens), strict=False):
            self.handle.prompt_logprobs.append(self._token(self.ids[place], "", row))

    def _penalised(self, row: Row) -> Row:
        sampling = self.settings.sampling
        if not sampling.penalises:
            return row
        return Row.alone(penalised(row.logits, sampling, self._prompt, self._answer), sampling.temperature)

    def _allowed(self, logits: Tensor) -> Tensor | None:
        """[vocab] bool: what the schema leaves; nothing may end an answer before it has its least length."""
        early = self.handle.completion_tokens < self.settings.min_tokens
        if self._constraint:
            return self._constraint.allowed(early).to(logits.device)
        if not self.settings.stop or not early:
            return None
        return torch.ones_like(logits, dtype=torch.bool).index_fill(0, torch.tensor(self.settings.stop, device=logits.device), False)

    def _token(self, token: int, text: str, logits: Tensor) -> Token:
        if self.settings.logprobs is None and not self.settings.prompt_logprobs:
            return Token(token, text)
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(self.settings.logprobs or 0, len(logprobs)))
        return Token(token, text, float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
