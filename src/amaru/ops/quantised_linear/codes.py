"""How 4-bit codes lie in bytes, so that an instruction finds sixty-four of them, four of each of sixteen groups, in place."""

import torch
from torch import Tensor

GROUP, BLOCK = 32, 512  # columns that share a scale; columns that are laid out together (native/quantised_linear.cpp)
ZERO = 8  # the code of 0


def pack(codes: Tensor) -> Tensor:
    """uint8 [rows, cols] of numbers 0 to 15 -> uint8 [rows, width / 2], width being cols rounded up to whole blocks."""
    rows, cols = codes.shape
    width = -(-cols // BLOCK) * BLOCK
    padded = codes.new_full((rows, width), ZERO)
    padded[:, :cols] = codes
    steps = padded.view(rows, -1, BLOCK // GROUP, GROUP // 4, 4).transpose(2, 3).reshape(rows, -1, 4, 2, 64)
    return (steps[:, :, :, 0] | steps[:, :, :, 1] << 4).reshape(rows, width // 2)


def unpack(packed: Tensor, cols: int) -> Tensor:
    """The inverse: uint8 [rows, cols]."""
    rows = len(packed)
    pairs = packed.view(rows, -1, 4, 1, 64)
    steps = torch.cat([pairs & 15, pairs >> 4], dim=3).view(rows, -1, GROUP // 4, BLOCK // GROUP, 4)
    return steps.transpose(2, 3).reshape(rows, -1)[:, :cols]
