"""Guesses of what an answer says next, which the model verifies in one pass: fewer passes, the same tokens.

A token of a guess is kept exactly if the request's own sampler takes it from the model's logits, so a bad guess costs time and
changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from amaru.serve.sequence import Running

log = logging.getLogger(__name__)

LONGEST_PAUSE = 64  # steps without a guess when guesses keep being wrong


class Guesser(Protocol):
    """Where guesses come from; `bytes` are what it holds for that on the model's device."""

    @property
    def bytes(self) -> int: ...

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        """At most so many tokens after each one's `ids`; who has none is left out or has an empty list."""
        ...

    def forget(self, running: Running) -> None:
        """It has ended."""
        ...


class Speculation:
    """`drafts = speculation.drafts(running, room)`; after the pass `speculation.learn(running, drafted, accepted)`; `forget` at the end.

    `most` tokens are guessed at once, fewer for a request whose guesses are poor, or where a step would have more than `step`.
    """

    def __init__(self, guesser: Guesser, most: int, step: int) -> None:
        self._guesser = guesser
        self._most, self._step = most, step
        self._broken = False
        self._paces: dict[Running, Pace] = {}

    @property
    def bytes(self) -> int:
        return self._guesser.bytes

    def drafts(self, runnings: Sequence[Running], room: int) -> dict[Running, list[int]]:
        """For those that decode, so that all they bring to a step is at most `room` tokens; near guesses, the likeliest, come first.

        None for one that must first see again what it accepted beside a wrong guess (`Engine._settle`), once that is as long as a guess.
        """
        decoding = [each for each in runnings if each.decodes]
        room = min(room, self._step) - sum(each.waiting for each in decoding)
        wishes = {}
        for running in decoding:
            if not running.settings.speculate or running.waiting > self._most:
                continue
            pace = self._paces.setdefault(running, Pace(self._most))
            wishes[running] = min(pace.next(), running.reach - len(running.ids) - 1)
        return {running: draft for running, draft in self._guesses(_shared(wishes, room)).items() if draft}

    def _guesses(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        """A guesser that fails costs speed, and no one's answer."""
        if self._broken or not wanted:
            return {}
        try:
            return self._guesser.guess(wanted)
        except Exception:
            log.exception("guessing the next tokens failed; all answers go on, without guesses from now on")
            self._broken = True
            return {}

    def learn(self, running: Running, drafted: int, accepted: int) -> None:
        running.handle.drafted_tokens += drafted
        running.handle.accepted_tokens += accepted
        self._paces[running].learn(accepted)

    def forget(self, running: Running) -> None:
        self._paces.pop(running, None)
        self._guesser.forget(running)


def _shared(wishes: Mapping[Running, int], room: int) -> dict[Running, int]:
    """One token for everyone, then a second, until the wishes are met or there is no room."""
    given: dict[Running, int] = {}
    for depth in range(max(wishes.values(), default=0)):
        for running in [each for each, wish in wishes.items() if wish > depth][: max(0, room)]:
            given[running] = depth + 1
            room -= 1
    return given


class Pace:
    """How many tokens to guess next: one more than twice what was right, and none for a while after being wrong again and again."""

    def __init__(self, most: int) -> None:
        self._most = self._length = most
        self._misses = self._pause = 0

    def next(self) -> int:
        if self._pause:
            self._pause -= 1
            return 0
        return self._length

    def learn(self, accepted: int) -> None:
        self._length = min(self._most, 2 * accepted + 1)
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(2**self._misses, LONGEST_PAUSE) if self._misses > 1 else 0
