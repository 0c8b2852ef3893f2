"""The logits of a step, and what every choice from them asks first, found for all rows together.

Row by row each of these is a wait on a GPU, and on a CPU costs more than the choice; `benchmarks/serving/choosing.py` measures both ways.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

HEAD = 256  # of the likeliest tokens, which mostly decide what the others may not be
BLOCK, FEW = 256, 64  # logits whose largest is found at once: for the first of all, and for the first few hundred
CACHED = 2**19  # logits whose probabilities stay in a CPU's cache until their largest are found
COLDEST = 1e-30  # a lower temperature gives the same, and might be 0 in fp32


class Head(NamedTuple):
    """All tokens of a row that are likelier than `edge`, on the CPU: p [n] falling, ids [n], of equals the lower id first."""

    p: Tensor
    ids: Tensor
    edge: float


class Rows:
    """`for row in Rows(logits, temperatures): sampler(row)`: logits [n, vocab] in at least fp32, and a temperature for each row."""

    def __init__(self, logits: Tensor, temperatures: Sequence[float]) -> None:
        self.logits, self.temperatures = logits, temperatures

    def __iter__(self) -> Iterator["Row"]:
        return (Row(self, index) for index in range(len(self.logits)))

    @cached_property
    def best(self) -> list[int]:
        """The first of the largest; -1 where not all logits are finite, which their sum tells in one pass at the rate of memory."""
        return torch.where(self.logits.sum(-1).isfinite(), first_largest(self.logits), -1).tolist()

    @cached_property
    def heads(self) -> dict[int, Head]:
        """Of the rows with a temperature above 0."""
        drawn = [index for index, temperature in enumerate(self.temperatures) if temperature]
        logits = self.logits if len(drawn) == len(self.logits) else self.logits[drawn]
        temperatures = self.logits.new_tensor([self.temperatures[index] for index in drawn])
        count = len(drawn) if logits.is_cuda else max(1, CACHED // logits.shape[1])
        heads = [head for piece in zip(logits.split(count), temperatures.split(count), strict=True) for head in _heads(*piece)]
        return dict(zip(drawn, heads, strict=True))


class Row(NamedTuple):
    """One row among those of its step; `Row.alone(logits [vocab], temperature)` has no company."""

    rows: Rows
    index: int

    @staticmethod
    def alone(logits: Tensor, temperature: float = 0.0) -> "Row":
        return Row(Rows(logits[None], [temperature]), 0)

    @property
    def logits(self) -> Tensor:
        return self.rows.logits[self.index]

    @property
    def finite(self) -> bool:
        return self.best >= 0

    @property
    def best(self) -> int:
        return self.rows.best[self.index]

    @property
    def head(self) -> Head:
        return self.rows.heads[self.index]


def first_largest(logits: Tensor) -> Tensor:
    """[n, vocab] -> [n]: `logits.argmax(-1)`; on a CPU by blocks, whose largest are found with vectors, five times as fast."""
    if logits.device.type != "cpu" or logits.shape[1] % BLOCK:
        return logits.argmax(-1)
    blocks = logits.unflatten(1, (-1, BLOCK))
    block = blocks.amax(-1).argmax(-1)
    return block * BLOCK + blocks[torch.arange(len(logits)), block].argmax(-1)


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[n, vocab] -> values [n, count] falling, and where they are: `rows.topk(count)`, from the blocks whose largest are largest."""
    if rows.device.type != "cpu" or rows.shape[1] % FEW or rows.shape[1] <= 2 * FEW * count:
        return rows.topk(count)  # type: ignore[return-value]
    blocks = rows.unflatten(1, (-1, FEW))
    chosen = blocks.amax(-1).topk(count, sorted=False).indices
    values, places = blocks.gather(1, chosen[:, :, None].expand(-1, -1, FEW)).flatten(1).topk(count)
    return values, chosen.gather(1, places // FEW) * FEW + places % FEW


def tempered(logits: Tensor, temperatures: Tensor) -> Tensor:
    """logits [n, vocab] -> probabilities, with a temperature for each row.

    The largest logit becomes 0, so that a temperature of 1e-30 gives -inf for the others instead of inf - inf.
    """
    return (logits - logits.amax(-1, keepdim=True)).div_(temperatures.clamp(min=COLDEST)[:, None]).softmax(-1)


def _heads(logits: Tensor, temperatures: Tensor) -> Iterable[Head]:
    p = tempered(logits, temperatures)
    values, ids = largest(p, min(HEAD + 1, p.shape[1]))
    return map(_head, values.cpu(), ids.cpu())


def _head(p: Tensor, ids: Tensor) -> Head:
    """Without those as likely as the last one, which may have equals that are not here; all of a small vocabulary."""
    edge = float(p[-1]) if len(p) > HEAD else -1.0
    ids, order = ids[p > edge].sort()
    p, order = p[: len(ids)][order].sort(descending=True, stable=True)
    return Head(p, ids[order], edge)
