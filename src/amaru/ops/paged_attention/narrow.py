"""Keys and values in 8 bits: codes in floating point (E4M3), and a power of two for each head of a place.

No calibration is needed and nothing is cut off: the largest channel of a head lies between half of the largest code and that code, and
a power of two changes no digit of the others.
"""

import torch
from torch import Tensor

NARROW = torch.float8_e4m3fn
LARGEST = 448.0


def narrowed(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., channels] -> codes float8_e4m3fn [..., channels] and scales bfloat16 [...]; what is not finite becomes NaN."""
    exponent = torch.frexp(x.abs().amax(-1).float() / LARGEST).exponent
    scales = exponent.float().exp2().bfloat16()
    return (x.float() / scales[..., None].float()).to(NARROW), scales


def widened(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """What they mean, exact in bfloat16 and everything wider."""
    return codes.to(dtype) * scales[..., None].to(dtype)
