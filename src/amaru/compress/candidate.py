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
    def shape(self) -> dict[str, int]:
        """Layers of each kind, hidden, and every width that a cut may narrow (heads are counted per group)."""
        shape = dict(Counter(layer.kind for layer in self.config.layers)) | {"hidden": self.config.hidden}
        for layer in dict.fromkeys(self.config.layers):
            shape |= {name: axis.size for name, axis in layer.axes().items() if name in layer.probes}
        return shape

    def describe(self) -> str:
        """`10 layers (5M 1* 4-), hidden 160, 12 heads x 32, 2 groups, state 32, ffn 512`."""
        letters = Counter(layer.letter for layer in self.config.layers)
        widths = dict.fromkeys(layer.describe() for layer in self.config.layers if layer.probes)
        counts = " ".join(f"{count}{letter}" for letter, count in letters.items())
        return ", ".join([f"{len(self.layers)} layers ({counts})", f"hidden {self.config.hidden}", *widths])


def candidate(layers: tuple[int, ...], config: DecoderConfig, cost: Cost) -> Candidate:
    """A candidate of one cost."""
    times = {name: None if value is None else float(value) for name, value in zip(Cost._fields[2:5], cost[2:5], strict=True)}
    batch = None if cost.batch is None else int(cost.batch)
    return Candidate(layers=layers, config=config, parameters=round(cost.parameters), memory=round(cost.memory), **times, batch=batch)
