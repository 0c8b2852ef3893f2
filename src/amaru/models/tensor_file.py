"""One safetensors file: a header that is checked before it is believed, and tensors that are read and written one by one.

The format: the header's length in 8 bytes, the header as JSON, then the bytes of all tensors, without gaps and to the end.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amaru.errors import CheckpointError

LARGEST_HEADER = 100_000_000  # bytes; safetensors itself reads no more
LARGEST_NUMBER = 2**63 - 1  # of a file's offsets

# Bits of one element by the name of its dtype, in the order in which safetensors ranks them when it lays a file out.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
RANK = {name: rank for rank, name in enumerate(BITS)}

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class Entry(NamedTuple):
    """What a header says of one tensor: `Entry("norm.weight", "BF16", (4096,))`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Entry":
        return cls(name, NAMES[tensor.dtype], tuple(tensor.shape))

    @property
    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)


class TensorFile:
    """`TensorFile(path).read("norm.weight")`; opening reads the header alone, and each read only what it was asked for.

    Tensors are read, not mapped: pages of a mapped file would count as memory of this process.
    Raises `CheckpointError` naming the file, and the tensor where there is one, for a header that is no header, contradicts
    itself, or does not fit the size of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path} is no file." if path.exists() else f"There is no file {path}.")
        self.entries: dict[str, Entry] = {}
        self._starts: dict[str, int] = {}
        try:
            self._read_header()
        except (_Damaged, ValueError, RecursionError, OSError) as error:
            raise CheckpointError(f"{path} is cut short or damaged: {error}.") from None

    def read(self, name: str) -> Tensor:
        """The whole tensor in its stored dtype."""
        entry = self.entries[name]
        return self._read(entry, self._starts[name], entry.shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """[stop - start, ...]: some of a tensor's first dimension, nothing else being read."""
        entry = self.entries[name]
        row_bytes = entry.nbytes // max(1, entry.shape[0])
        return self._read(entry, self._starts[name] + start * row_bytes, (stop - start, *entry.shape[1:]))

    def _read(self, entry: Entry, offset: int, shape: tuple[int, ...]) -> Tensor:
        if entry.dtype not in TORCH_DTYPES:
            raise CheckpointError(f"{self.path}: {entry.name} is stored as {entry.dtype}, which amaru does not read.")
        tensor = torch.empty(shape, dtype=TORCH_DTYPES[entry.dtype])
        if not tensor.numel():
            return tensor
        with open(self.path, "rb") as file:
            file.seek(offset)
            if file.readinto(_bytes(tensor)) != tensor.nbytes:
                raise CheckpointError(f"{self.path} ended inside {entry.name}: it became shorter after it was opened.")
        return tensor

    def _read_header(self) -> None:
        with open(self.path, "rb") as file:
            size, length = self.path.stat().st_size, int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise _Damaged(f"its {size} bytes cannot begin with a header of {length} (at most {LARGEST_HEADER} are read)")
            header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repetition)
        if not isinstance(header, dict):
            raise _Damaged(f"its header is a {type(header).__name__}, not a JSON object")
        header.pop("__metadata__", None)
        spans = {name: _span(name, said) for name, said in header.items()}
        _check_spans(spans, size - 8 - length)
        self.entries = {name: entry for name, (entry, _, _) in spans.items()}
        self._starts = {name: 8 + length + start for name, (_, start, _) in spans.items()}


def write_tensors(path: Path, plan: Sequence[Entry], tensors: Iterable[Tensor]) -> None:
    """Write the tensors of `plan`, in its order, as they come; one is held at a time.

    The bytes are those of safetensors' own `save_file`, which lays out the widest dtypes first and then goes by name: each
    tensor is put where the header has promised it.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in sorted(plan, key=lambda entry: (-RANK[entry.dtype], entry.name)):
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, start + entry.nbytes]}
        start += entry.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    coming = iter(tensors)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in plan:
            file.seek(8 + len(text) + header[entry.name]["data_offsets"][0])
            file.write(_promised(entry, next(coming)))  # no name is left holding it while the next is made


class _Damaged(Exception):
    """Why a header is not believed; caught in this file."""


def _promised(entry: Entry, tensor: Tensor) -> memoryview:
    assert Entry.of(entry.name, tensor) == entry, f"{entry} was promised, but {tensor.dtype} {tuple(tensor.shape)} came"
    return _bytes(tensor.detach().to("cpu").contiguous())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Damaged(f"its header has two entries {shown(name)}")
        found[name] = value
    return found


def _span(name: str, said: Any) -> tuple[Entry, int, int]:
    """One entry with the range of bytes that it claims."""
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Damaged(f"its entry {shown(name)} has not just dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Damaged(f"tensor {shown(name)} is of dtype {shown(dtype)}, which safetensors does not have")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > 16:
        raise _Damaged(f"tensor {shown(name)} has the shape {shown(shape)} and offsets {shown(offsets)}")
    entry = Entry(name, dtype, tuple(shape))
    if entry.nbytes != offsets[1] - offsets[0]:
        raise _Damaged(f"tensor {shown(name)} of {dtype} {shown(shape)} claims the bytes {offsets[0]} to {offsets[1]}")
    return entry, offsets[0], offsets[1]


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number <= LARGEST_NUMBER for number in numbers)


def _check_spans(spans: dict[str, tuple[Entry, int, int]], room: int) -> None:
    """Tensors lie one after the other, from the header to the end of the file."""
    reached = 0
    for name, (_, start, stop) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if start != reached:
            raise _Damaged(f"tensor {shown(name)} begins at byte {start}, where {reached} is expected")
        if stop > room:
            raise _Damaged(f"the bytes of tensor {shown(name)} lie past its end")
        reached = stop
    if reached != room:
        raise _Damaged(f"{room - reached} bytes lie behind its last tensor")


def shown(value: Any) -> str:
    """A value of a stranger's file, escaped and cut, so that it fits a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def listed(names: Iterable[str]) -> str:
    """Names of a stranger's file, each escaped and cut; behind the first hundred only their number."""
    names = list(names)
    more = f", and {len(names) - 100} more" if len(names) > 100 else ""
    return ", ".join(name[:200] if name.isprintable() else shown(name) for name in names[:100]) + more
