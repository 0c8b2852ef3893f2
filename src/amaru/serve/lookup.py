"""Guesses from the text itself."""

from collections.abc import Mapping

from amaru.serve.sequence import Running

RUNS = (4, 3, 2)  # tokens that must have stood there before for what followed them to be guessed again


class Lookup:
    """Guesses that the text repeats itself: what followed the last tokens when they stood together before."""

    bytes = 0

    def __init__(self) -> None:
        self._runs: dict[Running, Runs] = {}

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        return {running: self._runs.setdefault(running, Runs()).follow(running.ids, count) for running, count in wanted.items()}

    def forget(self, running: Running) -> None:
        self._runs.pop(running, None)


class Runs:
    """`Runs().follow([1, 2, 3, 9, 1, 2], 3) == [3, 9, 1]`: where each run of tokens ended last, learnt as the text grows."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = 1

    def follow(self, ids: list[int], count: int) -> list[int]:
        for end in range(self._known, len(ids)):
            for run in RUNS:
                if end >= run:
                    self._ends[tuple(ids[end - run : end])] = end
        self._known = max(self._known, len(ids))
        ends = (self._ends.get(tuple(ids[-run:])) for run in RUNS)
        place = next((end for end in ends if end), None)
        return [] if place is None else _repeated(ids[place : place + count], count)


def _repeated(tokens: list[int], count: int) -> list[int]:
    """What comes next, begun anew when the text's end is reached: a text that repeats itself this far does so further."""
    return (tokens * -(-count // len(tokens)))[:count]
