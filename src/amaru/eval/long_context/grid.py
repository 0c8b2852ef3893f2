"""Probes over a grid of lengths and depths, with lengths counted in the model's own tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from amaru.config import fingerprint_bytes
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.eval.estimate import Score
from amaru.eval.long_context.probes import PROBES, Made, share_found
from amaru.eval.subject import Request, Subject
from amaru.eval.task import Judged

VERSION = 1


class Place(NamedTuple):
    """One item of a grid; `name` is that of its cell."""

    length: int
    depth: float
    sample: int

    @property
    def name(self) -> str:
        return f"{self.length} {self.depth:.2f}"


@dataclass(frozen=True)
class ProbeTask:
    """`ProbeTask("passkey", lengths=(1024, 4096), depths=(0, 0.5, 1), samples=5)`: prompt and answer together fill a length.

    found   the share of what was to be found that the answer holds; its cells are "LENGTH DEPTH"

    Raises `ConfigError` for a probe that does not exist.
    """

    name: str
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    seed: int = 0

    metrics: tuple[str, ...] = ("found",)

    def __post_init__(self) -> None:
        if self.name not in PROBES:
            raise ConfigError(f"There is no probe '{self.name}'; there is: {', '.join(PROBES)}.")

    @property
    def places(self) -> list[Place]:
        depths = self.depths if PROBES[self.name].has_depth else (0.0,)
        return [Place(length, depth, sample) for sample in range(self.samples) for length in self.lengths for depth in depths]

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes("probe", str(VERSION), self.name, repr((self.lengths, self.depths, self.seed)))

    def __len__(self) -> int:
        return len(self.places)

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]:
        """Lengths one after the other, since an engine is as large as its longest request."""
        places = self.places
        for length in dict.fromkeys(places[index].length for index in wanted):
            indices = [index for index in wanted if places[index].length == length]
            made = [self.made(places[index], subject.tokenizer) for index in indices]
            requests = [Request(each.prompt, each.max_tokens, stop=("\n\n",)) for each in made]
            for number, text in subject.answers(requests):
                index = indices[number]
                yield index, Judged({"found": Score(share_found(text, made[number].answers))}, text, places[index].name)

    def made(self, place: Place, tokenizer: Tokenizer) -> Made:
        """The longest prompt that leaves room for its answer. Raises `ConfigError` for a length that is too short for the question."""

        def make(units: int) -> Made:
            return PROBES[self.name].make(Random(f"{self.name} {place.name} {place.sample} {self.seed}"), units, place.depth)

        return fitted(make, place.length, lambda made: len(tokenizer.encode(made.prompt)) + made.max_tokens)


def fitted(make: Callable[[int], Made], length: int, count: Callable[[Made], int]) -> Made:
    """`make(units)` with as many units as `length` allows, found by bisection from where a straight line would have it."""
    least = count(make(1))
    if least > length:
        raise ConfigError(f"A probe takes at least {least:,} tokens with its answer; got a length of {length:,}.")
    fits, slope = 1, max(1e-9, (count(make(65)) - least) / 64)
    fails = 2 + int(1.25 * (length - least) / slope)
    while count(make(fails)) <= length:
        fits, fails = fails, 2 * fails
    while fails - fits > max(1, fits // 100):  # within one per cent
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if count(make(middle)) <= length else (fits, middle)
    return make(fits)
