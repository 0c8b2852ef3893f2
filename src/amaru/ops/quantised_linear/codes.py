"""How weights in fewer bits are stored: three kinds, told apart by the dtype of their codes, and how 4-bit codes lie in bytes."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import ConfigError

LANE, BLOCK = 32, 512  # columns of 4 bits that lie together, and in a block of sixteen such lanes (native/codes.h)
GROUPS = (32, 64, 128)  # columns of 4 bits that may share a scale
ZERO = 8  # the 4-bit code of 0


class Kind(IntEnum):
    """Of codes; the numbers are those of native/codes.h."""

    INT4 = 4
    INT8 = 8
    FP8 = 43


class Encoding(NamedTuple):
    """`Encoding(Kind.INT4, group=64)`: what numbers become; `group` columns share a scale in 4 bits, all columns of a row in 8."""

    kind: Kind
    group: int = GROUPS[0]

    def __str__(self) -> str:
        return f"int4, {self.group} to a scale" if self.kind is Kind.INT4 else self.kind.name.lower()

    def stored(self, rows: int, cols: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of [rows, cols] numbers, on the meta device: their shapes and dtypes."""
        with torch.device("meta"):
            if self.kind is Kind.INT4:
                width = width_of(cols)
                return torch.empty(rows, width // 2, dtype=torch.uint8), torch.empty(rows, width // self.group, dtype=torch.bfloat16)
            return torch.empty(rows, cols, dtype=DTYPES[self.kind]), torch.empty(rows)

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor) -> "Encoding":
        """Of what is stored."""
        kind = KINDS[codes.dtype]
        return cls(kind, group_of(codes, scales)) if kind is Kind.INT4 else cls(kind)


KINDS = {torch.uint8: Kind.INT4, torch.int8: Kind.INT8, torch.float8_e4m3fn: Kind.FP8}
DTYPES = {kind: dtype for dtype, kind in KINDS.items()}


def width_of(cols: int) -> int:
    """Columns of 4-bit codes that are stored: whole blocks."""
    return -(-cols // BLOCK) * BLOCK


def group_of(codes: Tensor, scales: Tensor) -> int:
    """Columns that share a scale; codes of 8 bits have one for the whole row."""
    return 2 * codes.shape[1] // max(1, scales.shape[-1]) if codes.dtype is torch.uint8 else codes.shape[1]


def check_codes(codes: Tensor, scales: Tensor, cols: int) -> None:
    """Raise `ConfigError` unless these are codes and scales of rows of `cols` numbers."""
    rows, width = len(codes), width_of(cols)
    eight = codes.dtype in (torch.int8, torch.float8_e4m3fn) and codes.shape == (rows, cols)
    four = codes.dtype is torch.uint8 and codes.shape == (rows, width // 2)
    grouped = any(scales.shape == (rows, width // group) for group in GROUPS)
    if not (eight and scales.dtype is torch.float32 and scales.shape == (rows,)) and not (
        four and scales.dtype is torch.bfloat16 and grouped
    ):
        some = f"{width} / {', '.join(map(str, GROUPS[:-1]))} or {GROUPS[-1]}"
        raise ConfigError(
            f"{cols} columns are int8 or float8_e4m3fn [rows, {cols}] with float32 scales [rows], or uint8 [rows, {width // 2}] with "
            f"bfloat16 scales [rows, {some}]; got {codes.dtype} {list(codes.shape)} and {scales.dtype} {list(scales.shape)}."
        )


def pack(codes: Tensor) -> Tensor:
    """uint8 [rows, cols] of numbers 0 to 15 -> uint8 [rows, width / 2], width being cols rounded up to whole blocks.

    An instruction then finds sixty-four codes, four of each of sixteen lanes, in place.
    """
    rows, cols = codes.shape
    width = width_of(cols)
    padded = codes.new_full((rows, width), ZERO)
    padded[:, :cols] = codes
    steps = padded.view(rows, -1, BLOCK // LANE, LANE // 4, 4).transpose(2, 3).reshape(rows, -1, 4, 2, 64)
    return (steps[:, :, :, 0] | steps[:, :, :, 1] << 4).reshape(rows, width // 2)


def unpack(packed: Tensor, cols: int) -> Tensor:
    """The inverse: uint8 [rows, cols]."""
    rows = len(packed)
    pairs = packed.view(rows, -1, 4, 1, 64)
    steps = torch.cat([pairs & 15, pairs >> 4], dim=3).view(rows, -1, LANE // 4, BLOCK // LANE, 4)
    return steps.transpose(2, 3).reshape(rows, -1)[:, :cols]
