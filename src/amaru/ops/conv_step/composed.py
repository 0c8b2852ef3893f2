"""The step as the op of longer sequences: the oracle of the kernel, and what serves where there is none."""

from torch import Tensor

from amaru.ops.causal_conv1d import causal_conv1d


def conv_step(x: Tensor, conv: Tensor, slots: Tensor, fresh: Tensor, weight: Tensor, bias: Tensor, bounds: Tensor) -> Tensor:
    held = conv[slots].masked_fill(fresh[:, None, None], 0)
    y, held = causal_conv1d(x, weight.squeeze(1), bias, cu_seqlens=bounds, initial_states=held, return_states=True)
    assert held is not None
    conv[slots] = held.to(conv.dtype)
    return y
