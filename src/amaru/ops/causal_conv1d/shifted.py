"""The convolution as `taps` shifted products over all tokens at once, in torch.

Every sequence is laid out behind its own taps - 1 earlier inputs, so that a shift never reaches a neighbour:

    s s s x x x x x | s s s x x x        taps = 4; s = initial states, x = tokens
"""

import torch
from torch import Tensor
from torch.nn.functional import silu as apply_silu

from amaru.ops.arguments import at_least_fp32


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
    silu: bool = True,
) -> tuple[Tensor, Tensor | None]:
    (rows, taps), tokens, sequences = weight.shape, len(x), len(cu_seqlens) - 1
    bounds = cu_seqlens.to(x.device)
    before = taps - 1
    each = torch.arange(sequences, device=x.device)
    places = torch.arange(tokens, device=x.device) + before * (1 + each.repeat_interleave(bounds.diff(), output_size=tokens))
    padded = x.new_zeros(tokens + sequences * before, rows).index_copy(0, places, x)
    if initial_states is not None:
        first = bounds[:-1] + before * each  # where each sequence's layout begins
        earlier = first[:, None] + torch.arange(before, device=x.device)
        padded = padded.index_copy(0, earlier.flatten(), initial_states.to(x.dtype).mT.reshape(-1, rows))

    y = _sum_of_shifts(padded, weight, bias)[places - before]
    y = (apply_silu(y) if silu else y).to(x.dtype)
    if not return_states:
        return y, None
    last = bounds[1:] + before * each  # the newest taps - 1 inputs end where the layout of the sequence ends
    return y, padded[last[:, None] + torch.arange(before, device=x.device)].mT.contiguous()


def _sum_of_shifts(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[P, rows] -> [P - taps + 1, rows] in at least float32."""
    dtype = at_least_fp32(padded.dtype)
    length = len(padded) - weight.shape[1] + 1
    total = bias.to(dtype).expand(max(length, 0), -1)
    for shift, column in enumerate(weight.to(dtype).unbind(1)):
        total = torch.addcmul(total, padded[shift : shift + length].to(dtype), column)
    return total
