"""One shape that a student may have: which layers of the parent stay, and how wide everything is."""

import json
from collections import Counter

from amaru.compress.budget import Cost
from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.models.decoder import DecoderConfig


class Candidate(Config):
    """`Candidate(layers=(0, 1, 3), config=student_config, parameters=..., memory=...)`.

    layers       kept layers by their index in the parent, ascending
    config       the student's whole shape; layer i of it is layer `layers[i]` of the parent, narrowed
    parameters   of the student
    memory       bytes under the budget's workload
    prefill, decode, throughput, batch    what is predicted, where the budget asks for it (`Cost` tells what they are)
    """

    layers: tuple[int, ...]
    config: DecoderConfig
    parameters: int
    memory: int
    prefill: float | None = None
    decode: float | None = None
    throughput: float | None = None
    batch: int | None = None

    @property
    def key(self) -> str:
        """A short hash of the shape: equal for equal students of one parent."""
        return fingerprint_bytes(json.dumps([self.layers, to_dict(self.config)], sort_keys=True))

    @property
    def shape(self) -> dict[str, float]:
        """Layers of each kind, hidden, and every width that a cut may narrow (heads are counted per group): its mean over layers."""
        sizes: dict[str, list[int]] = {}
        for layer in self.config.layers:
            for name, axis in layer.axes().items():
                if name in layer.probes:
                    sizes.setdefault(name, []).append(axis.size)
        counts = Counter(layer.kind for layer in self.config.layers)
        return counts | {"hidden": self.config.hidden} | {name: sum(found) / len(found) for name, found in sizes.items()}

    def describe(self) -> str:
        """`10 layers (5M 1* 4-), hidden 160, 12 heads x 32, 2 groups, state 32, ffn 512`; of several widths also in how many layers."""
        letters = Counter(layer.letter for layer in self.config.layers)
        widths = Counter((layer.letter, layer.describe()) for layer in self.config.layers if layer.probes)
        several = {letter for letter, count in Counter(letter for letter, _ in widths).items() if count > 1}
        told = [f"{text} in {count}{letter}" if letter in several else text for (letter, text), count in widths.items()]
        counts = " ".join(f"{count}{letter}" for letter, count in letters.items())
        return ", ".join([f"{len(self.layers)} layers ({counts})", f"hidden {self.config.hidden}", *told])


def candidate(layers: tuple[int, ...], config: DecoderConfig, cost: Cost) -> Candidate:
    """A candidate of one cost."""
    times = {name: None if value is None else float(value) for name, value in zip(Cost._fields[2:5], cost[2:5], strict=True)}
    parameters, memory = round(float(cost.parameters)), round(float(cost.memory))
    batch = None if cost.batch is None else int(cost.batch)
    return Candidate(layers=layers, config=config, parameters=parameters, memory=memory, **times, batch=batch)
