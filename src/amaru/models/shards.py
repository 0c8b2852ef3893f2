"""The safetensors files of one checkpoint directory: which tensor is in which, and how they are cut into shards."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.families.fields import read_json
from amaru.models.tensor_file import Entry, TensorFile, shown, write_tensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 5_000_000_000  # as transformers cuts them


class ShardReader:
    """`ShardReader(directory)`: every tensor's dtype and shape at once, its values when they are asked for.

    Raises `CheckpointError` naming the file for a shard that is missing, damaged or outside the directory, and for an
    index that does not say what the shards hold.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        indexed = None if (directory / SINGLE).exists() else _indexed(directory)
        self.entries: dict[str, Entry] = {}
        self._files: dict[str, TensorFile] = {}
        for file in sorted(set(indexed.values())) if indexed is not None else [SINGLE]:
            self._add(TensorFile(directory / file))
        if indexed is not None:
            self._check_index(indexed)

    def read(self, name: str) -> Tensor:
        return self._files[name].read(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some of a tensor's first dimension, nothing else being read."""
        return self._files[name].rows(name, start, stop)

    def _add(self, file: TensorFile) -> None:
        for name in file.entries:
            if name in self._files:
                both = f"{self._files[name].path.name} and {file.path.name}"
                raise CheckpointError(f"Tensor {shown(name)} is in both {both} of {self.directory}.")
            self._files[name] = file
        self.entries |= file.entries

    def _check_index(self, indexed: dict[str, str]) -> None:
        for name, file in indexed.items():
            if name not in self._files or self._files[name].path.name != file:
                raise CheckpointError(f"{self.directory / INDEX} says that {file} holds {shown(name)}, but it does not.")
        for name, file in self._files.items():
            if name not in indexed:
                raise CheckpointError(f"{file.path} holds {shown(name)}, which {INDEX} does not name.")


def _indexed(directory: Path) -> dict[str, str]:
    """Which shard holds which tensor, as the index says."""
    if not (directory / INDEX).exists():
        raise CheckpointError(f"There is neither {SINGLE} nor {INDEX} in {directory}.")
    files = read_json(directory / INDEX).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{directory / INDEX} has no weight_map from tensor names to files.")
    for file in sorted(set(files.values())):
        if Path(file).name != file or not file.endswith(".safetensors") or "\0" in file or len(file) > 255:
            raise CheckpointError(f"{INDEX} names the shard {shown(file)}; a shard is a *.safetensors file in the same directory.")
        if not (directory / file).is_file():
            raise CheckpointError(f"{directory} lacks the shard {shown(file)} that {INDEX} names.")
    return files


def write_shards(directory: Path, plan: Sequence[Entry], tensors: Iterable[Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Write the tensors of `plan`, in its order, as they come; one is held at a time.

    A shard is at most `shard_bytes` large, or one tensor; an index is written when there are several.
    """
    shards = list(_grouped(plan, shard_bytes))
    last = len(shards)
    names = [f"model-{number:05d}-of-{last:05d}.safetensors" if last > 1 else SINGLE for number in range(1, last + 1)]
    coming = iter(tensors)
    for file, shard in zip(names, shards, strict=True):
        write_tensors(directory / file, shard, (next(coming) for _ in shard))
    assert next(coming, None) is None, "more tensors came than were planned"
    if len(shards) > 1:
        where = {entry.name: file for file, shard in zip(names, shards, strict=True) for entry in shard}
        index = {"metadata": {"total_size": sum(entry.nbytes for entry in plan)}, "weight_map": dict(sorted(where.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _grouped(plan: Sequence[Entry], shard_bytes: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    size = 0
    for entry in plan:
        if shard and size + entry.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.nbytes
    yield shard
