"""Answers that satisfy a JSON schema: before every token, which ones the schema still allows."""

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaru.data.tokenizer import Tokenizer
from amaru.errors import BackendError, ConfigError, DataError

# Some space, so that indented JSON can be written; bounded, so that a model cannot fill its answer with it.
# Keywords that the library does not know are refused, whatever the schema's own "x-guidance" says.
OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\t\r]{1,20}", "lenient": False}
ANY_OBJECT = {"type": "object"}


class Constraints:
    """`Constraints(tokenizer, vocab).of({"type": "object"}, stop=(eos,))`: what one request's answer is held to.

    vocab is the model's, which may be larger than the tokenizer's. Any thread may call `of`; the vocabulary is prepared by the
    first (half a second for 50,000 tokens).
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab: int) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._preparing = threading.Lock()

    def of(self, schema: Mapping[str, Any], stop: Sequence[int]) -> "Constraint":
        """`stop` ends an answer that is whole; without any the tokenizer's end of text does. {} is any JSON object.

        Raises `ConfigError` for a schema that cannot be kept to or an engine without tokenizer, `BackendError` without llguidance.
        """
        if self._tokenizer is None:
            raise ConfigError("A schema speaks of text, and this engine has no tokenizer; give it one, or leave the schema out.")
        grammar, library = self._grammar(schema or ANY_OBJECT), _library()
        with self._preparing:
            prepared = self._prepared
        matcher = library.LLMatcher(prepared, grammar, log_level=0)
        if matcher.is_error():
            raise ConfigError(f"The schema cannot be kept to: {_reason(matcher.get_error())}.")
        return Constraint(matcher, self._vocab, tuple(stop) or self._ends)

    def _grammar(self, schema: Mapping[str, Any]) -> str:
        try:
            return _library().LLMatcher.grammar_from_json_schema(json.dumps(schema, allow_nan=False), overrides=OPTIONS)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"The schema is not one that can be read: {_reason(str(error))}.") from None

    @cached_property
    def _prepared(self) -> Any:
        assert self._tokenizer is not None
        library, rows = _library(), max(self._vocab, self._tokenizer.vocab_size)
        ends = {"eos_token": list(self._ends)} if self._ends else {}
        slices = library.LLTokenizer.json_slices()
        try:
            return library.LLTokenizer(self._tokenizer.backend.to_str(), n_vocab=rows, slices=slices, **ends)
        except ValueError as error:
            raise ConfigError(f"A schema cannot be kept to with this tokenizer: {_reason(str(error))}.") from None

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        assert self._tokenizer is not None
        try:
            return (self._tokenizer.eos_id,)
        except DataError:  # it names none, and an answer ends where nothing can be added
            return ()


class Constraint:
    """`token = sampler(logits, constraint.allowed())`, `constraint.advance(token)`, until `constraint.whole`."""

    def __init__(self, matcher: Any, vocab: int, ends: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._vocab = vocab
        self._ends = torch.tensor(ends, dtype=torch.int64)

    @property
    def whole(self) -> bool:
        """The answer satisfies the schema, and nothing can be added to it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def ends(self, token: int) -> bool:
        """This token is not text: it ends the answer."""
        return token in self._ends

    def allowed(self, early: bool = False) -> Tensor:
        """[vocab] bool, on the CPU: what may come next. Those that end the answer may when it is whole; and, while it is still
        `early`, only if nothing else may.

        Raises `ConfigError` when no token is left, because the vocabulary lacks one or the schema is more than can be followed.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), count=self._vocab, bitorder="little")
        mask = torch.from_numpy(bits).bool()
        mask[self._ends] = False
        if self._matcher.is_accepting() and not (early and mask.any()):
            mask[self._ends] = True
        if self._matcher.is_error() or not mask.any():
            reason = self._matcher.get_error() or "the model's vocabulary has no token that could come next"
            raise ConfigError(f"The answer can no longer be held to its schema: {_reason(reason)}.")
        return mask

    def advance(self, token: int) -> None:
        """`token`, one of the allowed, was chosen."""
        if not self.ends(token):
            self._matcher.consume_token(token)


def _library() -> Any:
    try:
        return import_module("llguidance")
    except ImportError:
        raise BackendError("Answers that keep to a schema need llguidance; install amaru[serve].") from None


def _reason(message: str) -> str:
    """The first line of what the library says, as part of a sentence."""
    return message.strip().split("\n")[0].rstrip(".")[:300]
