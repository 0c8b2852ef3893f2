"""Megatron's `torch_dist` checkpoints read without Megatron: named tensors in chunks, as many ranks wrote them, put together again."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.families.fields import LARGEST_JSON
from amaru.models.formats.megatron.archive import LARGEST_PICKLE, TorchArchive
from amaru.models.formats.megatron.folder import Folder, Range
from amaru.models.formats.restricted_unpickler import STATE, Record, StoredTensor, unpickle

Box = tuple[tuple[int, int], ...]
"""From where to where, in each dimension."""


class Chunk(NamedTuple):
    """One rank's part of a tensor, and the bytes that hold it."""

    box: Box
    file: str
    start: int
    length: int


class Chunked(NamedTuple):
    """A tensor of the checkpoint: its whole shape, and its chunks."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def whole(self) -> bool:
        """Whether the chunks are as large as the tensor; that they do not overlap is seen when it is read."""
        return sum(_volume(chunk.box) for chunk in self.chunks) == math.prod(self.shape)


class TorchDist:
    """`TorchDist(Directory(path)).rows("output_layer.weight", 0, 1024)`; opening reads `.metadata` alone.

    `tensors` are all tensors by name, `objects` the names of other things (which are never read). Any number of ranks may have
    written it. Raises `CheckpointError` for a directory that is none, for metadata that contradict themselves, the sizes of
    the files or the directory, and for bytes that are not there, before anything is allocated for them.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder, self.path = folder, folder.path
        _check_backend(folder)
        metadata = _unpickled(folder)
        self.tensors: Mapping[str, Chunked]
        try:
            self.tensors, self.objects = _read(metadata)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{self.path / '.metadata'} is not the metadata of a checkpoint ({why}).") from None
        self._check_files()

    def rows(self, name: str, start: int, stop: int, layer: int | None = None) -> Tensor:
        """Some rows of a tensor, or of entry `layer` of its first dimension; nothing else is read."""
        lead: Box = () if layer is None else ((layer, layer + 1),)
        _, *columns = self.tensors[name].shape[len(lead) :]
        return self._box(name, (*lead, (start, stop), *((0, size) for size in columns))).reshape(stop - start, *columns)

    def _box(self, name: str, box: Box) -> Tensor:
        tensor = self.tensors[name]
        found = [(chunk, common) for chunk in tensor.chunks if (common := _common(chunk.box, box)) is not None]
        overlap = any(_common(one, other) is not None for (_, one), (_, other) in itertools.combinations(found, 2))
        if overlap or sum(_volume(common) for _, common in found) != _volume(box):
            raise CheckpointError(f"{self.path}: the chunks of {name} do not make up the whole of it, each place once.")
        if len(found) == 1:
            return self._part(name, *found[0])
        whole = torch.empty([stop - start for start, stop in box], dtype=tensor.dtype)
        for chunk, common in found:
            whole[_within(common, box)] = self._part(name, chunk, common)
        return whole

    def _part(self, name: str, chunk: Chunk, common: Box) -> Tensor:
        """What a chunk has of a box."""
        file = self.files[chunk.file]
        archive = TorchArchive(Range(file.path, file.start + chunk.start, chunk.length))
        stored, tensor = archive.contents, self.tensors[name]
        expected = (tensor.dtype, tuple(stop - start for start, stop in chunk.box))
        if not isinstance(stored, StoredTensor) or (stored.dtype, stored.shape) != expected:
            raise CheckpointError(f"{self.path / chunk.file} holds something else where .metadata says that {name} is.")
        if not common:
            return archive.read(stored)
        (start, _), (first, stop) = chunk.box[0], common[0]
        rows = archive.read(stored, first - start, stop - start)
        return rows[(slice(None), *_within(common, chunk.box)[1:])]

    def _check_files(self) -> None:
        chunks = sorted((chunk.file, chunk.start, chunk.length) for tensor in self.tensors.values() for chunk in tensor.chunks)
        self.files = {file: _found(self.folder, file) for file in {file for file, _, _ in chunks}}
        before, reached = "", 0
        for file, start, length in chunks:
            if start + length > (size := self.files[file].length):
                raise CheckpointError(f"{self.path / file} is cut short: .metadata knows bytes up to {start + length}, it has {size}.")
            if file == before and start < reached:
                raise CheckpointError(f"{self.path / '.metadata'} gives the same bytes of {file} to two tensors.")
            before, reached = file, start + length


def _check_backend(folder: Folder) -> None:
    file = folder.find("metadata.json")
    try:
        said = json.loads(file.bytes(LARGEST_JSON)) if file else {}
        backend = said.get("sharded_backend", "torch_dist")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder.path / 'metadata.json'} is not a JSON object: {error}.") from None
    if backend != "torch_dist":
        raise CheckpointError(f"{folder.path} is a Megatron checkpoint of kind {str(backend)[:40]!r}; amaru reads 'torch_dist'.")


def _unpickled(folder: Folder) -> Any:
    file = folder.find(".metadata")
    if file is None:
        raise CheckpointError(f"There is no .metadata in {folder.path}; a torch_dist checkpoint has one beside its *.distcp files.")
    return unpickle(file.bytes(LARGEST_PICKLE), str(folder.path / ".metadata"))


def _read(metadata: Any) -> tuple[dict[str, Chunked], tuple[str, ...]]:
    """Tensors, and names of what is none."""
    places = {(key.fields["fqn"], key.fields.get("offset")): place.fields for key, place in metadata.fields["storage_data"].items()}
    tensors: dict[str, Chunked] = {}
    objects: list[str] = []
    for name, entry in metadata.fields["state_dict_metadata"].items():
        if entry.kind.endswith(".BytesStorageMetadata"):
            objects.append(name)
            continue
        shape = _sizes(entry.fields["size"])
        chunks = tuple(_chunk(places[name, chunk.fields["offsets"]], chunk.fields) for chunk in entry.fields["chunks"])
        tensors[name] = Chunked(_dtype(entry.fields["properties"]), shape, chunks)
        _check_chunks(name, tensors[name])
    return tensors, tuple(objects)


def _chunk(place: dict[str, Any], said: dict[str, Any]) -> Chunk:
    file, offsets, sizes = place["relative_path"], _sizes(said["offsets"]), _sizes(said["sizes"])
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".distcp") or "\0" in file:
        raise CheckpointError(f".metadata names the file {str(file)[:80]!r}; chunks lie in *.distcp files of the same directory.")
    if place.get("transform_descriptors"):
        raise CheckpointError(f"{file} is compressed ({str(place['transform_descriptors'])[:40]}), which amaru does not read.")
    start, length = _sizes((place["offset"], place["length"]))
    return Chunk(tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)), file, start, length)


def _check_chunks(name: str, tensor: Chunked) -> None:
    for chunk in tensor.chunks:
        if any(stop > size for (_, stop), size in zip(chunk.box, tensor.shape, strict=True)):
            raise CheckpointError(f".metadata puts a chunk of {name[:80]} outside its shape {list(tensor.shape)}.")
        if _volume(chunk.box) * tensor.dtype.itemsize > chunk.length:
            raise CheckpointError(f".metadata keeps {chunk.length} bytes for a chunk of {name[:80]}, which are too few.")


def _dtype(properties: Record) -> torch.dtype:
    state = properties.fields.get(STATE)
    dtype = state[0] if state else properties.fields["dtype"]
    if not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor without dtype")
    return dtype


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise TypeError(f"{str(numbers)[:40]} where sizes are expected")
    return numbers


def _found(folder: Folder, name: str) -> Range:
    file = folder.find(name)
    if file is None:
        raise CheckpointError(f"{folder.path} lacks the file {name} that .metadata names.")
    return file


def _common(one: Box, other: Box) -> Box | None:
    """Where two boxes overlap; None where they do not."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _within(inner: Box, outer: Box) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(inner, outer, strict=True))


def _volume(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)
