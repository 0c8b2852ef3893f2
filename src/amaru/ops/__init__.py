"""The numerical core: ops, each one public function with a readable reference and faster backends.

Here live functions of tensors; parameters and state pools do not. Imports torch and `amaru.errors`, nothing above.
"""

from amaru.ops import (
    add,
    attention,
    causal_conv1d,
    conv_step,
    gated_rmsnorm,
    gated_silu,
    head_loss,
    linear,
    mamba2_step,
    page_write,
    paged_attention,
    quantised_linear,
    rms_norm,
    rotary,
    selective_scan,
    selective_step,
    squared_relu,
    ssd,
)
from amaru.ops.backends import explain
from amaru.ops.exactness import exact

__all__ = [
    "add",
    "attention",
    "causal_conv1d",
    "conv_step",
    "exact",
    "explain",
    "gated_rmsnorm",
    "gated_silu",
    "head_loss",
    "linear",
    "mamba2_step",
    "page_write",
    "paged_attention",
    "quantised_linear",
    "rms_norm",
    "rotary",
    "selective_scan",
    "selective_step",
    "squared_relu",
    "ssd",
]
