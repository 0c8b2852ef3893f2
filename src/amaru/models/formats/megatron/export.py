"""Megatron checkpoints written from any source: as many chunks as ranks would write, one tensor in memory at a time."""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaru.axes import shard, size
from amaru.config.atomic import atomic_directory
from amaru.errors import CheckpointError
from amaru.models.checkpoint import kept
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_for
from amaru.models.formats.megatron.arguments import write_arguments
from amaru.models.formats.megatron.checkpoint import TRACKER
from amaru.models.formats.megatron.gather import Readable, gather
from amaru.models.formats.megatron.layouts import Packed, engine_objects, packed_tensors
from amaru.models.formats.megatron.supported import scheme_of
from amaru.models.formats.megatron.torch_dist_writer import Piece, write_torch_dist
from amaru.models.source import Source

DEFAULT_EPS = 1e-5  # of Megatron-LM's norms


def export(source: Source, path: str | Path, *, ranks: int = 1, dtype: torch.dtype | None = None) -> None:
    """`export(Checkpoint("student"), "megatron", ranks=8)`: `latest_checkpointed_iteration.txt` and `iter_0000000/` under `path`.

    Tensors are cut as `ranks` tensor-parallel ranks hold them; any other number of ranks reads them too. `dtype` None keeps
    what each tensor is stored in; A_log, D and dt_bias stay in at least fp32 otherwise. A config.json of ours lies beside them,
    so that what Megatron's arguments cannot say comes back. The directory appears whole or not at all; only a checkpoint is
    replaced. Raises `CheckpointError` for a model that no Megatron model computes, `ConfigError` when `ranks` does not divide it.
    """
    path = Path(path)
    refuse_to_replace(path, TRACKER)
    check_ranks(source.config, ranks)
    with atomic_directory(path) as directory:
        iteration = directory / "iter_0000000"
        iteration.mkdir()
        write_iteration(source, iteration, ranks, dtype, prefix="")
        (directory / TRACKER).write_text("0", encoding="ascii")


def remarks(config: DecoderConfig) -> Iterator[str]:
    """What to know when Megatron-LM loads the checkpoint."""
    if config.norm_eps != DEFAULT_EPS:
        yield f"Megatron-LM does not take the epsilon of norms from a checkpoint; start it with --norm-epsilon {config.norm_eps}"


def write_iteration(source: Source, directory: Path, ranks: int, dtype: torch.dtype | None, prefix: str) -> None:
    """The tensors, and what readers want to know of them; names begin with `prefix`."""
    config = source.config
    scheme = scheme_of(config)
    stored = dtype or source.dtype("embedding.weight")
    values = family_for(config).write_config(config) | {"dtype": str(stored).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    ours = _Ours(source, dtype)
    pieces = (
        piece._replace(name=prefix + piece.name)
        for packed in packed_tensors(config, scheme)
        for part in packed.theirs
        for piece in _pieces(ours, packed, part, ranks)
    )
    common: dict[str, Any] = {"checkpoint_version": 3.0, "iteration": 0, "content_metadata": {}}
    common["args"] = argparse.Namespace(**write_arguments(config, stored, ranks))
    write_torch_dist(directory, pieces, [prefix + name for name in engine_objects(config, scheme)], common)


def refuse_to_replace(path: Path, mark: str) -> None:
    """An empty place or a checkpoint may be written over, anything else not."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / mark).exists()):
        raise CheckpointError(f"{path} exists and is no Megatron checkpoint, so it is not replaced; choose another place.")


def check_ranks(config: DecoderConfig, ranks: int) -> None:
    """Raises `ConfigError` when a divided axis has no multiple of `ranks`, before anything is written."""
    if ranks < 1:
        raise CheckpointError(f"A checkpoint is written by at least one rank; got {ranks}.")
    for packed in packed_tensors(config, scheme_of(config)):
        shard(packed.axes[packed.sharded], 0, ranks)


class _Ours:
    """Our tensors as they are to be stored; of a source that can read some rows, only those are read."""

    def __init__(self, source: Source, dtype: torch.dtype | None) -> None:
        self.source, self.dtype, self.specs = source, dtype, source.config.tensors()

    def gathered(self, packed: Packed, rows: np.ndarray) -> Tensor:
        """Some rows of the tensors of a packing, one after the other."""
        tensor = gather([self._readable(name) for name in packed.ours.values()], rows)
        spec, _ = self.specs[next(iter(packed.ours.values()))]
        return tensor if self.dtype is None else tensor.to(kept(spec, self.dtype))

    def _readable(self, name: str) -> Readable:
        spec, axes = self.specs[name]
        rows = getattr(self.source, "rows", self._whole)
        return Readable(spec.layout.shape(axes)[0], partial(rows, name))

    def _whole(self, name: str, start: int, stop: int) -> Tensor:
        return self.source.read(name)[start:stop]


def _pieces(ours: _Ours, packed: Packed, part: str, ranks: int) -> Iterator[Piece]:
    """One tensor of theirs, cut along the dimension that tensor parallelism divides."""
    place, dimension, rows = packed.theirs[part], packed.sharded_dimension(part), packed.for_theirs(part)
    shape = (*place.lead, *(size(each, packed.axes) for each in packed.theirs_dimensions(part)))
    lead = () if place.layer is None else (place.layer,)

    def piece(tensor: Tensor, *offset: int) -> Piece:
        whole = (*lead, *offset, *(0,) * (tensor.ndim - len(offset)))
        return Piece(place.name, shape, whole, tensor.reshape(*(1,) * len(lead), *tensor.shape))

    if dimension == 0:
        width = len(rows) // ranks
        for start in range(0, len(rows), width):
            yield piece(ours.gathered(packed, rows[start : start + width]), start)
        return
    whole = ours.gathered(packed, rows)
    if dimension is None:
        yield piece(whole)
        return
    width = whole.shape[1] // ranks
    for start in range(0, whole.shape[1], width):
        yield piece(whole[:, start : start + width], 0, start)
