"""What a Mamba-2 layer brings to its step besides the token and the state."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """conv_weight [rows, 1, taps], conv_bias [rows]; dt_bias, A_log, D [heads]; norm_weight [inner]; eps of the norm."""

    conv_weight: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    norm_weight: Tensor
    groups: int
    eps: float
    time_step_limit: tuple[float, float]
