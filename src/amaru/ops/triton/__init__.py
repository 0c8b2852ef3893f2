"""The kernels for CUDA GPUs, in Triton (float32 and bfloat16), compiled by it when first run.

Here live their sources and what loads and starts them; the wrapper of each lives beside its op. Only the sources import triton.
"""

from amaru.ops.triton.library import blocks, boundaries, kernels, lacks, launch, one_each, operands, power_of_two, refusal

__all__ = ["blocks", "boundaries", "kernels", "lacks", "launch", "one_each", "operands", "power_of_two", "refusal"]
