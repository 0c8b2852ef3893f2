"""Calibration texts on their way through a model, all of them through one layer before any goes through the next."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amaru.errors import DataError
from amaru.models.decoder import Decoder, DecoderConfig, ResidualLayer
from amaru.nn.attention import KV, Packed
from amaru.nn.batch import Batch

Progress = Callable[[str], None]
HELD = 2**30  # bytes of hidden states of one group of texts
PART = ".keys", ".values"


@dataclass(frozen=True, eq=False)
class Stream:
    """The residual stream of a text between two layers, and the keys and values that later layers may share."""

    x: Tensor
    kv: KV | None = None

    def through(self, layer: ResidualLayer, batch: Batch) -> "Stream":
        return Stream(*layer(self.x, batch, None, self.kv))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """For a file; `read_stream` reads it again."""
        shared = {} if self.kv is None else {f"{name}{part}": tensor for part, tensor in zip(PART, self.kv[:2], strict=True)}
        return {name: self.x, **shared}


def read_stream(tensors: dict[str, Tensor], name: str) -> Stream:
    keys, values = (tensors.get(f"{name}{part}") for part in PART)
    return Stream(tensors[name], None if keys is None or values is None else Packed(keys, values))


@dataclass(frozen=True, eq=False)
class Text:
    """One sample before the first layer: its batch as layers see it, which tokens are its own, and where it stands among all samples."""

    number: int
    batch: Batch
    real: Tensor | None
    start: Stream

    @classmethod
    def of(cls, decoder: Decoder, number: int, sample: Batch) -> "Text":
        x, batch, real = decoder.begin(sample)
        return cls(number, batch, real, Stream(x))

    def own(self, x: Tensor) -> Tensor:
        """Without meta tokens."""
        return x if self.real is None else x[self.real]


def groups(config: DecoderConfig, samples: Sequence[Batch], streams: int, itemsize: int, held: int) -> Iterator[list[tuple[int, Batch]]]:
    """Numbered samples in groups whose `streams` hidden states each fit into `held` bytes together (one sample at least).

    Raises `DataError` when there is none, or one without tokens.
    """
    if not samples:
        raise DataError("Importance needs at least one sample of calibration text; there was none.")
    group: list[tuple[int, Batch]] = []
    size = 0
    for number, sample in enumerate(samples, 1):
        if not len(sample.ids):
            raise DataError(f"Calibration sample {number} has no tokens.")
        needed = streams * config.hidden * itemsize * (len(sample.ids) + config.meta_tokens * len(sample.lengths))
        if group and size + needed > held:
            yield group
            group, size = [], 0
        group.append((number, sample))
        size += needed
    yield group


def itemsize(decoder: Decoder) -> int:
    """Bytes of one hidden state."""
    dtype = decoder.compute_dtype or decoder.norm.weight.dtype
    return torch.empty(0, dtype=dtype).element_size()
