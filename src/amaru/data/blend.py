"""Several sources mixed by weight, in phases: which one gives each row is a function of the seed and the step alone.

    portions = [Portion(until="60%", weights={"web": 0.8, "code": 0.2}), Portion(weights={"web": 0.5, "code": 0.5}, row_length=2048)]
    phases = schedule(portions, tokens=1_000_000, batch_tokens=8192, row_length=512)
    blend = Blend({"web": web, "code": code}, phases, seed=0)
    blend.batch(step)        # the `Batches` of data/loader.py: also phase(step), drawn(steps), batch(step, part, parts)

Weights are shares of tokens. In every phase each source gives its share of the rows, rounded to whole rows once, spread evenly
over the phase, so that each batch holds nearly the same mixture. Rows of a source come in endless passes, as with `Loader`; a
phase with another row length cuts the source anew and passes over it in an order of its own.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import Field

from amaru.config import Config, fingerprint_bytes
from amaru.config.units import parse_count, parse_share
from amaru.data.loader import Drawn, Phase, TrainingBatch, join
from amaru.data.order import Seed, share, spread, tokens_visited, visit
from amaru.data.packing import PackedRows
from amaru.errors import ConfigError, DataError


class Portion(Config):
    """`Portion(until="60%", weights={"web": 0.7, "code": 0.3})`: one phase of a blend, as people write it.

    weights      shares of tokens, by name of source; they are divided by their sum
    until        where the phase ends: a share of the run's tokens such as 60%, or a count such as 9T; the last one needs none
    last         instead of `until`, for the last phase: how many tokens it has at the end of the run
    row_length   tokens a row from here on; None keeps that of the run
    """

    weights: dict[str, float]
    until: str | None = None
    last: str | None = None
    row_length: int | None = Field(default=None, ge=2)
    name: str | None = None

    def check(self) -> None:
        wrong = [f"{name}={weight}" for name, weight in self.weights.items() if not (weight > 0 and math.isfinite(weight))]
        if not self.weights or wrong:
            found = ", ".join(wrong) or "none"
            raise ConfigError(f"The weights of a blend are positive numbers, one for each source that it draws from; got {found}.")
        if self.until is not None and self.last is not None:
            raise ConfigError(f"A phase has until or last, not both; got until {self.until} and last {self.last}.")


def schedule(portions: Sequence[Portion], tokens: int, batch_tokens: int, row_length: int) -> tuple[Phase, ...]:
    """The phases of a run of `tokens` tokens in steps of `batch_tokens`, in whole steps.

    Raises `ConfigError` for phases that do not sum to the run, have no step, or whose rows do not divide a batch.
    """
    steps = max(1, -(-tokens // batch_tokens))
    ends = _ends(portions, tokens, batch_tokens, steps)
    phases = []
    for number, (portion, (first, end)) in enumerate(zip(portions, pairwise([0, *ends]), strict=True), start=1):
        name, length = portion.name or f"phase {number}", portion.row_length or row_length
        if end <= first:
            raise ConfigError(f"{name} has no step: it would go from step {first} to {end} of {steps}; phases follow one another.")
        if batch_tokens % length:
            raise ConfigError(f"{name} has rows of {length} tokens, which do not divide the {batch_tokens} tokens of a step.")
        whole = sum(portion.weights.values())
        weights = {source: weight / whole for source, weight in portion.weights.items()}
        phases.append(Phase(name, first, end, length, batch_tokens // length, weights))
    return tuple(phases)


def _ends(portions: Sequence[Portion], tokens: int, batch_tokens: int, steps: int) -> list[int]:
    """The step behind each phase; that of a phase before one with `last` follows from it."""
    if not portions:
        raise ConfigError("A blend has at least one phase, with weights.")
    ends = [None if portion.until is None else round(_tokens_until(portion.until, tokens) / batch_tokens) for portion in portions]
    if portions[-1].last is not None and len(ends) > 1 and ends[-2] is None:
        ends[-2] = steps - -(-parse_count(portions[-1].last) // batch_tokens)
    elif any(portion.last for portion in portions):
        raise ConfigError("Only the last phase may have 'last', and the one before it then has no 'until': it ends where the last begins.")
    if ends[-1] is None:
        ends[-1] = steps
    found = [end for end in ends if end is not None]
    if len(found) < len(ends):
        raise ConfigError("Every phase but the last needs 'until': a share of the run such as 60%, or a count of tokens.")
    if found[-1] != steps:
        raise ConfigError(
            f"The phases end at step {found[-1]}, the run at step {steps} ({tokens:,} tokens); leave 'until' of the last phase out."
        )
    return found


def _tokens_until(text: str, tokens: int) -> int:
    shared = parse_share(text, tokens)
    return parse_count(text) if shared is None else shared


@dataclass(frozen=True)
class Blend:
    """Batches of several sources, in phases; the same for the same sources, phases and seed, whatever was asked before.

    Raises `DataError` for a source without a row, or one that a phase names and nobody gave.
    """

    sources: Mapping[str, PackedRows]
    phases: tuple[Phase, ...]
    seed: int

    def __post_init__(self) -> None:
        for phase in self.phases:
            if missing := sorted(phase.weights.keys() - self.sources.keys()):
                raise DataError(f"{phase.name} draws from {missing[0]}, which is no source; there is {', '.join(self.sources)}.")
        for name, rows in self.sources.items():
            if not len(rows):
                raise DataError(f"The source {name} is empty; leave it out.")

    @property
    def steps(self) -> int:
        return self.phases[-1].end or 0

    @property
    def fingerprint(self) -> str:
        texts = [f"{name} {rows.fingerprint}" for name, rows in self.sources.items()]
        return fingerprint_bytes(*texts, repr(self.phases), str(self.seed))

    def phase(self, step: int) -> Phase:
        return self.phases[self._index(step)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        index = self._index(step)
        phase, before = self.phases[index], self._drawn_before[index]
        first = (step - phase.first) * phase.batch_rows
        givers, ranks = self._mixture(index)
        chosen, epoch = [], None
        for place in share(range(first, first + phase.batch_rows), part, parts):
            name = self._names[givers[place]]
            rows, visited = self._cut(name, phase.row_length), before.get(name, 0) + int(ranks[place])
            chosen.append((rows, visit(rows, self._seed(name), visited)))
            epoch = visited // len(rows) if epoch is None else epoch
        return join(chosen, epoch=epoch or 0)

    def drawn(self, steps: int) -> tuple[Drawn, ...]:
        """What the first `steps` batches took from each source, to the token."""
        rows, tokens = dict.fromkeys(self._names, 0), dict.fromkeys(self._names, 0)
        for index, phase in enumerate(self.phases):
            done = max(0, min(steps, phase.end or 0) - phase.first) * phase.batch_rows
            counts = np.bincount(self._mixture(index)[0][:done], minlength=len(self._names)) if done else np.zeros(len(self._names), int)
            for name, count in zip(self._names, counts.tolist(), strict=True):
                cut, before = self._cut(name, phase.row_length), self._drawn_before[index].get(name, 0)
                rows[name] += count
                tokens[name] += self._tokens(name, cut, before + count) - self._tokens(name, cut, before)
        return tuple(Drawn(name, rows[name], tokens[name], tokens[name] / self.sources[name].positions) for name in self._names)

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @functools.cached_property
    def _drawn_before(self) -> list[dict[str, int]]:
        """For each phase, how many rows of its length each source gave in earlier phases: its pass goes on from there."""
        given: dict[int, dict[str, int]] = {}
        before = []
        for index, phase in enumerate(self.phases):
            counts = given.setdefault(phase.row_length, {})
            before.append(dict(counts))
            for name, count in self._shares(index).items():
                counts[name] = counts.get(name, 0) + count
        return before

    def _index(self, step: int) -> int:
        if not 0 <= step < self.steps:
            raise DataError(f"The blend has {self.steps} steps, from 0 on; there is no step {step}.")
        return next(index for index, phase in enumerate(self.phases) if step < (phase.end or 0))

    def _cut(self, name: str, row_length: int) -> PackedRows:
        rows = self.sources[name]
        return rows if rows.row_length == row_length else rows.cut(row_length)

    def _tokens(self, name: str, rows: PackedRows, end: int) -> int:
        return tokens_visited(rows, self._seed(name), end)

    def _seed(self, name: str) -> Seed:
        """A source's own order, which does not depend on what else is in the blend."""
        return self.seed, int(fingerprint_bytes(name), 16)

    def _shares(self, index: int) -> dict[str, int]:
        """Rows that each source gives in a phase: its share by tokens, the largest remainders rounded up."""
        phase = self.phases[index]
        cuts = {name: self._cut(name, phase.row_length) for name in phase.weights}
        # A short last row makes rows of small sources lighter; they give more of them.
        wanted = {name: weight * len(cuts[name]) / cuts[name].positions for name, weight in phase.weights.items()}
        total = ((phase.end or 0) - phase.first) * phase.batch_rows
        exact = {name: value / sum(wanted.values()) * total for name, value in wanted.items()}
        counts = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
        for name in by_remainder[: total - sum(counts.values())]:
            counts[name] += 1
        return counts

    def _mixture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        shares = self._shares(index)
        return spread(tuple(shares.get(name, 0) for name in self._names), (self.seed, index))
