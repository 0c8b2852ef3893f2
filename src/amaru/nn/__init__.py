"""Layers: each config beside its module, the batch they all take, and the state they keep.

Lives here: one mixer per file, norms, the seam for linear layers. Not here: whole models (`models`), kernels
(`ops`). Imports ops, axes, config and errors.
"""

from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Probe, Reading
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

__all__ = ["MLP", "Attention", "Batch", "LayerConfig", "Mamba2", "MoE", "Probe", "Reading"]
