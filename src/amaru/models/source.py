"""What every readable format offers: a config, and tensors under our names that are read one at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from amaru.models.decoder import DecoderConfig

PIECE = 2**23  # elements: small against a layer, large against what one read costs


class Source(Protocol):
    """A checkpoint of any format, opened: nothing but sizes is known until `read`.

    Names, shapes and layout are those of `config.tensors()`; dtypes are the stored ones. A source that can read some of a
    tensor's first dimension also has `rows(name, start, stop)`, and one whose format cannot hold every value exactly has
    `rounding(name, tensor)`, by how much at most `tensor` comes back changed.
    """

    path: Path
    config: DecoderConfig

    @property
    def names(self) -> list[str]: ...
    def dtype(self, name: str) -> torch.dtype: ...
    def read(self, name: str) -> Tensor: ...


def shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """By name; of what the config does not know, which a stock model may have, that of the tensor itself."""
    known = source.config.tensors()
    return {name: known[name][0].layout.shape(known[name][1]) if name in known else tuple(source.read(name).shape) for name in source.names}


def pieces(source: Source, name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """A tensor in pieces of its first dimension, no larger than `PIECE` elements or one row."""
    rows, count = max(1, PIECE // max(1, torch.Size(shape[1:]).numel())), shape[0]
    read = getattr(source, "rows", None)
    whole = None if read else source.read(name)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        yield read(name, start, stop) if whole is None else whole[start:stop]  # type: ignore[misc]


def gathered(source: Source, name: str, rows: Tensor) -> Tensor:
    """[len(rows), ...]: some rows of a tensor, in this order."""
    read = getattr(source, "rows", None)
    if read is None:
        return source.read(name)[rows]
    distinct, where = rows.unique(return_inverse=True)
    return torch.cat([read(name, row, row + 1) for row in distinct.tolist()])[where]
