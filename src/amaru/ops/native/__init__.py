"""The C++ kernels for the CPU (float32 and bfloat16), compiled on this machine when first needed.

Here live the sources, their compilation and how they are called; the wrapper of each lives beside its op.
"""

from amaru.ops.native.library import call, kernel, lacks, refusal, short, token_rows
from amaru.ops.native.program import Program, Recording

__all__ = ["Program", "Recording", "call", "kernel", "lacks", "refusal", "short", "token_rows"]
