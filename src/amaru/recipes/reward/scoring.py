"""Many conversations put to a reward model, each once: what was scored before is kept, so that a stopped run goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amaru.config import fingerprint_bytes
from amaru.errors import DataError
from amaru.eval.store import Store
from amaru.models.checkpoint import fingerprint
from amaru.models.reward.checkpoint import load
from amaru.models.reward.prompts import Message
from amaru.models.reward.scorer import Scored, Scorer
from amaru.recipes.device import device_named

AT_ONCE = 64  # conversations that are kept together
TASK = "rewards"  # in a store of results, which knows tasks and items
KEPT = "runs/rewards.sqlite"

Follow = Callable[[str], object]


class Unscored(NamedTuple):
    """Why a conversation has no score."""

    sentence: str


class KeptScorer:
    """`KeptScorer("runs/reward/model")(conversations)` -> a `Scored` or `Unscored` for each; `fresh` and `kept` count scores that were
    computed now, and that were there from before.

    `store` is a file of attributes by model and conversation, None keeps nothing. `longest` tokens are read, None: as in training.
    `weights` make another sum of the attributes than the model's own.
    """

    def __init__(
        self,
        path: str | Path,
        store: str | Path | None = KEPT,
        longest: int | None = None,
        device: str = "cpu",
        follow: Follow = lambda text: None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.scorer = Scorer(load(path, device=device_named(device)), max_tokens=longest)
        if weights:
            self.scorer.attributes = replace(self.scorer.attributes, weights=dict(weights))
        self.fresh, self.kept, self._follow = 0, 0, follow
        self._store = None if store is None else Store(store)
        self._model = fingerprint_bytes(fingerprint(path), self.scorer.model.prompts.tokenizer.fingerprint)
        kept = {} if self._store is None else self._store.get(self._model, TASK)
        self._known = {key: found["values"] for key, found in kept.items()}

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[Scored | Unscored]:
        read = [self._read(messages) for messages in conversations]
        asked = {_key(each): each for each in read if not isinstance(each, Unscored)}
        new = {key: ids for key, ids in asked.items() if key not in self._known}
        self.fresh, self.kept = self.fresh + len(new), self.kept + len(asked) - len(new)
        for keys in _parts(sorted(new, key=lambda key: -len(new[key]))):
            self._score({key: new.pop(key) for key in keys})
            self._follow(f"{len(new):,} answers are left")
        return [each if isinstance(each, Unscored) else self._scored(_key(each)) for each in read]

    def _read(self, messages: Sequence[Message]) -> list[int] | Unscored:
        try:
            return self.scorer.ids(messages)
        except DataError as error:
            return Unscored(str(error))

    def _score(self, asked: dict[int, list[int]]) -> None:
        scored = self.scorer.scores([*asked.values()])
        found = {key: [*each.attributes.values()] for key, each in zip(asked, scored, strict=True)}
        self._known |= found
        if self._store is not None:
            self._store.put(self._model, TASK, [(key, {"values": values}) for key, values in found.items()])

    def _scored(self, key: int) -> Scored:
        attributes, values = self.scorer.attributes, self._known[key]
        return Scored(attributes.told(values), attributes.scalar(values))


def _key(ids: Sequence[int]) -> int:
    """What a conversation is kept under: 60 bits of a hash of its tokens."""
    return int(fingerprint_bytes(np.array(ids, dtype=np.int64).tobytes())[:15], 16)


def _parts(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    return (keys[first : first + AT_ONCE] for first in range(0, len(keys), AT_ONCE))
