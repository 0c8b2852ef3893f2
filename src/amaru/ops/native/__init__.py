"""The C++ kernels for the CPU (float32 and bfloat16), compiled on this machine when first needed.

Here live the sources, their compilation and how they are called; the wrapper of each lives beside its op.
"""

from amaru.ops.native.library import call, kernel, lacks, refusal, short, token_rows

__all__ = ["call", "kernel", "lacks", "refusal", "short", "token_rows"]
