"""The header of a GGUF file, parsed so that no length in it is believed before it is checked against the file."""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from amaru.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes; where tensors begin, unless general.alignment says another

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # as `struct` has them
TEXT, LIST = 8, 9

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
BLOCKS = {F32: (1, 4), F16: (1, 2), BF16: (1, 2), Q8_0: (32, 34)}  # numbers in a block, and its bytes
MOST_DIMENSIONS = 4


class Entry(NamedTuple):
    """One tensor: its shape outermost first, its type, where its bytes begin, and how many they are."""

    shape: tuple[int, ...]
    kind: int
    start: int
    length: int


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF file does."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """`values, tensors = read_header(path)`; raises `CheckpointError` naming what is cut short, damaged or not known."""
    if not path.is_file():
        raise CheckpointError(f"There is no GGUF file {path}.")
    if not is_gguf(path):
        raise CheckpointError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}.")
    with open(path, "rb") as file:
        try:
            return _Header(file, path.stat().st_size).read()
        except (ValueError, struct.error) as error:
            raise CheckpointError(f"{path} is cut short or damaged: {error}.") from None


class _Header:
    """Reads field after field; `ValueError` for one that cannot be."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        self.take(len(MAGIC))
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, and {' and '.join(map(str, VERSIONS))} are known")
        tensor_count, value_count = self.number("Q"), self.number("Q")
        values = {self.text(): self.value(self.number("I")) for _ in range(value_count)}
        described = [self.description() for _ in range(tensor_count)]
        alignment = values.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"its general.alignment is {str(alignment)[:80]}")
        begin = self.file.tell() + -self.file.tell() % alignment
        return values, {name: self.placed(name, entry, begin) for name, entry in described}

    def take(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise ValueError(f"{count} bytes are announced at {self.file.tell()}, and it has {self.size}")
        return self.file.read(count)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        return self.several(self.number("I")) if kind == LIST else self.text_of(kind)

    def text_of(self, kind: int) -> str:
        if kind != TEXT:
            raise ValueError(f"a value has type {kind}, which is not known")
        return self.text()

    def several(self, kind: int) -> list[Any]:
        count = self.number("Q")
        if kind not in NUMBERS:
            return [self.text_of(kind) for _ in range(count)]
        width = struct.calcsize(f"<{NUMBERS[kind]}")
        return list(struct.unpack(f"<{count}{NUMBERS[kind]}", self.take(count * width)))

    def description(self) -> tuple[str, Entry]:
        """Name, dimensions innermost first, type, and the place counted from where tensors begin."""
        name, dimensions = self.text(), self.number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        kind = self.number("I")
        if kind not in BLOCKS:
            raise ValueError(f"tensor {name} has type {kind}; amaru reads f32, f16, bf16 and q8_0")
        numbers, width = BLOCKS[kind]
        return name, Entry(shape, kind, self.number("Q"), math.prod(shape) // numbers * width)

    def placed(self, name: str, entry: Entry, begin: int) -> Entry:
        end = begin + entry.start + entry.length
        if end > self.size:
            raise ValueError(f"the bytes of tensor {name} end at {end}, and it has {self.size}")
        return entry._replace(start=begin + entry.start)
