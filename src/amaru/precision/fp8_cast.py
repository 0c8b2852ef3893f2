"""Numbers as 8-bit floats: E4M3 or E5M2 codes under one scale per tensor, taken from the tensor as it is now (current scaling)."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
SMALLEST_AMAX = 1e-12  # torchao's: below it the scale stops growing, so that zeros have a finite one
PART = 1 << 16  # numbers at once: what lies between two casts stays in the cache


class Scaled(NamedTuple):
    """`codes` (float8, the tensor's shape) mean codes / scale; a scale of NaN says that the tensor was not finite."""

    codes: Tensor
    scale: float


def encode(x: Tensor, kind: torch.dtype) -> Scaled:
    """Scale a tensor so that its largest number becomes the format's largest, and round to nearest, ties to even.

    >>> codes, scale = encode(x, E4M3)     # codes.float() / scale is about x

    x of any floating dtype; the scaling is done in float32, as a GPU does it. What is less than half the smallest code becomes 0.
    """
    scale = scale_for(largest(x), kind)
    codes = torch.empty(x.shape, dtype=kind)
    # No clamp: amax * scale is within two roundings of the format's largest number, and all up to 3 % above rounds to it.
    for part, place in _parts(x, codes):
        place.copy_(part.to(torch.float32).mul(scale))
    return Scaled(codes, scale)


def largest(x: Tensor) -> float:
    """The largest absolute value; NaN or infinity where there is one, 0 of nothing."""
    if not x.numel():
        return 0.0
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()  # a third of the time of abs().amax()
    return max(-low, high)


def scale_for(amax: float, kind: torch.dtype) -> float:
    """What to multiply with, a float32 number: the format's largest over amax; NaN if amax is not finite."""
    if not math.isfinite(amax):
        return math.nan
    return torch.tensor(LARGEST[kind] / max(amax, SMALLEST_AMAX), dtype=torch.float32).item()


def widened(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 codes as numbers of another dtype, which is exact for bfloat16 and all that are wider; NaN codes have no meaning here.

    Both formats are float16 with fewer bits: E5M2 is its upper half, and E4M3 moved by one bit is too small by 2^8, subnormals
    included. This takes a quarter of the time of torch's own conversion.
    """
    numbers = torch.empty(codes.shape, dtype=dtype)
    for part, place in _parts(codes.view(torch.int8), numbers):
        bits = part.to(torch.int16)
        if codes.dtype is E5M2:
            place.copy_((bits << 8).view(torch.float16).to(torch.float32))  # float16 to bfloat16 in one step is slower
        else:  # the sign was carried into bit 14 as well
            place.copy_((bits << 7).bitwise_and_(~(1 << 14)).view(torch.float16).to(torch.float32).mul_(256.0))
    return numbers


def _parts(source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(source.reshape(-1).split(PART), target.view(-1).split(PART), strict=True)
