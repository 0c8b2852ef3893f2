"""How long layers take on one machine: a table of measured times, and what it predicts for stacks that were never measured."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from amaru.config import Artifact, Config, fingerprint_bytes, from_dict, to_dict
from amaru.errors import ArtifactError, ConfigError
from amaru.models.decoder import AnyLayer, DecoderConfig
from amaru.nn.layer import LayerConfig

SCHEMA = 1
Pair = tuple[int, LayerConfig]


class Circumstances(Config):
    """What a time depends on besides the layer: another value of any of these is another table.

    device, threads, versions   where and by what it was measured; dtype: of weights and activations
    context, batches            of a decode step; prompt: tokens of a prefill
    rest                        the model without its layers (vocabulary, norm), which is the fixed cost
    """

    device: str
    threads: int
    versions: dict[str, str]
    dtype: str
    context: int
    batches: tuple[int, ...]
    prompt: int
    rest: dict[str, Any]

    @property
    def key(self) -> str:
        return fingerprint_bytes(json.dumps(to_dict(self), sort_keys=True))

    def describe(self) -> str:
        batches = ", ".join(map(str, self.batches))
        return f"{self.device}, {self.threads} threads, {self.dtype}, prompts of {self.prompt}, steps of {batches} x 1 at {self.context}"


class Point(Config):
    """One layer at one hidden size, from stacks of `blocks` and twice as many.

    prefill, decode   seconds that one such layer adds to a prompt, and to a step of each batch; as measured, also below zero
    fixed             the same of everything that is not such a layer: twice the smaller stack less the larger
    spread            between the quartiles of the repetitions, as a share of the larger stack's time
    """

    hidden: int
    layer: AnyLayer
    blocks: int
    prefill: float
    decode: tuple[float, ...]
    fixed_prefill: float
    fixed_decode: tuple[float, ...]
    spread: float

    @property
    def seconds(self) -> np.ndarray:
        return np.array([self.prefill, *self.decode])

    @property
    def fixed(self) -> np.ndarray:
        return np.array([self.fixed_prefill, *self.fixed_decode])


@dataclass(frozen=True)
class LatencyTable:
    """`LatencyTable.load("latency.safetensors").prefill(config)`: the sum of its layers' times and of the fixed cost, in seconds.

    Between measured widths (hidden among them) a time is interpolated along every width, which is exact for what the bytes and
    FLOPs of a layer are made of: products of widths, each to the first power. Outside of what was measured nothing is said.
    """

    circumstances: Circumstances
    points: tuple[Point, ...] = ()
    _known: dict[Pair, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def prefill(self, config: DecoderConfig) -> tuple[float, ...]:
        return (self._total(config)[0],)

    def decode(self, config: DecoderConfig, batch: int) -> tuple[float, ...]:
        if batch not in self.circumstances.batches:
            raise ConfigError(f"The latency table has steps of {list(self.circumstances.batches)} sequences, not of {batch}.")
        return (self._total(config)[1 + self.circumstances.batches.index(batch)],)

    def _total(self, config: DecoderConfig) -> np.ndarray:
        return self.fixed(config.hidden) + sum(self.layer(config.hidden, layer) for layer in config.layers)

    def layer(self, hidden: int, layer: LayerConfig) -> np.ndarray:
        """Seconds that one layer adds: [prefill, a step of each batch]."""
        if (hidden, layer) not in self._known:
            family = {_place(point.hidden, point.layer): point.seconds for point in self.points if alike(point.layer, layer)}
            self._known[hidden, layer] = _between(family, _place(hidden, layer), layer.describe())
        return self._known[hidden, layer]

    def fixed(self, hidden: int) -> np.ndarray:
        """Seconds of all but the layers; of each measured hidden size the median over its points.

        A point of a layer that needs another has that one in its fixed time, and does not count.
        """
        points = [point for point in self.points if not point.layer.needs]
        sizes = {point.hidden for point in points}
        found = {(size,): np.median([point.fixed for point in points if point.hidden == size], axis=0) for size in sizes}
        return _between(found, (hidden,), "the network without layers")

    def measured(self, hidden: int, layer: LayerConfig) -> bool:
        """Whether this very layer was measured, so that nothing is interpolated."""
        return any((point.hidden, point.layer) == (hidden, layer) for point in self.points)

    def with_point(self, point: Point) -> "LatencyTable":
        return replace(self, points=(*self.points, point), _known={})

    def negative(self) -> list[Point]:
        """Points where a layer seems to take less than nothing: noise larger than the layer. They are summed as they are."""
        return [point for point in self.points if point.seconds.min() < 0]

    def describe(self) -> str:
        return f"measured: {self.circumstances.describe()}; {len(self.points)} kinds of block"

    def save(self, path: str | Path) -> None:
        content = {"circumstances": to_dict(self.circumstances), "points": [to_dict(point) for point in self.points]}
        Artifact(kind="latency", schema=SCHEMA, made_from={"circumstances": self.circumstances.key}, content=content).save(path)

    @classmethod
    def load(cls, path: str | Path, circumstances: Circumstances | None = None) -> "LatencyTable":
        """Read a table; raises `ArtifactError` unless it was measured under `circumstances` where they are given."""
        artifact = Artifact.load(path, kind="latency", schema=SCHEMA)
        if circumstances is not None and artifact.made_from.get("circumstances") != circumstances.key:
            then = from_dict(Circumstances, artifact.content["circumstances"])
            raise ArtifactError(
                f"{path} was measured under other circumstances ({then.describe()}; now {circumstances.describe()}); name another file."
            )
        try:
            points = tuple(from_dict(Point, values) for values in artifact.content["points"])
            return cls(from_dict(Circumstances, artifact.content["circumstances"]), points)
        except (KeyError, TypeError, ConfigError) as error:
            raise ArtifactError(f"{path} lacks a part of the table ({error}); delete it and run the same command again.") from None


def grid(pairs: Iterable[Pair], steps: int = 3) -> list[Pair]:
    """`grid(space.pairs(config, space))`: which layers to measure so that every one of `pairs` lies between measured ones.

    Of each width, hidden among them, its least, its largest and, with 3 steps, the middle one.
    """
    chosen: list[Pair] = []
    families: list[list[Pair]] = []
    for pair in pairs:
        same = next((family for family in families if alike(family[0][1], pair[1])), None)
        if same is None:
            families.append([pair])
        else:
            same.append(pair)
    for family in families:
        places = np.array([_place(*pair) for pair in family])
        values = [_picked(np.unique(column), steps) for column in places.T]
        layer = family[0][1]
        for hidden, *sizes in itertools.product(*values):
            named = dict(zip(layer.axes(), sizes, strict=True))
            chosen.append((hidden, layer.resized(named)))
    return chosen


def alike(one: LayerConfig, other: LayerConfig) -> bool:
    """Whether two layers differ in widths only."""
    return type(one) is type(other) and one.resized(_sizes(other)) == other


def _sizes(layer: LayerConfig) -> dict[str, int]:
    return {name: axis.size for name, axis in layer.axes().items()}


def _place(hidden: int, layer: LayerConfig) -> tuple[int, ...]:
    return hidden, *_sizes(layer).values()


def _picked(values: np.ndarray, steps: int) -> list[int]:
    """Of ascending sizes the ends and, evenly between them by size, the nearest others."""
    wanted = np.linspace(values[0], values[-1], max(2, min(steps, len(values))))
    return sorted({int(values[np.abs(values - size).argmin()]) for size in wanted})


def _between(known: dict[tuple[int, ...], np.ndarray], place: Sequence[int], what: str) -> np.ndarray:
    """The value at a place from those at the corners of the box around it, along straight lines in every direction."""
    ends = []
    for axis, wanted in enumerate(place):
        values = sorted({corner[axis] for corner in known})
        low, high = [v for v in values if v <= wanted][-1:], [v for v in values if v >= wanted][:1]
        if not low or not high:
            raise ConfigError(f"The latency table does not reach to {what} at hidden {place[0]}; measure a wider grid.")
        share = 0.0 if low == high else (wanted - low[0]) / (high[0] - low[0])
        ends.append([(low[0], 1 - share), (high[0], share)] if share else [(low[0], 1.0)])
    total = 0.0
    for corner in itertools.product(*ends):
        at = tuple(size for size, _ in corner)
        if at not in known:
            raise ConfigError(f"The latency table has no point near {what} at hidden {place[0]}; measure a wider grid.")
        total = total + math.prod(share for _, share in corner) * known[at]
    return np.asarray(total)
