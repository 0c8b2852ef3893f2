"""Projections in FP8 on a GPU: torchao's float8 training, which is an optional dependency."""

import importlib
import importlib.util

from torch import nn

from amaru.errors import BackendError
from amaru.nn.linear import Linear


def torchao_linear(linear: Linear, emulate: bool = False) -> nn.Module:
    """`torchao_linear(linear)(x)`: `Fp8Linear` by the matrix units of a GPU, with the very parameters of `linear`.

    torchao's default is our recipe: E4M3 weights and activations, E5M2 gradients, one current scale per tensor, wide sums in the
    backward products. Tokens are padded with zeros to a multiple of 16 where they are none. `emulate` is torchao's own emulation.
    Raises `BackendError` when torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise BackendError("FP8 on a GPU needs torchao, which is not installed; install it with: pip install 'amaru[fp8]'.")
    float8 = importlib.import_module("torchao.float8")
    rows, cols = linear.weight.shape
    plain = nn.Linear(cols, rows, bias=False, device="meta")
    plain.weight = linear.weight
    plain.register_parameter("bias", linear.bias)
    return float8.convert_to_float8_training(plain, config=float8.Float8LinearConfig(pad_inner_dim=True, emulate=emulate))
