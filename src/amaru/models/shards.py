"""Tensors on disk, one at a time: a directory of safetensors files, read lazily and written whole or not at all."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.families.fields import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER = 100_000_000  # bytes; safetensors itself reads no more


class ShardReader:
    """`ShardReader(directory)`: names and shapes at once, tensors one by one.

    Raises `CheckpointError` naming the file for a missing or truncated shard, a shard outside the directory, or an
    index that names a tensor its shard does not hold.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = {file: self._open(file) for file in self._shard_names()}
        self._where: dict[str, str] = {}
        for file, handle in self._files.items():
            for name in handle.keys():  # noqa: SIM118  (an open file is no dict)
                if name in self._where:
                    raise CheckpointError(f"Tensor {name} is in both {self._where[name]} and {file} of {directory}.")
                self._where[name] = file
        self._check_index()

    @property
    def names(self) -> list[str]:
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors writes it: "BF16", "I64"."""
        return self._files[self._where[name]].get_slice(name).get_dtype()

    def read(self, name: str) -> Tensor:
        return self._files[self._where[name]].get_tensor(name)

    def _shard_names(self) -> list[str]:
        if (self.directory / SINGLE).exists():
            return [SINGLE]
        if not (self.directory / INDEX).exists():
            raise CheckpointError(f"There is neither {SINGLE} nor {INDEX} in {self.directory}.")
        files = read_json(self.directory / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise CheckpointError(f"{self.directory / INDEX} has no weight_map from tensor names to files.")
        for file in set(files.values()):
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise CheckpointError(f"{INDEX} names the shard {file!r}; a shard is a *.safetensors file in the same directory.")
        self._indexed = files
        return sorted(set(files.values()))

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(str(self.directory / file), framework="pt")
        except FileNotFoundError:
            raise CheckpointError(f"{self.directory} lacks the shard {file} that {INDEX} names.") from None
        except (SafetensorError, OSError) as error:
            cut = first_cut(self.directory / file)
            reason = f"the bytes of tensor {cut!r} lie past its end" if cut else str(error)
            raise CheckpointError(f"{self.directory / file} is cut short or damaged: {reason}.") from None

    def _check_index(self) -> None:
        for name, file in getattr(self, "_indexed", {}).items():
            if self._where.get(name) != file:
                raise CheckpointError(f"{INDEX} says that {file} holds {name}, but it does not.")


def first_cut(path: Path) -> str | None:
    """The first tensor of a safetensors file whose bytes lie past the end; None when all are there or the header tells nothing.

    The format: the header's length in 8 bytes, the header as JSON, then the bytes of all tensors, which its data_offsets count from 0.
    """
    try:
        with open(path, "rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            header = json.loads(file.read(length)) if length <= LARGEST_HEADER else {}
        ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        cut = [(end, name) for name, end in ends.items() if 8 + length + end > size]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return min(cut)[1] if cut else None


def write_shards(directory: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = 4 * 2**30) -> None:
    """Write tensors as they come, never holding more than one shard; an index is written when there are several."""
    files: dict[str, str] = {}
    total = 0
    shards = list(_write_each(directory, _grouped(tensors, shard_bytes)))
    for number, (path, names, size) in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(directory / file)
        files |= dict.fromkeys(names, file)
        total += size
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _grouped(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().to("cpu").contiguous()
        size += tensor.nbytes
    yield shard


def _write_each(directory: Path, shards: Iterable[dict[str, Tensor]]) -> Iterator[tuple[Path, list[str], int]]:
    for number, shard in enumerate(shards):
        path = directory / f"writing-{number:05d}.safetensors"
        save_file(shard, str(path), metadata={"format": "pt"})
        yield path, list(shard), sum(tensor.nbytes for tensor in shard.values())


DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}
