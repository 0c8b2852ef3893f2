"""Megatron's `torch_dist` checkpoints read without Megatron: named tensors in chunks, as many ranks wrote them, put together again."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.formats.megatron.archive import TorchArchive
from amaru.models.formats.megatron.chunked import Box, Chunk, Chunked, ChunkedTensors, volume, within
from amaru.models.formats.megatron.folder import Folder, Range
from amaru.models.formats.restricted_unpickler import STATE, Record, StoredTensor, unpickle

LARGEST_METADATA = 2**30  # bytes; of thousands of ranks with their optimizers they are tens of millions


class TorchDist(ChunkedTensors):
    """`TorchDist(Directory(path)).rows("output_layer.weight", 0, 1024)`; opening reads `.metadata` alone.

    `tensors` are all tensors by name, `objects` the names of other things (which are never read). Any number of ranks may have
    written it. Raises `CheckpointError` for a directory that is none, for metadata that contradict themselves, the sizes of
    the files or the directory, and for bytes that are not there, before anything is allocated for them.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder, self.path = folder, folder.path
        metadata = _unpickled(folder)
        try:
            self.tensors, self.objects = _read(metadata)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{self.path / '.metadata'} is not the metadata of a checkpoint ({why}).") from None
        self._check_files()

    def part(self, name: str, chunk: Chunk, wanted: Box) -> Tensor:
        file = self.files[chunk.file]
        archive = TorchArchive(Range(file.path, file.start + chunk.start, chunk.length))
        stored, tensor = archive.contents, self.tensors[name]
        expected = (tensor.dtype, tuple(stop - start for start, stop in chunk.box))
        if not isinstance(stored, StoredTensor) or (stored.dtype, stored.shape) != expected:
            raise CheckpointError(f"{self.path / chunk.file} holds something else where .metadata says that {name} is.")
        if not wanted:
            return archive.read(stored)
        (start, _), (first, stop) = chunk.box[0], wanted[0]
        rows = archive.read(stored, first - start, stop - start)
        return rows[(slice(None), *within(wanted, chunk.box)[1:])]

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


def _unpickled(folder: Folder) -> Any:
    file = folder.find(".metadata")
    if file is None:
        raise CheckpointError(f"There is no .metadata in {folder.path}; a torch_dist checkpoint has one beside its *.distcp files.")
    return unpickle(file.bytes(LARGEST_METADATA), str(folder.path / ".metadata"))


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
        if volume(chunk.box) * tensor.dtype.itemsize > chunk.length:
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
