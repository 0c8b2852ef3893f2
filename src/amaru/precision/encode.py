"""Numbers become codes: 8 bits with a scale for each row, 4 bits with one for each group of columns."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.quantised_linear import BLOCK, GROUP, pack

# Of the scale at which the largest number of a group is the largest code: what is lost there may be less than what the others gain.
TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def encode(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight [rows, cols], as `quantised_linear` takes them.

    >>> codes, scales = encode(linear.weight, bits=4)

    8 bits: codes -127 to 127, the largest of each row at its end. 4 bits: codes -8 to 7; of several scales for each group the one
    that leaves the least squared error. Raises `ConfigError` for other bits and for weights that are not finite.
    """
    if bits not in (4, 8):
        raise ConfigError(f"Weights are quantised to 4 or 8 bits; got {bits}.")
    if not weight.isfinite().all():
        raise ConfigError(f"A weight {list(weight.shape)} holds numbers that are not finite; it cannot be quantised.")
    return (_eight if bits == 8 else _four)(weight.detach().float())


def _eight(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round().to(torch.int8), scales


def _four(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows, cols = weight.shape
    width = -(-cols // BLOCK) * BLOCK
    groups = torch.nn.functional.pad(weight, (0, width - cols)).view(rows, -1, GROUP)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    whole = -largest / 8  # of that sign at which the largest number is -8, the code that has no opposite
    best, codes, scales = torch.full_like(largest, torch.inf), torch.zeros_like(groups), torch.zeros_like(largest)
    for part in TRIED:
        scale = (part * whole).bfloat16().float()
        tried = (groups / torch.where(scale == 0, 1, scale)).round().clamp(-8, 7)
        error = (tried * scale - groups).square().sum(2, keepdim=True)
        better = error < best
        best, codes, scales = torch.where(better, error, best), torch.where(better, tried, codes), torch.where(better, scale, scales)
    numbers = (codes + 8).to(torch.uint8).view(rows, width)[:, :cols]
    return pack(numbers), scales.squeeze(2).bfloat16()
