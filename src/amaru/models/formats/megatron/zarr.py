"""The older distributed checkpoints of Megatron, one zarr array (version 2, uncompressed) per tensor, read: Nemotron-4 340B is one."""

import itertools
import json
import math
from typing import Any

import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.families.fields import LARGEST_JSON
from amaru.models.formats.megatron.chunked import Box, Chunk, Chunked, ChunkedTensors, within
from amaru.models.formats.megatron.folder import Folder, Range

ARRAY = ".zarray"
DTYPES = {"bfloat16": torch.bfloat16, "<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}
MOST_CHUNKS = 1_000_000  # of one array


class Zarr(ChunkedTensors):
    """`Zarr(folder).rows("decoder.final_layernorm.weight", 0, 8)`; opening reads the description of every array.

    Raises `CheckpointError` naming the array for a description that is none, is of a compressed array, or that its chunks contradict.
    """

    def __init__(self, folder: Folder) -> None:
        self.path, self._folder = folder.path, folder
        self._grids: dict[str, tuple[int, ...]] = {}
        self._files: dict[tuple[str, Box], Range] = {}
        self.tensors = {name: self._described(name) for name in folder.with_file(ARRAY)}

    def part(self, name: str, chunk: Chunk, wanted: Box) -> Tensor:
        file, (rows, *columns), dtype = self._files[name, chunk.box], self._grids[name], self.tensors[name].dtype
        (begin, _), (start, stop) = chunk.box[0], wanted[0]
        tensor = torch.empty((stop - start, *columns), dtype=dtype)
        with open(file.path, "rb") as stream:
            stream.seek(file.start + (start - begin) * math.prod(columns) * dtype.itemsize)
            if stream.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != tensor.nbytes:
                raise CheckpointError(f"{self.path}: a chunk of {name} ends inside its {rows} rows.")
        return tensor[(slice(None), *within(wanted, chunk.box)[1:])]

    def _described(self, name: str) -> Chunked:
        shape, grid, dtype = self._array(name)
        counts = [-(-size // step) for size, step in zip(shape, grid, strict=True)]
        if math.prod(counts) > MOST_CHUNKS:
            raise CheckpointError(f"{self.path}: {name[:80]} would have {math.prod(counts):,} chunks; at most {MOST_CHUNKS:,} are read.")
        self._grids[name] = grid
        inside, length = self._folder.inside(name), math.prod(grid) * dtype.itemsize
        chunks = []
        for place in itertools.product(*map(range, counts)):
            file = ".".join(map(str, place))
            box = tuple((at * step, min((at + 1) * step, size)) for at, step, size in zip(place, grid, shape, strict=True))
            found = inside.find(file)
            if found is None or found.length != length:
                raise CheckpointError(f"{self.path}: the chunk {file} of {name[:80]} is missing or has not {length} bytes.")
            self._files[name, box] = found
            chunks.append(Chunk(box, f"{name}/{file}", 0, length))
        return Chunked(dtype, shape, tuple(chunks))

    def _array(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
        """Shape, shape of a chunk, and dtype."""
        file = self._folder.inside(name).find(ARRAY)
        assert file is not None, name
        try:
            said = json.loads(file.bytes(LARGEST_JSON))
            shape, grid = _sizes(said["shape"]), _sizes(said["chunks"])
            plain = (said["compressor"], said["filters"], said["order"], said.get("dimension_separator", ".")) == (None, None, "C", ".")
            dtype = DTYPES.get(said["dtype"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: {name[:80]} has no description of a zarr array ({type(error).__name__}).") from None
        if not plain or dtype is None or len(shape) != len(grid) or not shape or 0 in grid:
            raise CheckpointError(f"{self.path}: {name[:80]} is no plain array of {', '.join(DTYPES)}, which is what amaru reads in zarr.")
        return shape, grid, dtype


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers) or len(numbers) > 16:
        raise TypeError("sizes are expected")
    return tuple(numbers)
